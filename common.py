"""What the six scripts share: model and tokenizer, prompts, precision, random streams.

Nothing here is an algorithm: sampling, rewards, advantages, losses and updates live in the scripts.
"""

import math
import random
from pathlib import Path

from runtime import hub

import torch
import transformers

from countdown_task import InputError, prompt_text

transformers.utils.logging.disable_progress_bar()

HERE = Path(__file__).resolve().parent
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = ("auto", "float32", "bfloat16")


def load_model(name):
    """(model, tokenizer) from a folder or hub id. fp32 master weights, dropout off.

    A model from elsewhere runs no code of its own: its classes are transformers', its weights are
    safetensors, its chat template is run in transformers' sandbox.
    """
    source, local_only = hub.find(name)
    safe = {"trust_remote_code": False, "local_files_only": local_only}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **safe)
        model, loading = transformers.AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **safe
        )
    except Exception as error:  # there is nothing that such files cannot raise
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise InputError(
            f"--model {name}: neither a model folder nor a hub id that loads ({reason})"
        ) from error
    vocabulary = model.get_input_embeddings().num_embeddings
    eos = tokenizer.eos_token_id
    if eos is None or not 0 <= eos < vocabulary:
        raise InputError(f"--model {name}: it has no end-of-sequence token among its {vocabulary}")
    if loading["missing_keys"]:
        raise InputError(f"--model {name}: its files lack {min(loading['missing_keys'])}")
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise InputError(f"--model {name}: some of its weights are not finite")
    return model.to(DEVICE).eval(), tokenizer


def uses_bf16(config):
    """`auto`: bfloat16 on a GPU that computes in it; the weights stay float32 everywhere."""
    on_gpu = DEVICE.type == "cuda"
    has_bf16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    return config.dtype == "bfloat16" or (config.dtype == "auto" and has_bf16)


def autocast(config):
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=uses_bf16(config))


def encode_prompts(model, tokenizer, problems, config):
    """Token ids of each prompt, a list of P lists, ending in the opening <think>.

    InputError if a prompt leaves less room than max_new_tokens in the model's context.
    """
    check_size(len(problems) * config.group_size, config)
    try:
        encoded = [prompt_ids(tokenizer, prompt_text(problem)) for problem in problems]
    except Exception as error:  # a chat template is somebody else's program
        raise InputError(f"--model {config.model}: its chat template fails: {error}") from error
    vocabulary = model.get_input_embeddings().num_embeddings
    if max(max(ids) for ids in encoded) >= vocabulary:
        raise InputError(f"--model {config.model}: its tokenizer has more tokens than it")
    longest = max(map(len, encoded))
    context = getattr(model.config, "max_position_embeddings", None) or math.inf
    if longest + config.max_new_tokens > context:
        raise InputError(
            f"--max_new_tokens {config.max_new_tokens}: a prompt of {longest} tokens leaves room "
            f"for {max(context - longest, 0)} in the model's context of {context}"
        )
    return encoded


def check_size(completions, config):
    """InputError if so many completions of max_new_tokens each are too many at once."""
    tokens = completions * config.max_new_tokens
    if tokens >= 2**31:
        names = "--prompts_per_step x --group_size x --max_new_tokens"
        raise InputError(f"{names}: {tokens} tokens at once are too many")


def prompt_ids(tokenizer, text):
    """Token ids of one prompt: BOS once at most, <think> opened once, no EOS."""
    if tokenizer.chat_template:
        chat = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        opening = "" if text.rstrip().endswith("<think>") else "<think>"
        ids = tokenizer.encode(text + opening, add_special_tokens=False)  # the template added them
    else:
        ids = tokenizer.encode(text + "\n<think>")
    if tokenizer.bos_token_id is not None and ids[:2] == [tokenizer.bos_token_id] * 2:
        ids = ids[1:]  # from a template that writes it beside one that adds it
    return ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids


def stream(*key):
    """A random.Random of its own for every (seed, purpose, step): nothing to save or restore."""
    return random.Random(" ".join(map(str, key)))


def torch_stream(*key):
    """The same for torch: a generator on the CPU, whatever the device."""
    return torch.Generator().manual_seed(stream(*key).getrandbits(63))

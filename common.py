"""What the six scripts share: model and tokenizer, prompts, precision, random streams.

Nothing here is an algorithm: sampling, rewards, advantages, losses and updates live in the scripts.
"""

import math
import random
from pathlib import Path

from runtime import chat, hub, model_files

import torch
import transformers

from tasks import InputError

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
    source = model_files.model_of_run(source)
    safe = {"trust_remote_code": False, "local_files_only": local_only}
    try:
        model_files.check(source)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **safe)
        model_files.check_eos(source, tokenizer)
        written, _ = transformers.PretrainedConfig.get_config_dict(source, **safe)
        model_files.check_config(written)
        model, loading = transformers.AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **safe
        )
        model_files.check_weights(model, loading["missing_keys"])
        chat.set_end_ids(model, tokenizer, written)
    except InputError as error:
        raise InputError(f"--model {name}: {error}") from error
    except Exception as error:  # there is nothing that such files cannot raise
        raise InputError(f"--model {name}: {model_files.why(error, source)}") from error
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
    texts = [problem.prompt() for problem in problems]
    try:
        encoded = [chat.prompt_ids(tokenizer, text) for text in texts]
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


def is_end(ids, model):
    """Which of the ids end a completion, a bool each: load_model says where they come from."""
    ends = torch.tensor(model.generation_config.eos_token_id, dtype=ids.dtype, device=ids.device)
    return torch.isin(ids, ends)


def decode(model, tokenizer, ids):
    """Texts of completions (B, T), each up to the token that ended it.

    Other special tokens stay: to some tokenizers <think> and <answer> are special.
    """
    ended = is_end(ids, model).int()
    lengths = torch.where(ended.any(1), ended.argmax(1), ids.shape[1]).tolist()
    rows = zip(ids.tolist(), lengths, strict=True)
    return [tokenizer.decode(row[:length]) for row, length in rows]


def stream(*key):
    """A random.Random of its own for every (seed, purpose, step): nothing to save or restore."""
    return random.Random(" ".join(map(str, key)))


def torch_stream(*key):
    """The same for torch: a generator on the CPU, whatever the device."""
    return torch.Generator().manual_seed(stream(*key).getrandbits(63))

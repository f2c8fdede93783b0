"""What the six scripts share: model and tokenizer, prompts, precision, random streams.

Nothing here is an algorithm: sampling, rewards, advantages, losses and updates live in the scripts.
"""

import math
import random
from pathlib import Path

import torch
import transformers

import engine
from countdown_task import InputError, prompt_text

transformers.utils.logging.disable_progress_bar()

HERE = Path(__file__).resolve().parent
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(name):
    """(model, tokenizer) from a folder or hub id. fp32 master weights, dropout off."""
    folder = Path(name) if Path(name).exists() else HERE / name
    source = str(folder) if folder.exists() else name
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, attn_implementation="from_context"
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--model {name}: neither a model folder nor a hub id that loads ({reason})"
        ) from error
    if tokenizer.eos_token_id is None:
        raise InputError(f"--model {name}: its tokenizer has no end-of-sequence token")
    with torch.no_grad():  # a model that the engine cannot run is refused now, not in mid-run
        engine.KVCache(model.to(DEVICE).eval(), [[0, 0]])
    return model, tokenizer


DTYPES = ("auto", "float32", "bfloat16")


def uses_bf16(config):
    """`auto` computes in bfloat16 on CUDA only; the weights stay float32 everywhere."""
    return config.dtype == "bfloat16" or (config.dtype == "auto" and DEVICE.type == "cuda")


def autocast(config):
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=uses_bf16(config))


def encode_prompts(model, tokenizer, problems, config):
    """Token ids of each prompt, a list of P lists, ending in the opening <think>.

    InputError if a prompt leaves less room than max_new_tokens in the model's context.
    """
    encoded = []
    for problem in problems:
        text = prompt_text(problem)
        if tokenizer.chat_template:
            chat = [{"role": "user", "content": text}]
            text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            encoded.append(tokenizer.encode(text + "<think>", add_special_tokens=False))
        else:
            encoded.append(tokenizer.encode(text + "\n<think>"))
    longest = max(map(len, encoded))
    context = getattr(model.config, "max_position_embeddings", None) or math.inf
    if longest + config.max_new_tokens > context:
        raise InputError(
            f"--max_new_tokens {config.max_new_tokens}: a prompt of {longest} tokens leaves room "
            f"for {context - longest} in the model's context of {context}"
        )
    return encoded


def stream(*key):
    """A random.Random of its own for every (seed, purpose, step): nothing to save or restore."""
    return random.Random(" ".join(map(str, key)))


def torch_stream(*key):
    """The same for torch: a generator on the CPU, whatever the device."""
    return torch.Generator().manual_seed(stream(*key).getrandbits(63))

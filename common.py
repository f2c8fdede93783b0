"""What the six scripts share: model and tokenizer, prompts, precision, random streams.

Nothing here is an algorithm: sampling, rewards, advantages, losses and updates live in the scripts.
"""

import math
import random
from pathlib import Path

from runtime import chat, devices, loading

import torch

from tasks import InputError

HERE = Path(__file__).resolve().parent
DTYPES = ("auto", "float32", "bfloat16")
DEVICES = devices.NAMES
DEVICE, MODEL_DEVICE = devices.find("auto")  # of rollouts, of models: not the same on Apple's GPU


def use_device(name):
    """Takes what --device says for all that comes; InputError if this machine has none."""
    global DEVICE, MODEL_DEVICE
    DEVICE, MODEL_DEVICE = devices.find(name)


def load_model(name, config=None):
    """(model, tokenizer) from a folder or hub id. fp32 master weights, dropout off.

    A model from elsewhere runs no code of its own: its classes are transformers', its weights are
    safetensors, its chat template is run in transformers' sandbox.

    config: of the run that trains this model. Where that is adapters (lora.py), the base's weights
    are frozen, in bf16 on a GPU, and in memory once: a reference shares them.
    """
    if config is None:
        return loading.load(name, MODEL_DEVICE)
    low = MODEL_DEVICE.type != "cpu" and uses_bf16(config)
    dtype = torch.bfloat16 if low else torch.float32
    return loading.load(name, MODEL_DEVICE, dtype, config.lora_rank, config.seed)


def uses_bf16(config):
    """`auto`: bfloat16 on a GPU that computes in it; the weights stay float32 everywhere."""
    on_gpu = MODEL_DEVICE.type == "cuda"
    has_bf16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    return config.dtype == "bfloat16" or (config.dtype == "auto" and has_bf16)


def autocast(config):
    return torch.autocast(MODEL_DEVICE.type, torch.bfloat16, enabled=uses_bf16(config))


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

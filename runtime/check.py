"""Is the engine right about a model? Asked once, before a run's first step."""

import math
from types import SimpleNamespace

from runtime import engine
from runtime.attention import NAME
from runtime.kv_cache import require_window

import torch

import common
from tasks import InputError

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5}  # of a log-prob; bf16: as logits round
WINDOWS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}


@torch.no_grad()
def check_model(model, longest):
    """InputError, in one line, if the engine cannot run the model, or rows of `longest` tokens.

    For a few tokens it must find the log-probs that plain code finds. A model may count positions
    from elsewhere, or have layers that mix tokens without attention.
    """
    name = model.config.name_or_path
    low = model.dtype == torch.bfloat16  # the frozen base of adapters, on a GPU
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = torch.randint(vocabulary, (8,), generator=common.torch_stream("check")).tolist()
    prompts = [ids[:2], ids[:5]]  # of different length, and one begins with the other
    completions = [ids[5:8], ids[4:7]]
    try:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=low):
            plain = [  # first: the other two put our attention into the model
                engine.logprobs_plainly(model, prompt, completion, 1.0)
                for prompt, completion in zip(prompts, completions, strict=True)
            ]
            cache = engine.start_decoding(model, prompts)
            sampled = decoded_logprobs(model, cache, prompts, completions)
            learnt = learnt_logprobs(model, prompts, completions)
        require_window(longest, min(cache.window, window_of(model)))
        require_one_rope(model, longest)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except InputError as error:
        raise InputError(f"--model {name}: {error}") from error
    except Exception as error:  # there is nothing that a model's code cannot raise
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        if NAME in reason:
            reason = "its attention cannot be replaced by ours"
        raise InputError(f"--model {name}: its forward pass fails ({reason})") from error
    plain = torch.stack(plain).to(common.DEVICE)
    off = torch.stack([(found - plain).abs().max() for found in (sampled, learnt)]).max().item()
    if not off <= TOLERANCE[model.dtype]:  # or it is not a number
        raise InputError(
            f"--model {name}: a log-prob of ours is off its own by {off:.2g}, so training would be "
            "wrong: something else in it than attention mixes tokens, or counts their positions"
        )


def decoded_logprobs(model, cache, prompts, completions):
    """Log-probs (b, T) of b completions of T tokens each, as the sampler would find them."""
    read = [prompt[-1] for prompt in prompts]
    logprobs = []
    for tokens in zip(*completions, strict=True):
        logits = cache.decode(model, torch.tensor(read, device=common.DEVICE)[:, None])  # (b, V)
        logprobs.append(logits.float().log_softmax(-1)[range(len(tokens)), tokens])
        read = tokens
    return torch.stack(logprobs, 1)


def learnt_logprobs(model, prompts, completions):
    """The same as an update would find them."""
    ids = torch.tensor(completions, device=common.DEVICE)
    rollout = SimpleNamespace(prompts=prompts, completion_ids=ids, mask=torch.ones_like(ids))
    logits, prefix = engine.completion_logits(model, rollout, list(range(len(prompts))))
    return engine.log_softmax_at(logits, prefix, ids, 1.0)


def window_of(model):
    """Tokens that a model's attention looks back, by its configuration; inf: all."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ()
    if not kinds and getattr(config, "use_sliding_window", True):  # then it is all layers'
        kinds = ("sliding_attention",)
    sizes = [getattr(config, option, None) for kind, option in WINDOWS.items() if kind in kinds]
    return min(filter(None, sizes), default=math.inf)


def require_one_rope(model, longest):
    """InputError if a row of `longest` tokens has its positions encoded unlike a shorter one.

    Some models change all angles once a row is long: the cache has keys of before, and the longest
    row of a micro-batch decides for all.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    for one in (rope, *(kind for kind in rope.values() if isinstance(kind, dict))):
        if one.get("rope_type") not in ("longrope", "dynamic"):
            continue
        limit = one.get("original_max_position_embeddings") or config.max_position_embeddings
        if longest > limit:
            raise InputError(
                f"beyond {limit} tokens it encodes all positions anew (rope_type "
                f"{one['rope_type']}), and a prompt with a whole completion has {longest}; lower "
                "--max_new_tokens"
            )

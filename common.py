"""What the six scripts share: model and tokenizer, prompts, KV cache, packing, random streams.

Nothing here is an algorithm: sampling, rewards, advantages, losses and updates live in the scripts.
"""

import math
import random
import statistics
from pathlib import Path

import torch
import transformers
from transformers.cache_utils import Cache, DynamicLayer

from countdown_task import InputError, prompt_text

transformers.utils.logging.disable_progress_bar()

HERE = Path(__file__).resolve().parent
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


# -------------------------------------------------------------------------------------------------
# Model, tokenizer, prompts


def load_model(name):
    """(model, tokenizer) from a folder or hub id. fp32 master weights, dropout off."""
    folder = Path(name) if Path(name).exists() else HERE / name
    source = str(folder) if folder.exists() else name
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--model {name}: neither a model folder nor a hub id that loads ({reason})"
        ) from error
    if tokenizer.eos_token_id is None:
        raise InputError(f"--model {name}: its tokenizer has no end-of-sequence token")
    return model.to(DEVICE).eval(), tokenizer


def uses_bf16(config):
    """`auto` computes in bfloat16 on CUDA only; the weights stay float32 everywhere."""
    return config.dtype == "bfloat16" or (config.dtype == "auto" and DEVICE.type == "cuda")


def autocast(config):
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=uses_bf16(config))


def encode_prompts(model, tokenizer, problems, config):
    """Token ids of each prompt, a list of P lists, ending in the opening <think>."""
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


def left_pad(prompts):
    """Lists of ids -> (ids, attention_mask), both (P, L), prompts flush right."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return ids.to(DEVICE), mask.to(DEVICE)


def forward(model, ids, attention_mask, logits_to_keep, cache=None):
    """Logits (b, logits_to_keep, V) of the last positions; positions count unpadded tokens."""
    position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    return model(
        input_ids=ids,
        attention_mask=attention_mask,
        position_ids=position_ids,
        past_key_values=cache,
        use_cache=cache is not None,
        logits_to_keep=logits_to_keep,
    ).logits


def pack_rows(rollout, rows, config):
    """Micro-batches of rows of similar length, each of at most tokens_per_microbatch tokens."""
    prompts = [len(rollout.prompts[row // config.group_size]) for row in rows]
    lengths = (torch.tensor(prompts) + rollout.mask[rows].sum(1).cpu()).int().tolist()
    batch = []
    for length, row in sorted(zip(lengths, rows, strict=True)):
        if batch and (len(batch) + 1) * length > config.tokens_per_microbatch:
            yield batch
            batch = []
        batch.append(row)
    yield batch


class CacheLayer(DynamicLayer):
    """Keys and values (b, heads, length, width) of one layer, in blocks of 64 positions.

    Appending by concatenation would copy the whole past at every token.
    """

    length = 0

    def update(self, keys, values, *args, **kwargs):
        start, self.length = self.length, self.length + keys.shape[2]
        if not self.is_initialized:
            self.keys, self.values, self.is_initialized = keys[:, :, :0], values[:, :, :0], True
        if self.length > self.keys.shape[2]:
            self.keys, self.values = self.grow(self.keys), self.grow(self.values)
        self.keys[:, :, start : self.length] = keys
        self.values[:, :, start : self.length] = values
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def grow(self, old):
        new = old.new_empty(*old.shape[:2], self.length + 64, old.shape[3])
        new[:, :, : old.shape[2]] = old
        return new

    def get_seq_length(self):
        return self.length


class KVCache(Cache):
    """The sampler's cache: prefill P rows, share them out to the groups, drop finished rows."""

    def __init__(self):
        super().__init__(layer_class_to_replicate=CacheLayer)

    def select(self, rows):
        """Keep the given rows (b,), in this order; a row may be named more than once."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]


# -------------------------------------------------------------------------------------------------
# Random streams and metrics


def stream(*key):
    """A random.Random of its own for every (seed, purpose, step): nothing to save or restore."""
    return random.Random(" ".join(map(str, key)))


def torch_stream(*key):
    return torch.Generator().manual_seed(stream(*key).getrandbits(63))


FORK_ENTROPY = 0.5  # nats; a token is a fork if the sampler was less sure than this


class TokenMetrics:
    """Means over the completion tokens of all minibatches; for `ratio` also the extremes."""

    def __init__(self):
        self.sums, self.count, self.extremes, self.grad_norms = {}, 0, [1.0, 1.0], []
        self.forks, self.forks_clipped = 0, 0

    def add(self, metrics, mask, entropy):
        if not mask.any():  # overlong filtering can empty a micro-batch
            return
        self.count += mask.sum().item()
        clipped = metrics["clip_high"] | metrics.get("clip_low", metrics["clip_high"])
        forks = (mask > 0) & (entropy > FORK_ENTROPY)
        self.forks += forks.sum().item()
        self.forks_clipped += (forks & clipped).sum().item()
        for name, values in metrics.items():
            values = values.detach().expand_as(mask)
            self.sums[name] = self.sums.get(name, 0.0) + (values * mask).sum().item()
            if name == "ratio":
                low, high = values[mask > 0].aminmax()
                self.extremes = [
                    min(self.extremes[0], low.item()),
                    max(self.extremes[1], high.item()),
                ]

    def summary(self):
        sums = self.sums or dict.fromkeys(["ratio", "clip_low", "clip_high", "kl_ref", "kl_old"])
        means = {name: None if x is None else x / self.count for name, x in sums.items()}
        low, high = self.extremes if self.sums else (None, None)
        norm = statistics.fmean(self.grad_norms) if self.grad_norms else None
        forks = self.forks_clipped / self.forks if self.forks else None
        found = {**means, "ratio_min": low, "ratio_max": high, "clip_forks": forks}
        return {**found, "grad_norm": norm, "updates": len(self.grad_norms)}


def describe(rollout, rewards, config):
    """What was sampled: rewards (P, G, K), lengths of right and wrong completions, entropy."""
    lengths, right = rollout.mask.sum(1), rollout.correct > 0
    mean = lambda values: values.float().mean().item() if values.numel() else None  # noqa: E731
    weights = torch.tensor(config.reward_weights)
    pooled = (rewards[..., : len(weights)] * weights).sum(-1)
    metrics = {"reward": mean(pooled), "accuracy": mean(rollout.correct)}
    for index, name in enumerate(config.reward_components):
        metrics[f"reward_{name}"] = mean(rewards[..., index])
    return metrics | {
        "length": mean(lengths),
        "length_right": mean(lengths[right]),
        "length_wrong": mean(lengths[~right]),
        "truncated": mean(rollout.truncated),
        "entropy": (rollout.entropy.sum() / rollout.mask.sum()).item(),
        "groups_without_signal": mean(pooled.amax(1) - pooled.amin(1) < 1e-6),
        "completions_sampled": rollout.completions_sampled,
        "tokens_sampled": rollout.tokens_sampled,
    }

"""What the six scripts share: model and tokenizer, prompts, KV cache, packing, random streams.

Nothing here is an algorithm: sampling, rewards, advantages, losses and updates live in the scripts.
"""

import itertools
import math
import random
import statistics
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers

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
        model = transformers.AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, attn_implementation="right_padded"
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--model {name}: neither a model folder nor a hub id that loads ({reason})"
        ) from error
    if tokenizer.eos_token_id is None:
        raise InputError(f"--model {name}: its tokenizer has no end-of-sequence token")
    with torch.no_grad():  # `attention` refuses a model that it does not fit: now, not in mid-run
        forward(model.to(DEVICE).eval(), torch.zeros(1, 1, dtype=torch.long, device=DEVICE))
    return model, tokenizer


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


def right_pad(sequences):
    """Lists of ids -> ids (b, L) with zeros behind them, lengths (b,)."""
    width = max(map(len, sequences))
    ids = torch.tensor([s + [0] * (width - len(s)) for s in sequences])
    return ids.to(DEVICE), torch.tensor([len(s) for s in sequences], device=DEVICE)


def join(prompts, completion_ids):
    """b prompts and completions (b, T) -> ids (b, L + T), and where in them each completion is."""
    ids, lengths = right_pad(prompts)
    where = lengths[:, None] + torch.arange(completion_ids.shape[1], device=DEVICE)  # (b, T)
    return F.pad(ids, (0, completion_ids.shape[1])).scatter(1, where, completion_ids), where


def forward(model, ids, logits_to_keep=1, cache=None):
    """Logits (b, logits_to_keep, V) of the last positions of right-padded ids (b, t).

    With a KVCache, once it has read the prompts: of one more token per row, t = 1.
    """
    if cache is None or cache.positions is None:
        positions = torch.arange(ids.shape[1], device=DEVICE)[None]
    else:
        positions = cache.grow()
    return model(
        input_ids=ids,
        position_ids=positions,
        use_cache=False,  # transformers' own; ours travels to `attention` as `kv_cache`
        logits_to_keep=logits_to_keep,
        kv_cache=cache,
    ).logits


def pack_rows(rollout, rows, config):
    """Micro-batches of rows of similar length, each of at most tokens_per_microbatch tokens.

    Of all ways to cut the rows, sorted by length, the one that computes least: padding counts,
    and a micro-batch costs a twentieth of tokens_per_microbatch before its first token.
    """
    prompts = [len(rollout.prompts[row // config.group_size]) for row in rows]
    lengths = (torch.tensor(prompts) + rollout.mask[rows].sum(1).cpu()).int().tolist()
    rows = sorted(zip(lengths, rows, strict=True))
    budget, best = config.tokens_per_microbatch, [(0, 0)]  # best[n]: (cost, start of the last cut)
    for end, (length, _) in enumerate(rows, 1):
        first = max(0, end - max(1, budget // length))  # the last micro-batch starts here or later
        best.append(
            min((best[i][0] + (end - i) * length + budget / 20, i) for i in range(first, end))
        )
    end, batches = len(rows), []
    while end:
        start = best[end][1]
        batches.append([row for _, row in rows[start:end]])
        end = start
    return batches[::-1]


# -------------------------------------------------------------------------------------------------
# Attention and its cache


def attention(module, query, key, value, attention_mask, scaling=None, kv_cache=None, **kwargs):
    """Causal attention, called by every layer of a transformers model.

    query (b, H, t, d), key and value (b, K, t, d), H a multiple of K -> (b, t, H, d). Rows are
    padded on the right, where causality hides the padding: no mask is needed.
    """
    for name in ("sliding_window", "softcap", "s_aux"):
        if kwargs.get(name) is not None:
            model = module.config.name_or_path
            raise InputError(f"--model {model}: its attention needs {name}, which ours does not do")
    scaling = scaling or query.shape[-1] ** -0.5
    if kv_cache is not None and kv_cache.positions is not None:
        output = kv_cache.attend(module.layer_idx, query * scaling, key, value)
    else:
        if kv_cache is not None:
            kv_cache.add_layer(key, value)
        grouped = query.shape[1] != key.shape[1]
        output = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped
        )
    return output.transpose(1, 2), None


transformers.AttentionInterface.register("right_padded", attention)


class KVCache:
    """The sampler's cache: prefill P prompts, share them out to the groups, drop finished rows.

    A decoding step reads every key and value once and does little else, so that memory sets its
    pace. On a CPU, reading with gaps between the rows costs more than reading the gaps too. Each
    layer therefore has blocks of tokens that are read whole; what is not written yet is masked.
    """

    BLOCK = 32 if DEVICE.type == "cpu" else 256  # tokens; on a GPU each block is one more launch

    def __init__(self, model, prompts):
        """Holds all but the last token of each prompt: that one is the first to be decoded."""
        self.layers = []  # per layer (blocks of keys, blocks of values), each (b, K, tokens, d)
        self.positions = None  # (b, 1) of the newest token; None while the prompts are read
        ids, lengths = right_pad([prompt[:-1] for prompt in prompts])  # (P, L), (P,)
        forward(model, ids, cache=self)
        assert self.layers, "the model lacks our attention: load it with load_model"
        self.positions = lengths[:, None] - 1
        self.free = -ids.shape[1] % self.BLOCK  # tokens that still fit into the last blocks
        columns = torch.arange(ids.shape[1] + self.free, device=DEVICE)
        self.bias = torch.where(columns <= self.positions, 0.0, -math.inf)  # (b, tokens)

    def add_layer(self, key, value):
        """The next layer's keys and values (P, K, L, d) of the prompts."""
        room = (0, 0, 0, -key.shape[2] % self.BLOCK)
        self.layers.append(([F.pad(key.to(value.dtype), room)], [F.pad(value, room)]))

    def select(self, rows):
        """Keep the given rows (b,), in this order; a row may be named more than once."""
        for blocks in itertools.chain(*self.layers):
            blocks[:] = [block.index_select(0, rows) for block in blocks]
        self.positions, self.bias = self.positions[rows], self.bias[rows]

    def grow(self):
        """Make room for one more token per row; its position (b, 1)."""
        if self.free == 0:
            for blocks in itertools.chain(*self.layers):
                b, K, _, d = blocks[0].shape
                blocks.append(blocks[0].new_zeros(b, K, self.BLOCK, d))
            self.bias = F.pad(self.bias, (0, self.BLOCK), value=-math.inf)
            self.free = self.BLOCK
        self.bias[:, -self.free] = 0
        self.free -= 1
        self.positions = self.positions + 1
        return self.positions

    def attend(self, layer, query, key, value):
        """One new token per row: query (b, H, 1, d), key and value (b, K, 1, d) -> (b, H, 1, d)."""
        keys, values = self.layers[layer]
        for block, new in ((keys[-1], key), (values[-1], value)):
            block[:, :, -self.free - 1] = new[:, :, 0]
        query = query.unflatten(1, (key.shape[1], -1)).squeeze(3)  # (b, K, H / K, d)
        scores = torch.cat([query @ block.mT for block in keys], -1)  # (b, K, H / K, tokens)
        scores += self.bias[:, None, None]
        probs = scores.softmax(-1, dtype=torch.float32).split([x.shape[2] for x in keys], -1)
        output = sum(part @ block for part, block in zip(probs, values, strict=True))
        return output.flatten(1, 2)[:, :, None]


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

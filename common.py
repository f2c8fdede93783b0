"""What the six scripts share: model and tokenizer, prompts, KV cache, prefix tree, random streams.

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
            source, dtype=torch.float32, attn_implementation="from_context"
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--model {name}: neither a model folder nor a hub id that loads ({reason})"
        ) from error
    if tokenizer.eos_token_id is None:
        raise InputError(f"--model {name}: its tokenizer has no end-of-sequence token")
    with torch.no_grad():  # a model that does not fit is refused now, not in mid-run
        KVCache(model.to(DEVICE).eval(), [[0, 0]])
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


def right_pad(sequences, fill=0):
    """b lists of ids -> ids (b, L), `fill` behind the shorter ones."""
    width = max(map(len, sequences))
    return torch.tensor([s + [fill] * (width - len(s)) for s in sequences], device=DEVICE)


def pack_rows(rollout, rows, config):
    """Micro-batches of neighbouring rows, each of at most tokens_per_microbatch or of one row.

    Counts completions, and a group's prompt once: what PrefixTree computes at most.
    """
    lengths, batches, tokens = rollout.mask.sum(1).int().tolist(), [], 0
    for row in rows:
        group = row // config.group_size
        alone = lengths[row] + len(rollout.prompts[group])
        shares_prompt = batches and batches[-1][-1] // config.group_size == group
        tokens += lengths[row] if shares_prompt else alone
        if not batches or tokens > config.tokens_per_microbatch:
            batches.append([])
            tokens = alone
        batches[-1].append(row)
    return batches


# -------------------------------------------------------------------------------------------------
# Forward passes: one token per row, or whole rows


def forward(model, ids, positions, context, logits_to_keep=0):
    """Logits (b, t, V) of ids (b, t), or of the last columns; context.attend does the attention."""
    found = model.config._attn_implementation
    assert found == "from_context", f"{found} is not our attention: load the model with load_model"
    return model(
        input_ids=ids,
        position_ids=positions,
        use_cache=False,  # transformers' own
        logits_to_keep=logits_to_keep,
        context=context,  # travels through the layers to `attention`
    ).logits


def attention(module, query, key, value, attention_mask, scaling=None, context=None, **kwargs):
    """What every layer of a transformers model calls in place of its own attention.

    query (b, H, t, d), key and value (b, K, t, d), H a multiple of K -> (b, t, H, d).
    """
    for name in ("sliding_window", "softcap", "s_aux"):
        if kwargs.get(name) is not None:
            model = module.config.name_or_path
            raise InputError(f"--model {model}: its attention needs {name}, which ours does not do")
    scaling = scaling or query.shape[-1] ** -0.5
    if context is None:
        output = causal_attention(query, key, value, scaling)
    else:
        output = context.attend(module.layer_idx, query, key, value, scaling)
    return output.transpose(1, 2), None


transformers.AttentionInterface.register("from_context", attention)


def causal_attention(query, key, value, scaling):
    """query (b, H, t, d), key and value (b, K, t, d) -> (b, H, t, d).

    Rows are padded on the right, where causality hides the padding: no mask is needed.
    """
    grouped = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped
    )


class KVCache:
    """The sampler's cache: prefill P prompts, share them out to the groups, drop finished rows.

    A decoding step reads every key and value once and does little else, so that memory sets its
    pace. On a CPU, reading with gaps between the rows costs more than reading the gaps too. Each
    layer therefore has blocks of tokens that are read whole; what is not written yet is masked.
    """

    BLOCK = 32 if DEVICE.type == "cpu" else 256  # tokens; on a GPU each block is one more launch

    def __init__(self, model, prompts):
        """Holds all but the last token of each prompt: that one is the first to be decoded."""
        self.layers = {}  # layer: (blocks of keys, blocks of values), each (b, K, tokens, d)
        ids = right_pad([prompt[:-1] for prompt in prompts])  # (P, L)
        forward(model, ids, torch.arange(ids.shape[1], device=DEVICE)[None], self, 1)
        layers = model.config.get_text_config().num_hidden_layers
        if len(self.layers) != layers:
            raise InputError(
                f"--model {model.config.name_or_path}: ours can replace the attention of "
                f"{len(self.layers)} of its {layers} layers, and needs all of them"
            )
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=DEVICE)
        self.positions = lengths[:, None] - 2  # (b, 1) of the newest token
        self.free = -ids.shape[1] % self.BLOCK  # tokens that still fit into the last blocks
        columns = torch.arange(ids.shape[1] + self.free, device=DEVICE)
        self.bias = torch.where(columns <= self.positions, 0.0, -math.inf)  # (b, tokens)

    def select(self, rows):
        """Keep the given rows (b,), in this order; a row may be named more than once."""
        for blocks in itertools.chain(*self.layers.values()):
            blocks[:] = [block.index_select(0, rows) for block in blocks]
        self.positions, self.bias = self.positions[rows], self.bias[rows]

    def decode(self, model, token):
        """Read one more token per row, (b, 1) -> logits (b, V) of the next."""
        if self.free == 0:
            for blocks in itertools.chain(*self.layers.values()):
                b, K, _, d = blocks[0].shape
                blocks.append(blocks[0].new_zeros(b, K, self.BLOCK, d))
            self.bias = F.pad(self.bias, (0, self.BLOCK), value=-math.inf)
            self.free = self.BLOCK
        self.bias[:, -self.free] = 0
        self.free -= 1
        self.positions = self.positions + 1
        return forward(model, token, self.positions, self)[:, -1]

    def attend(self, layer, query, key, value, scaling):
        """The prompts, (P, H, L, d), or one new token per row, (b, H, 1, d)."""
        if layer not in self.layers:
            room = (0, 0, 0, -key.shape[2] % self.BLOCK)
            self.layers[layer] = [F.pad(key.to(value.dtype), room)], [F.pad(value, room)]
            return causal_attention(query, key, value, scaling)
        keys, values = self.layers[layer]
        for block, new in ((keys[-1], key), (values[-1], value)):
            block[:, :, -self.free - 1] = new[:, :, 0]
        query = (query * scaling).unflatten(1, (key.shape[1], -1)).squeeze(3)  # (b, K, H / K, d)
        scores = torch.cat([query @ block.mT for block in keys], -1)  # (b, K, H / K, tokens)
        scores += self.bias[:, None, None]
        probs = scores.softmax(-1, dtype=torch.float32).split([x.shape[2] for x in keys], -1)
        output = sum(part @ block for part, block in zip(probs, values, strict=True))
        return output.flatten(1, 2)[:, :, None]


class PrefixTree:
    """All tokens of many rows at once, every distinct prefix computed once.

    The rows of a group share their prompt, and often a completion's first words or all of it. What
    a model computes at a token follows from the tokens up to it alone. So each distinct prefix is a
    node, and every layer sees the N nodes as one long row without padding; only attention sees rows
    again, filled from the nodes. Prefix Grouper (arXiv:2506.05433) does so for prompts.
    """

    def __init__(self, rollout, rows, config):
        prompts = [rollout.prompts[row // config.group_size] for row in rows]
        lengths = rollout.mask[rows].sum(1).int().tolist()
        parts = zip(prompts, rollout.completion_ids[rows].tolist(), lengths, strict=True)
        # Without a completion's last token, which predicts nothing.
        ids = right_pad([prompt + tokens[: max(n - 1, 0)] for prompt, tokens, n in parts], fill=-1)

        # In sorted rows, a prefix that occurred before is also the row above's: no new node.
        ids, row = ids.unique(dim=0, return_inverse=True)  # (u, L), (b,)
        known = F.pad((ids[1:] == ids[:-1]).cumprod(1), (0, 0, 1, 0)) > 0
        is_new = (ids >= 0) & ~known
        number = is_new.flatten().cumsum(0).view_as(ids) - 1
        node = torch.where(is_new, number, 0).cummax(0).values  # (u, L) of every prefix
        origin, column = is_new.nonzero(as_tuple=True)  # (N,) where each node is new
        self.ids, self.positions = ids[None, origin, column], column[None]  # (1, N)

        # The (n,) nodes at which a completion token is predicted, and which of them it is (b, T').
        first = torch.tensor([[len(prompt) - 1] for prompt in prompts], device=DEVICE)
        places = first + torch.arange(max(lengths), device=DEVICE)
        places = places.clamp(max=ids.shape[1] - 1)  # off the mask any will do
        self.kept, self.states = node[row].gather(1, places).unique(return_inverse=True)

        # Attention's rows, those of similar length side by side: the nodes that fill them, and
        # where among them each node is found again.
        lengths = (ids >= 0).sum(1).tolist()
        self.shapes, nodes, begin, end = [], [], torch.zeros_like(ids[:, 0]), 0
        by_length = sorted(range(len(ids)), key=lengths.__getitem__)
        for _, alike in itertools.groupby(by_length, lambda i: int(math.log(lengths[i], 4 / 3))):
            alike = list(alike)
            shape = len(alike), lengths[alike[-1]]
            self.shapes.append(shape)
            nodes.append(node[alike, : shape[1]].flatten())
            begin[alike] = end + shape[1] * torch.arange(shape[0], device=DEVICE)
            end += math.prod(shape)
        self.nodes = torch.cat(nodes)  # (M,)
        self.home = begin[origin] + column  # (N,)

    def forward(self, model):
        """Logits (n, V) of the nodes at which a completion token is predicted."""
        return forward(model, self.ids, self.positions, self, self.kept)[0]

    def attend(self, layer, query, key, value, scaling):
        """Of nodes: query (1, H, N, d), key and value (1, K, N, d) -> (1, H, N, d)."""

        def to_rows(x):
            filled = x[0].transpose(0, 1).index_select(0, self.nodes)  # (M, H, d)
            parts = filled.split([math.prod(shape) for shape in self.shapes])
            return [
                part.unflatten(0, shape).transpose(1, 2)  # (b, H, t, d)
                for part, shape in zip(parts, self.shapes, strict=True)
            ]

        outputs = [
            causal_attention(*part, scaling).transpose(1, 2).flatten(0, 1)  # (b * t, H, d)
            for part in zip(to_rows(query), to_rows(key), to_rows(value), strict=True)
        ]
        return torch.cat(outputs).index_select(0, self.home).transpose(0, 1)[None]


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

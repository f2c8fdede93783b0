"""The forward passes, fast: sampling with a cache, and log-probs of many rows at once.

What they compute stands first, plainly, one row at a time on any transformers model. Skip the rest
at first: it gives the same numbers for many rows at once, and tests/core/test_engine.py holds it to
the two plain functions.
"""

import itertools
import math

from runtime.attention import causal_attention, forward
from runtime.cuda_graphs import GraphCache
from runtime.kv_cache import KVCache, require_window, right_pad

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

# ---- What is computed, plainly ------------------------------------------------------------------


@torch.no_grad()
def sample_plainly(model, prompt, uniform, temperature, ends):
    """One completion of a prompt (a list of ids) -> its ids, and the log-prob of each.

    uniform: a random number in [0, 1) per token; the first token whose CDF exceeds it is drawn.
    ends: ids of the tokens that end a completion.
    """
    completion = []
    logprobs = []
    for u in uniform.tolist():
        logits = model(torch.tensor([prompt + completion], device=model.device)).logits[0, -1]
        logp = F.log_softmax(logits.float() / temperature, dim=-1)  # (V,)
        cdf = logp.exp().cumsum(-1, dtype=torch.float64)
        token = int((cdf <= u * cdf[-1]).sum())
        completion.append(token)
        logprobs.append(logp[token].item())
        if token in ends:
            break
    return completion, logprobs


def logprobs_plainly(model, prompt, completion, temperature):
    """Log-probs (T,) of the T tokens of a completion after its prompt, both lists of ids."""
    logits = model(torch.tensor([prompt + completion], device=model.device)).logits[0]  # (L, V)
    predicting = logits[len(prompt) - 1 : -1]  # (T, V): each token is predicted one place before
    logp = F.log_softmax(predicting.float() / temperature, dim=-1)
    return logp[range(len(completion)), completion]


# ---- Sampling: one token per row at a time ------------------------------------------------------


def start_decoding(model, prompts):
    """The cache of B prompts, lists of ids, that decodes one token per row at a time."""
    return (GraphCache if model.device.type == "cuda" else KVCache)(model, prompts)


# ---- Updating: whole rows -----------------------------------------------------------------------

CHUNK = 2**27  # logits at a time that are turned into float32 log-probs: half a GB


def trained_lengths(mask):
    """Tokens up to the last trained one, a list of B: what a forward pass has to read.

    The mask (B, T) may have holes before it, where a tool wrote and not the model.
    """
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (mask * places).amax(1).int().tolist()


def pack_rows(rollout, rows, config):
    """Micro-batches of neighbouring rows, each of at most tokens_per_microbatch or of one row.

    Counts completions, and a prompt that neighbours share once: what PrefixTree computes at most.
    """
    counts = trained_lengths(rollout.mask)
    batches = []
    tokens = 0  # of the last batch
    for row in rows:
        prompt = rollout.prompts[row]
        shares_prompt = batches and rollout.prompts[batches[-1][-1]] == prompt
        tokens += counts[row] + (0 if shares_prompt else len(prompt))
        if not batches or tokens > config.tokens_per_microbatch:
            batches.append([])
            tokens = counts[row] + len(prompt)
        batches[-1].append(row)
    return batches


def completion_logits(model, rollout, rows):
    """Logits (n, V) after the n distinct prefixes that predict the completion tokens of `rows`;
    and which of the n predicts each token, (b, T'), T' the longest of the completions.

    Both are where the rollout is, wherever the model is (devices.py).
    """
    tree = PrefixTree(rollout, rows).to(model.device)
    logits = forward(model, tree.ids, tree.positions, tree, tree.predicting)[0]
    require_window(max(width for _, width in tree.shapes), tree.window)
    return logits.to(tree.prefix.device), tree.prefix


def log_softmax_at(logits, prefix, ids, temperature):
    """log_softmax(logits / temperature)[prefix, ids], in float32.

    logits (n, V); prefix and ids (b, T') -> (b, T'). In chunks that the backward pass computes
    again: where V is large, float32 logits would take more memory than all else.
    """

    def of_chunk(logits, prefix, ids):
        return F.log_softmax(logits.float() / temperature, dim=-1)[prefix, ids]

    size = max(CHUNK // logits.shape[1], 1)
    if len(logits) <= size:
        return of_chunk(logits, prefix, ids)
    chosen = torch.zeros(prefix.shape, device=logits.device)
    for number, chunk in enumerate(logits.split(size)):
        inside = prefix // size == number  # (b, T')
        places = prefix[inside] - number * size
        chosen[inside] = checkpoint(of_chunk, chunk, places, ids[inside], use_reentrant=False)
    return chosen


class PrefixTree:
    """All tokens of many rows at once, every distinct prefix computed once.

    The rows of a group share their prompt, and often a completion's first words or all of it. What
    a model computes at a token follows from the tokens up to it alone. So each distinct prefix is a
    node, and every layer sees the N nodes as one long row without padding; only attention sees rows
    again, filled from the nodes. Prefix Grouper (arXiv:2506.05433) does so for prompts.
    """

    window = math.inf  # as of KVCache

    def __init__(self, rollout, rows):
        device = rollout.completion_ids.device
        prompts = [rollout.prompts[row] for row in rows]
        counts = trained_lengths(rollout.mask[rows])  # completion tokens
        # Without a completion's last token, which predicts nothing.
        parts = zip(prompts, rollout.completion_ids[rows].tolist(), counts, strict=True)
        whole = [prompt + completion[: max(n - 1, 0)] for prompt, completion, n in parts]
        ids = right_pad(whole, device, fill=-1)

        # In sorted rows, a prefix that occurred before is also the row above's: no new node.
        ids, row = ids.unique(dim=0, return_inverse=True)  # (u, L), (b,)
        known = F.pad((ids[1:] == ids[:-1]).cumprod(1), (0, 0, 1, 0)) > 0
        is_new = (ids >= 0) & ~known
        number = is_new.flatten().cumsum(0).view_as(ids) - 1
        node = torch.where(is_new, number, 0).cummax(0).values  # (u, L) of every prefix
        origin, column = is_new.nonzero(as_tuple=True)  # (N,) where each node is new
        self.ids = ids[None, origin, column]  # (1, N)
        self.positions = column[None]  # (1, N)

        # The (n,) nodes at which a completion token is predicted, and which of them it is (b, T').
        first = torch.tensor([[len(prompt) - 1] for prompt in prompts], device=device)
        places = first + torch.arange(max(counts), device=device)
        places = places.clamp(max=ids.shape[1] - 1)  # off the mask any will do
        self.predicting, self.prefix = node[row].gather(1, places).unique(return_inverse=True)

        # Attention's rows, those of similar length side by side: the nodes that fill them, and
        # where among them each node is found again.
        lengths = (ids >= 0).sum(1).tolist()
        by_length = sorted(range(len(ids)), key=lengths.__getitem__)
        self.shapes = []
        nodes = []
        begin = torch.zeros_like(ids[:, 0])
        end = 0
        for _, alike in itertools.groupby(by_length, lambda i: int(math.log(lengths[i], 4 / 3))):
            alike = list(alike)
            count = len(alike)
            width = lengths[alike[-1]]
            self.shapes.append((count, width))
            nodes.append(node[alike, :width].flatten())
            begin[alike] = end + width * torch.arange(count, device=device)
            end += count * width
        self.nodes = torch.cat(nodes)  # (M,)
        self.home = begin[origin] + column  # (N,)

    def to(self, device):
        """Itself, with what a model reads on the model's device."""
        for name in ("ids", "positions", "predicting", "nodes", "home"):
            setattr(self, name, getattr(self, name).to(device))
        return self

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

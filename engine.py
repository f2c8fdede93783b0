"""The forward passes, fast: sampling with a cache, and log-probs of many rows at once.

What they compute stands first, plainly, one row at a time on any transformers model. Skip the rest
at first: it gives the same numbers for many rows at once, and tests/test_engine.py holds it to the
two plain functions.
"""

import copy
import itertools
import math
import weakref
from typing import ClassVar

import torch
import torch.nn.functional as F
import transformers
from torch.utils.checkpoint import checkpoint

from countdown_task import InputError

# ---- What is computed, plainly ------------------------------------------------------------------


@torch.no_grad()
def sample_plainly(model, prompt, uniform, temperature, eos_token_id):
    """One completion of a prompt (a list of ids) -> its ids, and the log-prob of each.

    uniform: a random number in [0, 1) per token; the first token whose CDF exceeds it is drawn.
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
        if token == eos_token_id:
            break
    return completion, logprobs


def logprobs_plainly(model, prompt, completion, temperature):
    """Log-probs (T,) of the T tokens of a completion after its prompt, both lists of ids."""
    logits = model(torch.tensor([prompt + completion], device=model.device)).logits[0]  # (L, V)
    predicting = logits[len(prompt) - 1 : -1]  # (T, V): each token is predicted one place before
    logp = F.log_softmax(predicting.float() / temperature, dim=-1)
    return logp[range(len(completion)), completion]


# ---- A forward pass with our attention ----------------------------------------------------------


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


def right_pad(sequences, device, fill=0):
    """b lists of ids -> ids (b, L), `fill` behind the shorter ones."""
    width = max(map(len, sequences))
    padded = [[*ids, *[fill] * (width - len(ids))] for ids in sequences]
    return torch.tensor(padded, device=device)


# ---- Sampling: one token per row at a time ------------------------------------------------------


class KVCache:
    """The sampler's cache: equal prompts are read once, finished rows are dropped.

    A decoding step reads every key and value once and does little else, so that memory sets its
    pace. On a CPU, reading with gaps between the rows costs more than reading the gaps too. Each
    layer therefore has blocks of tokens that are read whole; what is not written yet is masked.
    """

    block = 32  # tokens

    def __new__(cls, model, prompts):
        return super().__new__(GraphCache if model.device.type == "cuda" else cls)

    def __init__(self, model, prompts):
        """Holds all but the last token of B prompts: that one is the first to be decoded."""
        device = model.device
        self.layers = {}  # layer: (blocks of keys, blocks of values), each (b, K, tokens, d)
        distinct = {ids: place for place, ids in enumerate(dict.fromkeys(map(tuple, prompts)))}
        ids = right_pad([prompt[:-1] for prompt in distinct], device)  # (P, L)
        forward(model, ids, torch.arange(ids.shape[1], device=device)[None], self, 1)
        layers = model.config.get_text_config().num_hidden_layers
        if len(self.layers) != layers:
            raise InputError(
                f"--model {model.config.name_or_path}: ours can replace the attention of "
                f"{len(self.layers)} of its {layers} layers, and needs all of them"
            )
        lengths = torch.tensor([len(prompt) for prompt in distinct], device=device)
        self.positions = lengths[:, None] - 2  # (b, 1) of the newest token
        self.free = -ids.shape[1] % self.block  # tokens that still fit into the last blocks
        columns = torch.arange(ids.shape[1] + self.free, device=device)
        self.bias = torch.where(columns <= self.positions, 0.0, -math.inf)  # (b, tokens)
        self.select(torch.tensor([distinct[tuple(prompt)] for prompt in prompts], device=device))

    def select(self, rows):
        """Keep the given rows (b,), in this order; a row may be named more than once."""
        for blocks in itertools.chain(*self.layers.values()):
            blocks[:] = [block.index_select(0, rows) for block in blocks]
        self.positions = self.positions[rows]
        self.bias = self.bias[rows]

    def decode(self, model, token):
        """Read one more token per row, (b, 1) -> logits (b, V) of the next.

        InputError if they are not finite: no token could be drawn from them.
        """
        if self.free == 0:
            for blocks in itertools.chain(*self.layers.values()):
                b, K, _, d = blocks[0].shape
                blocks.append(blocks[0].new_zeros(b, K, self.block, d))
            self.bias = F.pad(self.bias, (0, self.block), value=-math.inf)
            self.free = self.block
        self.bias[:, -self.free] = 0
        self.free -= 1
        self.positions = self.positions + 1
        return finite(forward(model, token, self.positions, self)[:, -1])

    def attend(self, layer, query, key, value, scaling):
        """The prompts, (P, H, L, d), or one new token per row, (b, H, 1, d)."""
        if layer not in self.layers:
            room = (0, 0, 0, -key.shape[2] % self.block)
            self.layers[layer] = [F.pad(key.to(value.dtype), room)], [F.pad(value, room)]
            return causal_attention(query, key, value, scaling)
        keys, values = self.layers[layer]
        for block, new in ((keys[-1], key), (values[-1], value)):
            block[:, :, -self.free - 1] = new[:, :, 0]
        return read_blocks(query, keys, values, self.bias, scaling)


def read_blocks(query, keys, values, bias, scaling):
    """query (b, H, 1, d), blocks (b, K, tokens, d) each, bias (b, all tokens) -> (b, H, 1, d)."""
    query = (query * scaling).unflatten(1, (keys[0].shape[1], -1)).squeeze(3)  # (b, K, H / K, d)
    scores = torch.cat([query @ block.mT for block in keys], -1)  # (b, K, H / K, tokens)
    scores += bias[:, None, None]
    probs = scores.softmax(-1, dtype=torch.float32).split([x.shape[2] for x in keys], -1)
    output = sum(part @ block for part, block in zip(probs, values, strict=True))
    return output.flatten(1, 2)[:, :, None]


def finite(logits):
    """The logits; InputError if some are not finite: no token could be drawn from them."""
    if not logits.amax().isfinite():
        raise InputError("the model's logits are not finite: a lower --learning_rate may help")
    return logits


# ---- Sampling on a GPU: a step is recorded once, then replayed ----------------------------------


class GraphCache(KVCache):
    """KVCache on a GPU, where starting a step's kernels one by one takes longer than they run."""

    block = 256

    def __init__(self, model, prompts):
        self.step = DecodingStep.of(model)
        super().__init__(self.step.model, prompts)
        self.tokens = self.bias.shape[1]  # columns in use, free ones included
        for layer, blocks in self.layers.items():
            for name, (block,) in zip(("keys", "values"), blocks, strict=True):
                self.step.write((name, layer), block)
        self.layers.clear()
        self.step.write("bias", self.bias)
        self.step.write("positions", self.positions)
        self.step.write("token", self.positions)

    def select(self, rows):
        if self.layers:  # the base class is still making rows of distinct prompts
            return super().select(rows)
        for tensor in self.step.held.values():
            tensor[: len(rows)] = tensor[rows]

    def decode(self, model, token):
        """As the base class does, but the next call overwrites the logits."""
        held = self.step.held
        b = len(token)
        if self.free == 0:
            for name, tensor in held.items():
                if tensor.dim() == 4:
                    more = F.pad(tensor[:b, :, : self.tokens], (0, 0, 0, self.block))
                    self.step.write(name, more)
            more = F.pad(held["bias"][:b, : self.tokens], (0, self.block), value=-math.inf)
            self.step.write("bias", more)
            self.tokens += self.block
            self.free = self.block
        self.step.column.fill_(self.tokens - self.free)
        self.free -= 1
        held["bias"][:b].index_fill_(1, self.step.column, 0)
        held["positions"][:b] += 1
        held["token"][:b] = token
        return finite(self.step.run(b, self.tokens)[:b])


class DecodingStep:
    """A model's decoding step as CUDA graphs, one per number of rows and of tokens.

    What they read and write keeps its address from rollout to rollout. Under autocast the matrices
    of linear layers are held in low precision too, and renewed for every rollout.
    """

    kept: ClassVar = weakref.WeakKeyDictionary()  # model: its decoding step

    @classmethod
    def of(cls, model):
        device = model.device.type
        low = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if low else torch.float32
        if model not in cls.kept or cls.kept[model].dtype != dtype:
            cls.kept[model] = cls(model, dtype)
        for copied, original in cls.kept[model].copies:
            copied.copy_(original)
        return cls.kept[model]

    def __init__(self, model, dtype):
        self.dtype = dtype
        # Another model of the same parameters, some of which are then replaced by copies.
        self.model = copy.deepcopy(model, {id(one): one for one in model.parameters()})
        self.copies = []  # (in low precision, original)
        for part in self.model.modules():
            if isinstance(part, torch.nn.Linear) and dtype != torch.float32:
                original = part.weight
                part.weight = torch.nn.Parameter(original.to(dtype), requires_grad=False)
                self.copies.append((part.weight, original))
        self.held = {}  # keys and values of each layer, bias, positions, token, by row
        self.column = torch.zeros(1, dtype=torch.long, device=model.device)  # of the newest token
        self.recorded = {}  # (rows, tokens): a function that returns logits (rows, V)

    def write(self, name, tensor):
        """Into the corner of what is held; if that is too small, a larger one takes its place."""
        held = self.held.get(name, tensor[:0])
        shape = tuple(map(max, held.shape, tensor.shape))
        if shape != held.shape:
            self.recorded.clear()
            self.held[name] = held = tensor.new_zeros(shape)
        held[tuple(map(slice, tensor.shape))] = tensor

    def run(self, b, tokens):
        """Logits of b rows or more, each of which reads so many columns."""
        rows = min(2 ** (b - 1).bit_length(), len(self.held["token"]))
        self.corner = (slice(rows), slice(None), slice(tokens))
        if (rows, tokens) not in self.recorded:
            self.recorded[rows, tokens] = self.record()
        return self.recorded[rows, tokens]()

    def logits(self):
        rows = self.corner[0]
        token = self.held["token"][rows]
        return forward(self.model, token, self.held["positions"][rows], self)[:, -1]

    def record(self):
        """`logits`, as it stands, as a graph; as it is where no graph can be made of it."""
        low = self.dtype != torch.float32
        # Without autocast's cache: what that holds is gone when the rollout ends.
        with torch.autocast(self.column.device.type, self.dtype, enabled=low, cache_enabled=False):
            self.logits()  # once before, so that libraries can set themselves up
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph):
                    logits = self.logits()
            except RuntimeError:  # a mixture of experts asks the CPU which of them to run
                return self.logits

        def replay():
            graph.replay()
            return logits

        return replay

    def attend(self, layer, query, key, value, scaling):
        keys = self.held["keys", layer][self.corner]
        values = self.held["values", layer][self.corner]
        keys.index_copy_(2, self.column, key.to(keys.dtype))
        values.index_copy_(2, self.column, value)
        rows, _, columns = self.corner
        return read_blocks(query, [keys], [values], self.held["bias"][rows, columns], scaling)


# ---- Updating: whole rows -----------------------------------------------------------------------

CHUNK = 2**27  # logits at a time that are turned into float32 log-probs: half a GB


def last_places(mask):
    """Tokens up to the last one of the mask (B, T), as a list: what is read, trained or not."""
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (mask * places).amax(1).int().tolist()


def pack_rows(rollout, rows, config):
    """Micro-batches of neighbouring rows, each of at most tokens_per_microbatch or of one row.

    Counts completions, and a prompt that neighbours share once: what PrefixTree computes at most.
    """
    counts = last_places(rollout.mask)
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
    and which of the n predicts each token, (b, T'), T' the longest of the completions."""
    tree = PrefixTree(rollout, rows)
    logits = forward(model, tree.ids, tree.positions, tree, tree.predicting)[0]
    return logits, tree.prefix


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

    def __init__(self, rollout, rows):
        device = rollout.completion_ids.device
        prompts = [rollout.prompts[row] for row in rows]
        counts = last_places(rollout.mask[rows])  # completion tokens
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

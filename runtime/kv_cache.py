"""The sampler's cache: one token per row at a time, on any device."""

import itertools
import math

from runtime.attention import causal_attention, forward

import torch
import torch.nn.functional as F

from tasks import InputError


class KVCache:
    """The sampler's cache: equal prompts are read once, finished rows are dropped.

    A decoding step reads every key and value once and does little else, so that memory sets its
    pace. On a CPU, reading with gaps between the rows costs more than reading the gaps too. Each
    layer therefore has blocks of tokens that are read whole; what is not written yet is masked.
    """

    block = 32  # tokens
    free = None  # tokens that still fit into the last blocks
    window = math.inf  # tokens of a row before its attention needs what ours does not do

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
                f"its attention cannot be replaced by ours in {layers - len(self.layers)} of its "
                f"{layers} layers"
            )
        lengths = torch.tensor([len(prompt) for prompt in distinct], device=device)
        self.positions = lengths[:, None] - 2  # (b, 1) of the newest token
        self.free = -ids.shape[1] % self.block
        columns = torch.arange(ids.shape[1] + self.free, device=device)
        self.bias = torch.where(columns <= self.positions, 0.0, -math.inf)  # (b, tokens)
        self.select(torch.tensor([distinct[tuple(prompt)] for prompt in prompts], device=device))

    def select(self, rows):
        """Keep the given rows (b,), in this order; a row may be named more than once."""
        rows = rows.to(self.positions.device)
        for blocks in itertools.chain(*self.layers.values()):
            blocks[:] = [block.index_select(0, rows) for block in blocks]
        self.positions = self.positions[rows]
        self.bias = self.bias[rows]

    def decode(self, model, token):
        """Read one more token per row, (b, 1) -> logits (b, V) of the next, where the token was.

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
        require_window(self.bias.shape[1] - self.free, self.window)
        self.positions = self.positions + 1
        logits = forward(model, token.to(model.device), self.positions, self)[:, -1]
        return require_finite(logits.to(token.device))

    def attend(self, layer, query, key, value, scaling):
        """The prompts, (P, H, L, d), or one new token per row, (b, H, 1, d)."""
        if layer not in self.layers:
            room = (0, 0, 0, -key.shape[2] % self.block)
            self.layers[layer] = [F.pad(key.to(value.dtype), room)], [F.pad(value, room)]
            return causal_attention(query, key, value, scaling)
        if self.free is None:  # still in the prompts
            raise InputError("a layer of it calls its attention twice, which ours does not do")
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


def require_window(tokens, window):
    """InputError if rows of so many tokens are longer than its attention looks back."""
    if tokens > window:
        raise InputError(
            f"its attention looks back {window} tokens only, which ours does not do, and "
            f"prompt and completion may have {tokens}; lower --max_new_tokens"
        )


def require_finite(logits):
    """The logits again; InputError if some are not finite: no token could be drawn from them."""
    if not logits.amax().isfinite():
        raise InputError("the model's logits are not finite: a lower --learning_rate may help")
    return logits


def right_pad(sequences, device, fill=0):
    """b lists of ids -> ids (b, L), `fill` behind the shorter ones."""
    width = max(map(len, sequences))
    padded = [[*ids, *[fill] * (width - len(ids))] for ids in sequences]
    return torch.tensor(padded, device=device)

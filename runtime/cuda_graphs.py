"""The sampler's cache on a GPU: a decoding step is recorded once, then replayed."""

import copy
import math
import weakref
from typing import ClassVar

from runtime.attention import forward
from runtime.kv_cache import KVCache, read_blocks, require_finite, require_window

import torch
import torch.nn.functional as F


class GraphCache(KVCache):
    """KVCache on a GPU, where starting a step's kernels one by one takes longer than they run."""

    block = 256

    def __init__(self, model, prompts):
        self.step = DecodingStep.for_model(model)
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
        for tensor in self.step.buffers.values():
            tensor[: len(rows)] = tensor[rows]

    def decode(self, model, token):
        """As the base class does, but the next call overwrites the logits."""
        buffers = self.step.buffers
        b = len(token)
        if self.free == 0:
            for name, tensor in buffers.items():
                if tensor.dim() == 4:
                    more = F.pad(tensor[:b, :, : self.tokens], (0, 0, 0, self.block))
                    self.step.write(name, more)
            more = F.pad(buffers["bias"][:b, : self.tokens], (0, self.block), value=-math.inf)
            self.step.write("bias", more)
            self.tokens += self.block
            self.free = self.block
        self.step.column.fill_(self.tokens - self.free)
        self.free -= 1
        require_window(self.tokens - self.free, self.window)
        buffers["bias"][:b].index_fill_(1, self.step.column, 0)
        buffers["positions"][:b] += 1
        buffers["token"][:b] = token
        return require_finite(self.step.run(b, self.tokens)[:b])


class DecodingStep:
    """A model's decoding step as CUDA graphs, one per number of rows and of tokens.

    What they read and write keeps its address from rollout to rollout. Under autocast the matrices
    of linear layers are held in low precision too, and renewed for every rollout.
    """

    window = math.inf  # as of KVCache
    by_model: ClassVar = weakref.WeakKeyDictionary()  # model: its decoding step

    @classmethod
    def for_model(cls, model):
        """The model's own step in autocast's precision, its low-precision copies renewed."""
        device = model.device.type
        low = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if low else torch.float32
        if model not in cls.by_model or cls.by_model[model].dtype != dtype:
            cls.by_model[model] = cls(model, dtype)
        for copied, original in cls.by_model[model].copies:
            copied.copy_(original)
        return cls.by_model[model]

    def __init__(self, model, dtype):
        self.dtype = dtype
        # Another model of the same parameters, some of which are then replaced by copies.
        self.model = copy.deepcopy(model, {id(one): one for one in model.parameters()})
        self.copies = []  # (in low precision, original)
        for part in self.model.modules():
            if isinstance(part, torch.nn.Linear) and dtype not in (
                torch.float32,
                part.weight.dtype,
            ):
                original = part.weight
                part.weight = torch.nn.Parameter(original.to(dtype), requires_grad=False)
                self.copies.append((part.weight, original))
        self.buffers = {}  # keys and values of each layer, bias, positions, token, by row
        self.column = torch.zeros(1, dtype=torch.long, device=model.device)  # of the newest token
        self.recorded = {}  # (rows, tokens): a function that returns logits (rows, V)

    def write(self, name, tensor):
        """Into the corner of a buffer; if that is too small, a larger one takes its place."""
        buffer = self.buffers.get(name, tensor[:0])
        shape = tuple(map(max, buffer.shape, tensor.shape))
        if shape != buffer.shape:
            self.recorded.clear()
            buffer = self.buffers[name] = tensor.new_zeros(shape)
        buffer[tuple(map(slice, tensor.shape))] = tensor

    def run(self, b, tokens):
        """Logits of b rows or more, each of which reads so many columns."""
        rows = min(2 ** (b - 1).bit_length(), len(self.buffers["token"]))
        self.corner = (slice(rows), slice(None), slice(tokens))
        if (rows, tokens) not in self.recorded:
            self.recorded[rows, tokens] = self.record()
        return self.recorded[rows, tokens]()

    def logits(self):
        """Logits (rows, V) of the newest token of each row, computed from the buffers."""
        rows = self.corner[0]
        token = self.buffers["token"][rows]
        return forward(self.model, token, self.buffers["positions"][rows], self)[:, -1]

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
        keys = self.buffers["keys", layer][self.corner]
        values = self.buffers["values", layer][self.corner]
        keys.index_copy_(2, self.column, key.to(keys.dtype))
        values.index_copy_(2, self.column, value)
        rows, _, columns = self.corner
        return read_blocks(query, [keys], [values], self.buffers["bias"][rows, columns], scaling)

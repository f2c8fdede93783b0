"""Decoding steps of fewer kernels, tried out on a GPU beside the one that runs use.

    python -m tools.gpu_check --parts decoding

A step is replayed as a CUDA graph, and the number of its kernels sets the pace (docs/lab/gpu.md).
Every way here computes the same with fewer. No run takes one: what a card shows to be faster, and
is still plain to read, moves into runtime/cuda_graphs.py.
"""

import statistics
import time

from runtime import attention
from runtime.cuda_graphs import DecodingStep, GraphCache

import torch
import torch.nn.functional as F

import grpo

TIMES = 50  # replays of each way


def draw(logits, uniform, temperature=1.0):
    """A script's lines after a decoding step: tokens, their log-probs, and entropy, (b, 1) each."""
    logp = F.log_softmax(logits.float() / temperature, dim=-1)
    token = grpo.sample_tokens(logp, uniform)
    return token, logp.gather(-1, token), -(logp.exp() * logp).sum(-1, keepdim=True)


class Drawing(DecodingStep):
    """Softmax, draw and entropy in the same graph: one replay, and no launch after it."""

    def logits(self):
        logits = super().logits()
        return logits, *draw(logits, self.buffers["uniform"][self.corner[0]])


class FusedAttention(DecodingStep):
    """PyTorch's own attention over the cache: the queries that share a key are its rows."""

    def attend(self, layer, query, key, value, scaling):
        keys = self.buffers["keys", layer][self.corner]
        values = self.buffers["values", layer][self.corner]
        keys.index_copy_(2, self.column, key.to(keys.dtype))
        values.index_copy_(2, self.column, value)
        rows, _, columns = self.corner
        query = query.to(keys.dtype).unflatten(1, (keys.shape[1], -1)).squeeze(3)  # (b, K, H/K, d)
        bias = self.buffers["bias"][rows, columns].to(keys.dtype)[:, None, None]
        output = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=scaling)
        return output.flatten(1, 2)[:, :, None]


class FusedNorms(DecodingStep):
    """PyTorch's own norm, one kernel, in place of transformers' six."""

    def __init__(self, model, dtype):
        super().__init__(model, dtype)
        for part in self.model.modules():
            if hasattr(part, "variance_epsilon"):
                part.forward = self.norm_of(part)

    @staticmethod
    def norm_of(part):
        def norm(x):
            return F.rms_norm(x, part.weight.shape, part.weight, part.variance_epsilon)

        return norm


class FewerKernels(Drawing, FusedAttention, FusedNorms):
    """All three."""


class Compiled(DecodingStep):
    """The step by torch.compile, which fuses what stands between products of matrices."""

    backend = "inductor"

    def __init__(self, model, dtype):
        super().__init__(model, dtype)
        # What the first call would set is in place before it: no second compilation.
        self.window = DecodingStep.window
        self.model.set_attn_implementation(attention.NAME)
        self.logits = torch.compile(self.logits, backend=self.backend, dynamic=False)


class CompiledDrawing(Drawing, Compiled):
    """Softmax, draw and entropy compiled with it."""


WAYS = {
    "as it is": DecodingStep,
    "draw in the graph": Drawing,
    "fused attention": FusedAttention,
    "fused norms": FusedNorms,
    "these three": FewerKernels,
    "compiled": Compiled,
    "compiled with the draw": CompiledDrawing,
}


def compare_ways(model, prompts, ways=WAYS):
    """{way: {first_s, ms, error}} of one decoding step: to record it, to replay it, and the largest
    difference of its logits from those of the step as it is. And the script's lines alone, in ms.
    """
    with torch.no_grad():
        cache = GraphCache(model, prompts)
        token = torch.tensor([[prompt[-1]] for prompt in prompts], device=model.device)
        expected = cache.decode(model, token).clone()
        b = len(prompts)
        uniform = torch.rand(b, 1, dtype=torch.float64, device=model.device)
        cache.step.write("uniform", uniform)
        found = {"draw": {"ms": milliseconds(lambda: draw(expected, uniform))}}
        for name, way in ways.items():
            step = way(model, cache.step.dtype)
            step.buffers = cache.step.buffers  # the same cache and column: it is only read again
            step.column = cache.step.column
            started = time.perf_counter()
            try:
                result = step.run(b, cache.tokens)
            except Exception as error:  # the other ways are still worth knowing
                found[name] = {"failed": repr(error)}
                continue
            first = time.perf_counter() - started
            logits = result[0] if isinstance(result, tuple) else result
            found[name] = {
                "first_s": first,
                "ms": milliseconds(lambda step=step: step.run(b, cache.tokens)),
                "error": (logits[:b] - expected).abs().max().item(),
            }
    return found


def milliseconds(function):
    """Median of one call, waited for."""
    seconds = []
    for _ in range(TIMES):
        started = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)

"""A sampler in coarser numbers than the policy's: what rollouts in bf16, fp8 or int4 are.

Only the weights are rounded, for each output of a linear layer on a scale of its own, as inference
programs do. The policy that is updated keeps its own.
"""

import copy

import torch

LARGEST = {"fp8": 448.0, "int4": 7.0}  # that e4m3 and four bits with a sign hold


def rounded(weight, kind):
    """A weight (outputs, inputs) as the sampler has it, in float32 again."""
    if kind == "bf16":
        return weight.bfloat16().float()
    scale = weight.abs().amax(1, keepdim=True) / LARGEST[kind]
    steps = weight / scale.clamp(min=1e-12)
    if kind == "fp8":
        return steps.to(torch.float8_e4m3fn).float() * scale
    return steps.round() * scale


class CoarseSampler:
    """A script's sample_batch that samples with a rounded copy of the policy."""

    def __init__(self, sample_batch, kind):
        self.sample_batch = sample_batch
        self.kind = kind

    @torch.no_grad()
    def __call__(self, model, *rest):
        sampler = copy.deepcopy(model)
        for layer in sampler.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.copy_(rounded(layer.weight, self.kind))
        return self.sample_batch(sampler, *rest)

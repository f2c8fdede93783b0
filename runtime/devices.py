"""Where a run computes: on the CPU, on a CUDA GPU, or on Apple's GPU (MPS)."""

import time

import torch

from tasks import InputError

NAMES = ("auto", "cpu", "cuda", "mps")


def find(name):
    """--device -> (device of rollouts, device of models). InputError if it is not there.

    On Apple's GPU the model is alone, and what it computes comes back to the CPU, whose memory is
    the same. Tokens are drawn in float64, and prefixes are sorted, with what MPS does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if name in there and not there[name]():
        raise InputError(f"--device {name}: PyTorch finds none here; leave it out")
    return torch.device("cpu" if name == "mps" else name), torch.device(name)


def bf16_slowness(size=512, times=3):
    """How many times as long as in float32 a product takes in bfloat16 on this CPU."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(size, size, dtype=dtype)
        turns = []
        for _ in range(times):
            started = time.perf_counter()
            matrix @ matrix
            turns.append(time.perf_counter() - started)
        seconds[dtype] = min(turns)
    return seconds[torch.bfloat16] / seconds[torch.float32]

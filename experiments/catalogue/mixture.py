"""Ratios in a mixture of experts, where an update sends tokens to other experts."""

from experiments.catalogue.arm import STALE, Arm

AXIS = "granularity"
HYPOTHESIS = (
    "In a mixture of experts updates reroute tokens; rerouted tokens have wilder token ratios, "
    "and the mean over a sequence evens them out."
)
MIXTURE = {**STALE, "kl_coef": 0.0, "model": "experiments/moe_base"}
ARMS = {"mixture_token": Arm("grpo", MIXTURE), "mixture_sequence": Arm("gspo", MIXTURE)}
COMPARED = tuple(ARMS)

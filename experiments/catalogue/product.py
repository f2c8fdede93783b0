"""RLOO's ratio, a product over the completion."""

from experiments.catalogue.arm import STALE, Arm

AXIS = "zoo: granularity"
HYPOTHESIS = (
    "RLOO's ratio is a product over the completion, so its log spreads by some |o| times as "
    "much as the mean that GSPO takes, and a clip of 0.2 that is idle on tokens stops whole "
    "completions."
)
ARMS = {"stale_product": Arm("zoo.rloo", {**STALE, "kl_coef": 0.0})}
COMPARED = ("grpo", "rloo", *ARMS)

"""Clipping before the mean over a completion, as GMPO does, instead of after it."""

from experiments.catalogue.arm import STALE, Arm

AXIS = "zoo: granularity"
HYPOTHESIS = (
    "Clipping before the mean instead of after it: under sixteen updates GMPO's ratio stays as "
    "near to 1 as GSPO's, while the share of tokens that lose their gradient stays as small as "
    "GRPO's."
)
ARMS = {"stale_geometric": Arm("zoo.gmpo", {**STALE, "kl_coef": 0.0})}
COMPARED = ("stale_symmetric", "stale_sequence", *ARMS)

"""One ratio per token against one per sequence."""

from experiments.catalogue.arm import STALE, Arm

AXIS = "granularity"
HYPOTHESIS = "The log of the sequence ratio varies far less than that of the token ratio."
ARMS = {"stale_sequence": Arm("gspo", {**STALE, "kl_coef": 0.0})}
COMPARED = ("stale_symmetric", *ARMS)

"""Token ratio and sequence ratio at a rate that breaks training."""

from experiments.catalogue.arm import STALE, Arm

AXIS = "granularity"
HYPOTHESIS = (
    "Where updates go too far from the sampler, the sequence ratio keeps training alive longer "
    "than the token ratio."
)
HOT = {**STALE, "learning_rate": 1e-3, "kl_coef": 0.0}
ARMS = {"hot_token": Arm("grpo", HOT), "hot_sequence": Arm("gspo", HOT)}
COMPARED = tuple(ARMS)

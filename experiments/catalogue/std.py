"""The division by a group's std, and none."""

from experiments.catalogue.arm import BRIEF, Arm

AXIS = "length + std"
HYPOTHESIS = (
    "Dividing by the group's std raises the weight of groups that are nearly all right or "
    "nearly all wrong against mixed ones."
)
ARMS = {  # kl_0 is the reference
    "no_std": Arm("grpo", {**BRIEF, "kl_coef": 0.0}, {"compute_advantages": "dr_grpo"}),
}
COMPARED = ("kl_0", *ARMS)

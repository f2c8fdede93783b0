"""The unit of an advantage: the group's std, its mean, or none, where answers are rarely right."""

from experiments.catalogue.arm import SHORT, Arm

AXIS = "length + std"
HYPOTHESIS = (
    "Divided by the group's mean, groups with 1 to 3 of 16 right weigh at least twice as much "
    "against even ones as divided by the std. After 20 steps on problems that the base rarely "
    "solves, more of them are solved in 16 tries than under the std, and no fewer at the first."
)
RARE_ANSWERS = {**SHORT, "max_number": 20, "max_target": 99}
PAID = {"reward_components": ["answer"], "reward_weights": [1.0]}
ARMS = {
    "rare_std": Arm("grpo", {**RARE_ANSWERS, **PAID}),
    "rare_no_std": Arm("mine", {**RARE_ANSWERS, **PAID}, parts=("dr_grpo:std",)),
    "rare_mean": Arm("zoo.maxrl", RARE_ANSWERS),
}
COMPARED = tuple(ARMS)

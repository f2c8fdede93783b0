"""Turns: GiGPO, grpo.py's advantage on the same turns, and problems beyond the base."""

from experiments.catalogue.arm import OFTEN, SHORT, Arm

AXIS = "zoo: turns"
HYPOTHESIS = (
    "With the answer paid alone, a turn that starts over is worth more than its state's mean "
    "and one that gives up less. The turn's advantage knows better than the trajectory's "
    "whether the numbers that it leaves can hit the target. Accuracy is within noise, also on "
    "problems that the base rarely solves."
)
BEYOND = {**SHORT, **OFTEN, "max_number": 20, "max_target": 99}
ARMS = {
    "gigpo": Arm("zoo.gigpo", OFTEN),
    "turns_grpo": Arm("zoo.gigpo", {**SHORT, **OFTEN, "step_coef": 0.0}),
    "turns_hard": Arm("zoo.gigpo", BEYOND),
    "turns_hard_grpo": Arm("zoo.gigpo", {**BEYOND, "step_coef": 0.0}),
}
COMPARED = tuple(ARMS)

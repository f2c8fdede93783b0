"""grpo.py for four times the default number of steps."""

from experiments.catalogue.arm import Arm

AXIS = "none: a longer run"
HYPOTHESIS = "Four times as many steps go further and do not collapse."
ARMS = {"long": Arm("grpo", {"steps": 120}, seeds=(1, 2))}
COMPARED = tuple(ARMS)

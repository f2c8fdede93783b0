"""All six scripts for 120 steps, on problems that the base rarely solves."""

from experiments.catalogue.arm import Arm
from experiments.catalogue.ceiling import CEILING
from experiments.catalogue.defaults import SCRIPTS

AXIS = "all: the ceiling, rarely solved problems"
HYPOTHESIS = (
    "Where the base solves 7 in 100, the ceilings differ no more than on the default problems: "
    "what differs is the time that groups without signal cost, so dapo.py needs the fewest "
    "steps. pass@16 of the trained model is no higher than the base's."
)
RARE = {"max_number": 20, "max_target": 99}  # solved by the base 7 times in 100
ARMS = {f"beyond_{script}": Arm(script, {**CEILING, **RARE}, seeds=(1, 2, 3)) for script in SCRIPTS}
COMPARED = tuple(ARMS)

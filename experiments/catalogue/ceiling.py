"""All six scripts for 120 steps, on the default problems."""

from experiments.catalogue.arm import Arm
from experiments.catalogue.defaults import SCRIPTS

AXIS = "all: the ceiling, default problems"
HYPOTHESIS = (
    "All six end at one ceiling within noise; the axes move how many tokens it takes to get "
    "there, and sampling moves that most."
)
# Long enough for a curve to flatten.
CEILING = {"steps": 120, "eval_every": 10, "max_new_tokens": 768}
ARMS = {f"ceiling_{script}": Arm(script, CEILING) for script in SCRIPTS}
COMPARED = tuple(ARMS)

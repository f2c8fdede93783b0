"""DAPO taken apart: every move alone, and the whole without it."""

from experiments.catalogue.arm import Arm
from experiments.catalogue.bundles import ABLATION, taken_apart

AXIS = "all: DAPO taken apart"
HYPOTHESIS = (
    "Each move changes its own quantity when it is made alone, and leaving it out of DAPO "
    "takes that change away again. On accuracy after 20 steps only sampling shows. The four "
    "effects alone add up to that of the whole, within noise."
)
ARMS = {"bare": Arm("grpo", ABLATION), **taken_apart("dapo")}
COMPARED = tuple(ARMS)

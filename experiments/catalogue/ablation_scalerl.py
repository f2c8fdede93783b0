"""ScaleRL's axes taken apart: every move alone, and the whole without it."""

from experiments.catalogue.ablation_dapo import ARMS as DAPOS
from experiments.catalogue.bundles import taken_apart

AXIS = "all: ScaleRL's axes taken apart"
HYPOTHESIS = (
    "As for DAPO. With sixteen updates CISPO's clip alone lets the policy leave the sampler "
    "furthest, and that is what the bundle without it gains from. The four effects add up "
    "within noise on tokens, and less well on accuracy."
)
APART = taken_apart("scalerl")
# Two of its moves are DAPO's: alone they are the same arms.
ARMS = {name: arm for name, arm in APART.items() if name not in DAPOS}
COMPARED = ("bare", *APART)

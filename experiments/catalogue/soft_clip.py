"""What takes the place of PPO's clip: SAPO's gate, a bound on probabilities, a square."""

from experiments.catalogue.arm import Arm
from experiments.catalogue.mismatch import FAR

AXIS = "clip width"
HYPOTHESIS = (
    "SAPO's gate has no edge: a token beyond 0.2 keeps nearly all of its gradient, where the hard "
    "clip leaves none, and training breaks no more often. DPPO's bound spares retry points, which "
    "are rare tokens, and stops tokens that were likely: those that it stops had at least twice "
    "the probability of those that PPO's clip stops."
)
ARMS = {
    "far_sapo": Arm("zoo.sapo", FAR),
    "far_dppo": Arm("zoo.dppo", FAR),
    "far_dro": Arm("zoo.dro", {k: v for k, v in FAR.items() if k != "kl_coef"}),
}
COMPARED = ("fine_believed", *ARMS)

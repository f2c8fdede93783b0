"""The upper bound and entropy again, under a reward that pays."""

from experiments.catalogue.arm import Arm
from experiments.catalogue.length_inflation import FIRST

AXIS = "clip width"
HYPOTHESIS = (
    "Where the reward speaks, entropy falls because the policy learns: a higher bound above "
    "learns no slower and ends with no more entropy at base-uncertain tokens than 0.2."
)
FIRST_CLIP = {**FIRST, "steps": 20, "eval_every": 20, "minibatches": 16, "learning_rate": 3e-4}
ARMS = {
    "paid_symmetric": Arm("dr_grpo", FIRST_CLIP),
    "paid_higher": Arm("dr_grpo", {**FIRST_CLIP, "clip_high": 0.28}),
    "paid_wide": Arm("dr_grpo", {**FIRST_CLIP, "clip_high": 1.0}),
}
COMPARED = tuple(ARMS)

"""The pitfall of turns: a reward that failures earn too."""

from experiments.catalogue.arm import OFTEN, SHORT, Arm

AXIS = "zoo: turns"
HYPOTHESIS = (
    "A reward that failures earn too is discounted, largest in the last turn, and blown up by "
    "the std where all fail: giving up becomes the best turn, and accuracy at step 10 is far "
    "behind. Without the turn's advantage the same reward does no harm."
)
FORMAT = {"reward_components": ["answer", "format"], "reward_weights": [1.0, 0.1]}
ARMS = {
    "turns_format": Arm("zoo.gigpo", {**SHORT, **OFTEN, **FORMAT}),
    "turns_format_grpo": Arm("zoo.gigpo", {**SHORT, **OFTEN, **FORMAT, "step_coef": 0.0}),
}
COMPARED = ("gigpo", *ARMS)

"""Reward components pooled against decoupled, two of them and three."""

from experiments.catalogue.arm import BRIEF, Arm

AXIS = "advantage"
HYPOTHESIS = (
    "Decoupled normalisation keeps more distinct advantage levels, and every component learns."
)
TWO = {**BRIEF, "reward_components": ["answer", "brevity"], "reward_weights": [1.0, 1.0]}
THREE = {
    **BRIEF,
    "reward_components": ["answer", "brevity", "plain"],
    "reward_weights": [1.0, 1.0, 1.0],
}
ARMS = {
    "pooled_two": Arm("grpo", TWO),
    "decoupled_two": Arm("gdpo", TWO),
    "pooled_three": Arm("grpo", THREE),
    "decoupled_three": Arm("gdpo", THREE),
}
COMPARED = tuple(ARMS)

"""The critic comes back: PPO and VAPO with their own defaults."""

from experiments.catalogue.arm import OFTEN, Arm

AXIS = "zoo: the critic"
HYPOTHESIS = (
    "A critic tells nothing of a completion's first half and most of its last quarter: it "
    "knows a hit and a search that gives up, not a hard problem. Over all tokens it explains "
    "no more than 15 siblings do. Accuracy ends where grpo.py's does; a step takes longer."
)
ARMS = {"ppo": Arm("zoo.ppo", OFTEN), "vapo": Arm("zoo.vapo", OFTEN)}
COMPARED = ("grpo", "reinforce_pp", *ARMS)

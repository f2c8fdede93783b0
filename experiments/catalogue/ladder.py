"""The ladder of baselines, with their own defaults."""

from experiments.catalogue.arm import OFTEN, TEN_SEEDS, Arm

AXIS = "zoo: the baseline V"
HYPOTHESIS = (
    "Whatever V is subtracted (the group's mean, the others', the batch's, a memory of the "
    "problem) and even if a vote takes the place of the label: with their own defaults the zoo "
    "ends where grpo.py ends, within noise."
)
ZOO = ("rloo", "reinforce_pp", "reinforce_pp_baseline", "gmpo", "spo", "ttrl")
ARMS = {name: Arm(f"zoo.{name}", OFTEN, seeds=TEN_SEEDS) for name in ZOO}
COMPARED = ("grpo", *ARMS)

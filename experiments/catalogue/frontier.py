"""The six methods of 2026, with their own defaults."""

from experiments.catalogue.arm import OFTEN, Arm

AXIS = "zoo: the frontier"
HYPOTHESIS = (
    "With four updates on each rollout and a sampler that is the policy, none of the six has "
    "anything to put right: all end where grpo.py ends, within 3 points. TIS's weights are 1."
)
FRONTIER = ("tis", "deepseek_v32", "sapo", "dppo", "maxrl", "dro")
ARMS = {name: Arm(f"zoo.{name}", OFTEN) for name in FRONTIER}
COMPARED = ("grpo", *ARMS)

"""DRO's square against no clip at all, on rollouts that are four steps old."""

from experiments.catalogue.arm import Arm
from experiments.catalogue.lag import AGED, RATES

AXIS = "clip width"
HYPOTHESIS = (
    "On rollouts four steps old a spring to the policy that sampled holds what REINFORCE loses: "
    "at rates of 1e-3 and 2e-3 more completions are right, and KL to the sampler is smaller."
)
ARMS = {
    f"old_dro_{name}": Arm("zoo.dro", {**AGED, "learning_rate": rate}, lag=4)
    for name, rate in RATES.items()
}
COMPARED = (*ARMS, *(f"aged_reinforce_4_{name}" for name in RATES))

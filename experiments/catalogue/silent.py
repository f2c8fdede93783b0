"""A minibatch without signal: no step, as the scripts have it, or a step on the KL alone.

In the equation, and in TRL, the KL of such a minibatch stays in the loss.
"""

from experiments.catalogue.arm import Arm
from experiments.catalogue.bundles import ABLATION

AXIS = "KL"
HYPOTHESIS = (
    "With one group in a minibatch, every fifth update has no signal. If these step on the KL "
    "alone, the policy stays nearer the initial model; accuracy after 20 steps is the same, "
    "within 3 points, and so is the length of completions, within 10 tokens."
)
STEP_ON_THE_KL = {
    "        if not advantages[minibatch].any():\n"
    "            continue  # no signal, no step: Adam's momentum alone would move the weights\n": ""
}
ARMS = {"every_kl": Arm("grpo", ABLATION, edits=STEP_ON_THE_KL)}
COMPARED = ("bare", *ARMS)

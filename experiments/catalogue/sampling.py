"""Static groups against refilled ones.

Evaluated often, because refilling makes the batch's own accuracy a biased sample.
"""

from experiments.catalogue.arm import OFTEN, SHORT, Arm

AXIS = "sampling"
HYPOTHESIS = (
    "Refilling leaves no group without signal, and costs tokens: better per optimizer step, "
    "not per token."
)
ARMS = {
    "static": Arm("dapo", {**SHORT, **OFTEN, "max_refills": 0}),
    "dynamic": Arm("dapo", {**SHORT, **OFTEN}),
}
COMPARED = tuple(ARMS)

"""No KL, the default coefficient and ten times that."""

from experiments.catalogue.arm import NO_KL, SHORT, Arm

AXIS = "KL"
HYPOTHESIS = (
    "A larger coefficient keeps the policy nearer the reference and slows learning; without "
    "one there is no reference model in memory."
)
ARMS = {  # the default coefficient is grpo's, up to the same step
    "kl_0": Arm("grpo", NO_KL),
    "kl_10x": Arm("grpo", {**SHORT, "kl_coef": 0.4}),
}
COMPARED = ("kl_0", "grpo", "kl_10x")

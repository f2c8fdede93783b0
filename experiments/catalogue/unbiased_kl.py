"""The KL term whose gradient is that of KL(pi || pi_ref), and k3's, which is the reverse's."""

from experiments.catalogue.arm import SHORT, Arm

AXIS = "KL"
HYPOTHESIS = (
    "With the same coefficient of 0.4 both hold the policy at the same distance, within 0.003 nats "
    "per token, because near the reference the two divergences are one; accuracy is the same, too."
)
ARMS = {"kl_unbiased": Arm("mine", {**SHORT, "kl_coef": 0.4}, parts=("zoo.deepseek_v32:kl",))}
COMPARED = ("kl_10x", *ARMS)

"""A wider upper bound, where the policy has moved away from the sampler."""

from experiments.catalogue.arm import STALE, Arm

AXIS = "clip width"
HYPOTHESIS = (
    "A higher upper bound clips fewer rare tokens that did well: entropy and the share of "
    "retries stay higher."
)
ARMS = {
    "stale_symmetric": Arm("grpo", {**STALE, "kl_coef": 0.0}),
    "stale_higher": Arm("grpo", {**STALE, "kl_coef": 0.0, "clip_high": 0.28}),
    "stale_wide": Arm("grpo", {**STALE, "kl_coef": 0.0, "clip_high": 1.0}),
}
COMPARED = tuple(ARMS)

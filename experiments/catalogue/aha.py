"""The 'aha': trying again takes off; by the bound above, and by updates per rollout."""

from experiments.catalogue.arm import Arm

AXIS = "clip width"
HYPOTHESIS = (
    "A base that seldom tries again learns nothing for some steps, then trying again takes "
    "off. The log-odds grow by the update, not by the bound: 0.2, 0.28 and 1.0 take off within "
    "a step of each other, not as 1 / ln(1 + bound); with fewer updates per rollout later."
)
# A base that tries again after 2 % of failed lines: see prepare_models in run.py.
SELDOM = {"steps": 16, "eval_every": 4, "kl_coef": 0.0, "model": "runs/seldom_wait"}
OFTEN_UPDATED = {**SELDOM, "minibatches": 16}
ARMS = {
    "aha_005": Arm("grpo", {**OFTEN_UPDATED, "clip_high": 0.05}),
    "aha_020": Arm("grpo", OFTEN_UPDATED),
    "aha_028": Arm("grpo", {**OFTEN_UPDATED, "clip_high": 0.28}),
    "aha_100": Arm("grpo", {**OFTEN_UPDATED, "clip_high": 1.0}),
    "aha_4_updates": Arm("grpo", {**SELDOM, "steps": 24, "minibatches": 4}),
    "aha_8_updates": Arm("grpo", {**SELDOM, "minibatches": 8}),
}
COMPARED = tuple(ARMS)

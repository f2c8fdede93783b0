"""Rollouts that are some steps old, under four losses and three learning rates."""

import itertools
from dataclasses import replace

from experiments.catalogue.arm import Arm

AXIS = "none: the age of a rollout"
HYPOTHESIS = (
    "A rollout that is some steps old is off-policy in secret. REINFORCE, without ratio and "
    "clip, and CISPO, which caps the weight but keeps every gradient, break first; GRPO and "
    "GSPO, whose clips drop tokens, hold. What counts is lag times learning rate."
)
LAGS = (1, 2, 4, 8)
RATES = {"low": 5e-4, "mid": 1e-3, "high": 2e-3}
# One update per rollout, so that nothing but its age makes it off-policy.
AGED = {"steps": 20, "eval_every": 20, "eval_problems": 128, "minibatches": 1}
AGED |= {"prompts_per_step": 8, "max_new_tokens": 128}
AGED_SCRIPTS = {  # the loss: its arm, but for the lag and the learning rate
    "grpo": Arm("grpo", {**AGED, "kl_coef": 0.0}),
    "gspo": Arm("gspo", {**AGED, "kl_coef": 0.0}),
    "cispo": Arm("cispo", AGED),
    "reinforce": Arm("grpo", {**AGED, "kl_coef": 0.0}, {"policy_loss": "experiments.lag"}),
}
ARMS = {
    f"aged_{loss}_{lag}_{name}": replace(
        arm,
        flags={**arm.flags, "learning_rate": rate},
        lag=lag,
    )
    for loss, arm in AGED_SCRIPTS.items()
    for lag, (name, rate) in itertools.product((0, *LAGS), RATES.items())
    if lag or loss == "grpo"  # at no lag the ratio is 1, and the loss makes no difference
}
COMPARED = tuple(ARMS)

"""A sampler that is not the policy: rollouts in fp8 or int4 weights, or four steps old.

Five ways to treat its log-probs: believe them, forget them, cap or drop by what they are off, or
mask failures that the policy has left.
"""

from experiments.catalogue.arm import STALE, Arm
from experiments.catalogue.lag import AGED

AXIS = "sampler"
HYPOTHESIS = (
    "In fp8 the sampler is so near that nothing shows. In int4 a clip that believes the sampler's "
    "log-probs stops tokens that no update has moved yet, and after sixteen updates accuracy is "
    "far behind a fine sampler's. Computing pi_old afresh repairs most of that; capping or "
    "dropping by pi_old / mu on top adds no accuracy that shows. Rollouts four steps old, their "
    "age forgotten, break training as REINFORCE does; capped weights keep it alive."
)
FAR = {**STALE, "kl_coef": 0.0}
OLD = {**AGED, "kl_coef": 0.0, "learning_rate": 1e-3}
AFRESH = (
    "            rollout.logprobs = over_rollout(completion_logprobs, model, rollout, config)\n"
)
ALWAYS_AFRESH = {
    "            if common.uses_bf16(config):  # the sampler rounds differently: take pi_old "
    f"afresh\n    {AFRESH}": AFRESH
}
DROPPED = {
    "            rollout.weights = torch.exp(old - mu).clamp(max=config.max_weight)\n": (
        "            weights = torch.exp(old - mu)\n"
        "            near = (weights <= config.max_weight) & (weights >= 1 / config.max_weight)\n"
        "            rollout.weights = weights * near\n"
    )
}
MASKED = ("zoo.deepseek_v32:sampler",)
ARMS = {
    "fine_believed": Arm("grpo", FAR),
    "bf16_believed": Arm("grpo", FAR, sampler="bf16"),
    "fp8_believed": Arm("grpo", FAR, sampler="fp8"),
    "fp8_capped": Arm("zoo.tis", FAR, sampler="fp8"),
    "int4_believed": Arm("grpo", FAR, sampler="int4"),
    "int4_forgotten": Arm("grpo", FAR, sampler="int4", edits=ALWAYS_AFRESH),
    "int4_capped": Arm("zoo.tis", FAR, sampler="int4"),
    "int4_dropped": Arm("zoo.tis", FAR, sampler="int4", edits=DROPPED),
    "int4_masked": Arm("mine", FAR, sampler="int4", parts=MASKED),
    "old_forgotten": Arm("grpo", OLD, lag=4, edits=ALWAYS_AFRESH),
    "old_capped": Arm("zoo.tis", OLD, lag=4),
    "old_masked": Arm("mine", OLD, lag=4, parts=MASKED),
}
COMPARED = (*ARMS, "aged_grpo_4_mid", "aged_reinforce_4_mid")

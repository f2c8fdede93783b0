"""Length without use: 1/|o| or a constant, with the std or without; the token mean.

Only the first line of a search can pay, or a random reward does.
"""

from experiments.catalogue.arm import TEN_SEEDS, Arm

AXIS = "length + std"
HYPOTHESIS = (
    "Where going on cannot pay, and the policy can tell that it cannot, 1/|o| makes going on "
    "cheaper the longer a completion is: wrong completions grow to at least twice the length "
    "that they have under a constant by step 30, with the std or without it. The token mean "
    "drifts a tenth as much. Under a random reward no arm drifts apart from another."
)
# Only the first line of a search can pay; the budget leaves length room to grow.
FIRST = {"steps": 30, "eval_every": 30, "max_new_tokens": 512, "reward_weights": [1.0]}
FIRST |= {"reward_components": ["first_try"]}
COIN = {**FIRST, "reward_components": ["coin"]}
ARMS = {
    "first_grpo": Arm("grpo", {**FIRST, "kl_coef": 0.0}, seeds=TEN_SEEDS),
    "first_no_std": Arm(
        "grpo", {**FIRST, "kl_coef": 0.0}, {"compute_advantages": "dr_grpo"}, seeds=TEN_SEEDS
    ),
    "first_constant": Arm(
        "grpo", {**FIRST, "kl_coef": 0.0}, {"aggregate_loss": "dr_grpo"}, seeds=TEN_SEEDS
    ),
    "first_dr_grpo": Arm("dr_grpo", FIRST, seeds=TEN_SEEDS),
    "first_token_mean": Arm(
        "grpo", {**FIRST, "kl_coef": 0.0}, {"aggregate_loss": "dapo"}, seeds=TEN_SEEDS
    ),
    "coin_grpo": Arm("grpo", {**COIN, "kl_coef": 0.0}, seeds=TEN_SEEDS),
    "coin_constant": Arm(
        "grpo", {**COIN, "kl_coef": 0.0}, {"aggregate_loss": "dr_grpo"}, seeds=TEN_SEEDS
    ),
    "coin_token_mean": Arm(
        "grpo", {**COIN, "kl_coef": 0.0}, {"aggregate_loss": "dapo"}, seeds=TEN_SEEDS
    ),
}
COMPARED = tuple(ARMS)

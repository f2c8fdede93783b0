"""Which bound of the clip loses entropy under a random reward, which says nothing."""

from experiments.catalogue.arm import TEN_SEEDS, Arm
from experiments.catalogue.length_inflation import COIN

AXIS = "clip width"
HYPOTHESIS = (
    "Under a random reward the expected gradient is 0, and the clip alone has a direction: the "
    "bound above takes entropy at base-uncertain tokens, the bound below gives some. So 0.2 / 0.2 "
    "loses what 0.2 / 0.28 keeps; a bound of 0.05 below keeps more than the same bound above."
)
# Sixteen updates per rollout, so that the clip has something to stop.
COIN_CLIP = {**COIN, "steps": 40, "eval_every": 40, "max_new_tokens": 96, "minibatches": 16}
COIN_CLIP |= {"kl_coef": 0.0}
ARMS = {
    "coin_symmetric": Arm("grpo", COIN_CLIP, seeds=TEN_SEEDS),
    "coin_higher": Arm("grpo", {**COIN_CLIP, "clip_high": 0.28}, seeds=TEN_SEEDS),
    "coin_tight_above": Arm("grpo", {**COIN_CLIP, "clip_high": 0.05}, seeds=TEN_SEEDS),
    "coin_tight_below": Arm("grpo", {**COIN_CLIP, "clip_low": 0.05}, seeds=TEN_SEEDS),
    "coin_no_clip": Arm("grpo", {**COIN_CLIP, "clip_low": 1.0, "clip_high": 1e6}, seeds=TEN_SEEDS),
}
COMPARED = tuple(ARMS)

"""An exploitable reward: it takes the completion's own word for it.

The mixture base errs in one of nine times that it says "yes".
"""

from experiments.catalogue.arm import NO_KL, Arm

AXIS = "none: the reward"
HYPOTHESIS = (
    "A reward that believes the completion's own 'yes' is learnt at the cost of true answers: "
    "reward rises, accuracy does not."
)
CLAIM = {"reward_components": ["claim"], "reward_weights": [1.0]}
MIXTURE = {"model": "experiments/moe_base"}
ARMS = {
    "true_reward": Arm("grpo", {**NO_KL, **MIXTURE}),
    "seam": Arm("grpo", {**NO_KL, **CLAIM, **MIXTURE}),
}
COMPARED = tuple(ARMS)

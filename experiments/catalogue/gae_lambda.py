"""PPO's lambda (a module cannot be called lambda, as its experiment is)."""

from experiments.catalogue.arm import OFTEN, SHORT, Arm

AXIS = "zoo: advantage"
HYPOTHESIS = (
    "A smaller lambda gives credit to the tokens just before the reward, and an early wait "
    "gets next to none: advantages spread more within completions, completions stay shorter "
    "in steps 6-10, and accuracy at step 10 is behind."
)
ARMS = {
    "ppo_lambda_095": Arm("zoo.ppo", {**SHORT, **OFTEN, "gae_lambda": 0.95}),
    "ppo_lambda_050": Arm("zoo.ppo", {**SHORT, **OFTEN, "gae_lambda": 0.5}),
}
COMPARED = ("ppo", *ARMS)

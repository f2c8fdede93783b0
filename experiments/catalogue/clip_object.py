"""What is clipped: the update, as in PPO, or the weight alone, as in CISPO."""

from experiments.catalogue.arm import STALE, Arm

AXIS = "clip width"
HYPOTHESIS = (
    "PPO's clip takes the gradient of retry points away more often than that of digits; CISPO "
    "takes none, and retries grow faster."
)
ARMS = {
    "stale_ppo_clip": Arm("cispo", STALE, {"policy_loss": "dapo", "Config": "dapo"}),
    "stale_cispo": Arm("cispo", STALE),
}
COMPARED = tuple(ARMS)

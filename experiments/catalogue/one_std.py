"""One std for the rollout against one for each group."""

AXIS = "zoo: length + std"
HYPOTHESIS = (
    "One std for the rollout instead of one for each group takes weight from lopsided groups, "
    "as much as taking the std away does."
)
ARMS = {}  # all are other experiments' too
COMPARED = ("grpo", "reinforce_pp_baseline", "no_std")

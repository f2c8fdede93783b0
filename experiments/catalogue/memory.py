"""SPO's tracker against the mean of a completion's siblings."""

AXIS = "zoo: advantage"
HYPOTHESIS = (
    "No completion of SPO is without signal. Once problems have come back, from step 11 on, "
    "its tracker explains as much of the rewards' variance as the mean of 15 siblings does, "
    "from one completion."
)
ARMS = {}  # both are other experiments' too
COMPARED = ("grpo", "spo")

"""PRIME's process rewards, from a reward model that has not seen the outcomes or that has."""

from experiments.catalogue.arm import OFTEN, SHORT, Arm

AXIS = "zoo: the reward"
HYPOTHESIS = (
    "A reward model that has just been shown a rollout's outcomes ranks that rollout far "
    "better than a fresh one: part of its process reward repeats the outcome. Fresh, it still "
    "ranks better than chance after 20 steps. Accuracy is within noise either way."
)
# What a reward model that has learnt the outcomes says goes into the advantages.
SEEN = {
    "compute_advantages(rewards, process, rollout.mask, config)": (
        "compute_advantages(rewards, seen, rollout.mask, config)"
    )
}
ARMS = {
    "prime": Arm("zoo.prime", OFTEN),
    "prime_seen": Arm("zoo.prime", SHORT, edits=SEEN),
}
COMPARED = ("rloo", *ARMS)

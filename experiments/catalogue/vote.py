"""TTRL's vote, also where it is mostly wrong."""

from experiments.catalogue.arm import SHORT, Arm

AXIS = "zoo: the reward"
HYPOTHESIS = (
    "Wrong answers scatter: the vote's label is right in more groups than completions are "
    "right, and after 15 steps in nearly all. Where the base is right in 7 % of completions "
    "wrong answers win the vote, and TTRL falls behind the verifier."
)
# The base solves 7 % of these problems; in a quarter of the groups of 16 at least one is right.
HARD = {**SHORT, "max_number": 20, "max_target": 99}
ARMS = {"hard_verified": Arm("grpo", HARD), "hard_voted": Arm("zoo.ttrl", HARD)}
COMPARED = ("ttrl", *ARMS)

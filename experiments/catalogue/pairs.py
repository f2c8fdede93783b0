"""Every pair of scripts that composes, at the defaults."""

from experiments.catalogue.arm import SHORT, Arm
from experiments.catalogue.defaults import SCRIPTS

AXIS = "all: two scripts at once"
HYPOTHESIS = (
    "No pair that composes ends below both of its parents, or above both, by more than noise: "
    "where neither parent fails, accuracy after 20 steps is within noise of the parents' mean. "
    "Tokens follow the parent that moves sampling or turns."
)
PARTS = [*SCRIPTS[1:], "zoo.gigpo", "zoo.gmpo", "zoo.ppo", "zoo.prime", "zoo.reinforce_pp"]
PARTS += ["zoo.reinforce_pp_baseline", "zoo.rloo", "zoo.spo", "zoo.ttrl"]
# Those of the 91 pairs of PARTS that compose, in the order in which they do. They are written down
# because finding them takes seconds; tests/experiments holds them to what compose says.
PAIRS = (
    ("dr_grpo", "dapo"),
    ("dr_grpo", "gspo"),
    ("dr_grpo", "gdpo"),
    ("dr_grpo", "cispo"),
    ("dr_grpo", "zoo.gigpo"),
    ("dr_grpo", "zoo.gmpo"),
    ("dr_grpo", "zoo.reinforce_pp"),
    ("dr_grpo", "zoo.reinforce_pp_baseline"),
    ("dr_grpo", "zoo.rloo"),
    ("dr_grpo", "zoo.ttrl"),
    ("dapo", "gspo"),
    ("dapo", "gdpo"),
    ("dapo", "cispo"),
    ("dapo", "zoo.gigpo"),
    ("dapo", "zoo.gmpo"),
    ("dapo", "zoo.ppo"),
    ("dapo", "zoo.prime"),
    ("dapo", "zoo.reinforce_pp"),
    ("dapo", "zoo.reinforce_pp_baseline"),
    ("dapo", "zoo.rloo"),
    ("gspo", "gdpo"),
    ("cispo", "gspo"),
    ("gspo", "zoo.reinforce_pp_baseline"),
    ("zoo.rloo", "gspo"),
    ("zoo.spo", "gspo"),
    ("gspo", "zoo.ttrl"),
    ("gdpo", "cispo"),
    ("zoo.gigpo", "gdpo"),
    ("gdpo", "zoo.gmpo"),
    ("gdpo", "zoo.reinforce_pp_baseline"),
    ("gdpo", "zoo.ttrl"),
    ("cispo", "zoo.gigpo"),
    ("cispo", "zoo.gmpo"),
    ("cispo", "zoo.ppo"),
    ("cispo", "zoo.prime"),
    ("cispo", "zoo.reinforce_pp"),
    ("cispo", "zoo.reinforce_pp_baseline"),
    ("zoo.spo", "cispo"),
    ("cispo", "zoo.ttrl"),
    ("zoo.gigpo", "zoo.ppo"),
    ("zoo.gigpo", "zoo.prime"),
    ("zoo.gigpo", "zoo.reinforce_pp"),
    ("zoo.gigpo", "zoo.reinforce_pp_baseline"),
    ("zoo.gigpo", "zoo.rloo"),
    ("zoo.gigpo", "zoo.ttrl"),
    ("zoo.gmpo", "zoo.reinforce_pp_baseline"),
    ("zoo.rloo", "zoo.gmpo"),
    ("zoo.spo", "zoo.gmpo"),
    ("zoo.gmpo", "zoo.ttrl"),
    ("zoo.reinforce_pp_baseline", "zoo.ttrl"),
    ("zoo.rloo", "zoo.spo"),
    ("zoo.rloo", "zoo.ttrl"),
)
ARMS = {
    "+".join(script.rpartition(".")[2] for script in pair): Arm(
        "mine", SHORT, seeds=(1, 2), parts=pair
    )
    for pair in PAIRS
}
COMPARED = tuple(ARMS)

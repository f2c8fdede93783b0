"""Symptoms planted for tools/diagnose.py.

Length pays on problems without a solution; a search in one fixed order pays.
"""

from experiments.catalogue.arm import NO_KL, Arm

AXIS = "none: symptoms for tools/diagnose.py"
HYPOTHESIS = (
    "Paid for length alone, on problems without a solution, completions grow without being "
    "right; paid for one fixed order of search the policy narrows: entropy falls."
)
VERBOSE = {"reward_components": ["verbose"], "reward_weights": [1.0]}
ORDERLY = {"reward_components": ["orderly"], "reward_weights": [1.0]}
UNSOLVABLE = {"data": "experiments/unsolvable.jsonl", "eval_problems": 24}
ARMS = {
    "only_verbose": Arm("grpo", {**NO_KL, **VERBOSE, **UNSOLVABLE}),
    "only_orderly": Arm("grpo", {**NO_KL, **ORDERLY}),
}
COMPARED = tuple(ARMS)

"""Twenty runs that tools/diagnose.py has to name: none of its thresholds was set on them.

Each says what it is planted to be, and which symptoms it is planted to show, before it is run.
"""

from dataclasses import dataclass

from experiments.catalogue.arm import Arm

AXIS = "none: states and symptoms for tools/diagnose.py"
HYPOTHESIS = (
    "Of twenty runs, five of each state, on none of which a threshold was set, tools/diagnose.py "
    "names the state of at least eighteen, and shows all but two of the symptoms that were planted."
)


@dataclass(frozen=True)
class Plant:
    """A run and what it is planted to be: its state, and symptoms that have to show.

    Others may show too. A run that stops in its first steps is too short for symptoms.
    """

    state: str
    arm: Arm
    symptoms: tuple[str, ...] = ()


QUICK = {"steps": 14, "eval_every": 14, "eval_problems": 128}
# What breaks fills its budget: fewer completions, and shorter ones.
CHEAP = {**QUICK, "prompts_per_step": 8, "max_new_tokens": 128}


def paid_for(component):
    """The flags of a reward that is this component alone."""
    return {"reward_components": [component], "reward_weights": [1.0]}


SILENT = ("groups without signal",)
BREAKS = ("training breaks",)
HACKS = ("reward rises, accuracy does not",)
DISAGREE = ("sampler and update disagree",)
PLANTS = {
    "healthy_baseline": Plant(
        "healthy",
        Arm(
            "zoo.reinforce_pp_baseline", {**QUICK, "max_number": 10, "max_target": 40}, seeds=(101,)
        ),
    ),
    "healthy_gmpo": Plant("healthy", Arm("zoo.gmpo", {**QUICK, "min_target": 20}, seeds=(102,))),
    "healthy_sapo": Plant("healthy", Arm("zoo.sapo", {**QUICK, "max_target": 48}, seeds=(103,))),
    "healthy_fp8": Plant("healthy", Arm("zoo.tis", QUICK, sampler="fp8", seeds=(104,))),
    "healthy_int4": Plant("healthy", Arm("zoo.tis", QUICK, sampler="int4", seeds=(105,)), DISAGREE),
    # The base has only ever seen three numbers.
    "starved_four": Plant(
        "starved", Arm("dr_grpo", {**QUICK, "operands": 4}, seeds=(106,)), SILENT
    ),
    # Never right, though the format can still be learnt: larger numbers spoil it.
    "starved_large": Plant(
        "starved",
        Arm(
            "grpo", {**QUICK, "max_number": 60, "min_target": 100, "max_target": 500}, seeds=(107,)
        ),
        SILENT,
    ),
    "starved_cut": Plant(
        "starved",
        Arm(
            "dapo",
            {**QUICK, "max_new_tokens": 20, "overlong_cache": 5, "max_refills": 2},
            seeds=(108,),
        ),
        ("every completion is cut",),
    ),
    # So hot that the tags are never in their places.
    "starved_format": Plant(
        "starved",
        Arm("cispo", {**QUICK, "temperature": 6.0}, seeds=(109,)),
        ("never writes the format",),
    ),
    # 1 * a * b: a dozen problems, learnt by heart.
    "starved_easy": Plant(
        "starved",
        Arm(
            "grpo",
            {**QUICK, **paid_for("answer"), "learning_rate": 3e-4, "prompts_per_step": 8}
            | {"data": "experiments/easy.jsonl", "eval_problems": 4, "steps": 18},
            seeds=(110,),
        ),
        SILENT,
    ),
    "broken_rate": Plant(
        "broken", Arm("dr_grpo", {**CHEAP, "learning_rate": 5e-3}, seeds=(111,)), BREAKS
    ),
    "broken_no_clip": Plant(
        "broken",
        Arm(
            "grpo",
            {**QUICK, "max_new_tokens": 128, "minibatches": 16, "learning_rate": 8e-4}
            | {"clip_low": 1.0, "clip_high": 1e6, "kl_coef": 0.0},
            seeds=(112,),
        ),
        (*BREAKS, "token ratios are noisy"),
    ),
    "broken_old": Plant(
        "broken",
        Arm("cispo", {**CHEAP, "minibatches": 1, "learning_rate": 3e-3}, lag=6, seeds=(113,)),
        (*BREAKS, *DISAGREE),
    ),
    # Stops at once: its numbers are no longer finite.
    "broken_stop": Plant("broken", Arm("zoo.gmpo", {**CHEAP, "learning_rate": 1e20}, seeds=(114,))),
    "broken_gdpo": Plant(
        "broken",
        Arm("gdpo", {**CHEAP, "minibatches": 8, "learning_rate": 2e-3}, seeds=(115,)),
        BREAKS,
    ),
    "hacked_brevity": Plant(
        "hacked", Arm("gspo", {**QUICK, **paid_for("brevity")}, seeds=(116,)), HACKS
    ),
    "hacked_plain": Plant(
        "hacked", Arm("dr_grpo", {**QUICK, **paid_for("plain")}, seeds=(117,)), HACKS
    ),
    "hacked_verbose": Plant(
        "hacked", Arm("cispo", {**QUICK, **paid_for("verbose")}, seeds=(118,)), HACKS
    ),
    "hacked_claim": Plant(
        "hacked",
        Arm(
            "grpo", {**QUICK, **paid_for("claim"), "max_number": 20, "max_target": 99}, seeds=(119,)
        ),
        HACKS,
    ),
    # All answers are wrong, and the vote takes one of them for right.
    "hacked_vote": Plant("hacked", Arm("zoo.ttrl", {**QUICK, "operands": 4}, seeds=(120,)), HACKS),
}
ARMS = {name: plant.arm for name, plant in PLANTS.items()}
COMPARED = tuple(ARMS)

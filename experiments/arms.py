"""Every experiment as data: hypotheses, arms, and the rewards that only experiments use.

An arm is a script with flags; where an axis has to move alone, single functions are swapped for
another script's. `python -m experiments.run --list` shows all of it.
"""

import hashlib
import itertools
import re
import statistics
from dataclasses import dataclass, field, replace

import common
from compose import composition

LOGS = common.HERE / "experiments/logs"
SEEDS = (1, 2, 3, 4, 5)
SCRIPTS = ("grpo", "dr_grpo", "dapo", "gspo", "gdpo", "cispo")


@dataclass(frozen=True)
class Arm:
    """A script, such as grpo or zoo.rloo, with flags; mine is what compose.py makes of the parts.

    edits = {lines of the script: what stands there instead};
    swap = {function: the script it is taken from instead}; lag: steps that a rollout is old.
    """

    script: str
    flags: dict = field(default_factory=dict)
    swap: dict = field(default_factory=dict)
    lag: int = 0
    seeds: tuple[int, ...] = SEEDS
    parts: tuple[str, ...] = ()
    edits: dict = field(default_factory=dict)

    def command(self, seed):
        """The command line that gives the same run without probes, without swaps and edits."""
        flags = {"seed": seed, **self.flags}
        parts = [
            f"--{k} {' '.join(map(str, v)) if isinstance(v, list) else v}" for k, v in flags.items()
        ]
        program = f"-m {self.script}" if "." in self.script else f"{self.script}.py"
        made = f"python compose.py {' '.join(self.parts)} -o mine.py; " if self.parts else ""
        return f"{made}python {program} {' '.join(parts)}"


@dataclass(frozen=True)
class Experiment:
    """Arms compared on one metric; when its hypothesis was written: results.md."""

    axis: str
    hypothesis: str
    arms: tuple[str, ...]


def alone(part):
    """Name of the arm in which nothing but this part of a bundle is moved."""
    return f"alone_{part.replace(':', '_')}"


def without(part, bundle):
    """Name of the arm in which all of a bundle but this part is moved."""
    return f"{bundle}_without_{part.replace(':', '_')}"


def arms_of(bundle):
    """Names of its arms with one part alone, and with one left out."""
    parts = BUNDLES[bundle]
    return [*map(alone, parts), *(without(part, bundle) for part in parts)]


def patch(name):
    """The edit of a patch in docs/bugs: {the line that goes: the line that comes}."""
    text = (common.HERE / f"docs/bugs/{name}.patch").read_text(encoding="utf-8")
    old, new = [line[1:] for line in text.splitlines()[3:] if line[0] in "-+"]
    return {old: new}


OFTEN = {"eval_every": 5}
SHORT = {"steps": 20, "eval_every": 20}
BRIEF = {"steps": 12, "eval_every": 12}
NO_KL = {**SHORT, "kl_coef": 0.0}
# Sixteen updates per rollout at 2.5 times the default rate: the policy leaves the sampler behind
# and the clip bites. At twice that rate training breaks.
STALE = {**BRIEF, "minibatches": 16, "learning_rate": 5e-4}
HOT = {**STALE, "learning_rate": 1e-3}
# The base solves 7 % of these problems; in a quarter of the groups of 16 at least one is right.
HARD = {**SHORT, "max_number": 20, "max_target": 99}
# Only the first line of a search can pay; the budget leaves length room to grow.
FIRST = {"steps": 30, "eval_every": 30, "max_new_tokens": 512, "reward_weights": [1.0]}
FIRST |= {"reward_components": ["first_try"]}
COIN = {**FIRST, "reward_components": ["coin"]}
# Sixteen updates per rollout, so that the clip has something to stop.
COIN_CLIP = {**COIN, "steps": 40, "eval_every": 40, "max_new_tokens": 96, "minibatches": 16}
COIN_CLIP |= {"kl_coef": 0.0}
FIRST_CLIP = {**FIRST, "steps": 20, "eval_every": 20, "minibatches": 16, "learning_rate": 3e-4}
# A base that tries again after 2 % of failed lines: see prepare_model in run.py.
SELDOM = {"steps": 16, "eval_every": 4, "kl_coef": 0.0, "model": "runs/seldom_wait"}
OFTEN_UPDATED = {**SELDOM, "minibatches": 16}
# One update per rollout, so that nothing but its age makes it off-policy.
AGED = {"steps": 20, "eval_every": 20, "eval_problems": 128, "minibatches": 1}
AGED |= {"prompts_per_step": 8, "max_new_tokens": 128}
LAGS = (1, 2, 4, 8)
# Long enough for a curve to flatten; RARE problems are solved by the base 7 times in 100.
CEILING = {"steps": 120, "eval_every": 10, "max_new_tokens": 768}
RARE = {"max_number": 20, "max_target": 99}
RATES = {"low": 5e-4, "mid": 1e-3, "high": 2e-3}
FORMAT = {"reward_components": ["answer", "format"], "reward_weights": [1.0, 0.1]}
BEYOND = {**SHORT, **OFTEN, "max_number": 20, "max_target": 99}
MIXTURE = {**STALE, "kl_coef": 0.0, "model": "experiments/moe_base"}
TWO = {**BRIEF, "reward_components": ["answer", "brevity"], "reward_weights": [1.0, 1.0]}
THREE = {
    **BRIEF,
    "reward_components": ["answer", "brevity", "plain"],
    "reward_weights": [1.0, 1.0, 1.0],
}
ONLY = {
    name: {"reward_components": [name], "reward_weights": [1.0]}
    for name in ("claim", "verbose", "orderly")
}
# Sixteen updates, so that a clip has something to do.
ABLATION = {**SHORT, "minibatches": 16}
BUNDLES = {
    "dapo": ("dapo:clip_width", "dapo:length", "dapo:kl", "dapo:sampling"),
    "scalerl": ("cispo:clip_width", "dapo:length", "dapo:kl", "reinforce_pp_baseline:std"),
}
ABLATIONS = {f"ablation_{bundle}": bundle for bundle in BUNDLES}  # {experiment: bundle}
# What exercise 8 changes in grpo.py: the model's own certainty is paid.
CERTAINTY = {
    "            entropy[rows, t] = -(logp.exp() * logp).sum(-1)\n": (
        "            entropy[rows, t] = -logp.mean(-1) - math.log(logp.shape[-1])\n"
    ),
    "    return rollout, compute_rewards(rollout.problems, rollout.completions, config)\n": (
        "    rewards = compute_rewards(rollout.problems, rollout.completions, config)\n"
        "    certainty = (rollout.entropy.sum(1) / rollout.mask.sum(1)).view_as(rewards[..., 0])\n"
        "    rewards[..., 0] = certainty.to(rewards)\n"
        "    return rollout, rewards\n"
    ),
    "from dataclasses import": "import math\nfrom dataclasses import",
}
# Planted faults, under a coefficient that makes the KL count.
FAULTY = {"steps": 12, "eval_every": 12, "kl_coef": 0.4}
ARMS = {
    # All six with their own defaults.
    "grpo": Arm("grpo", OFTEN),
    "dr_grpo": Arm("dr_grpo", OFTEN),
    "dapo": Arm("dapo", OFTEN),
    "gspo": Arm("gspo", OFTEN),
    "gdpo": Arm("gdpo", OFTEN),
    "cispo": Arm("cispo", OFTEN),
    # The ladder of baselines, with their own defaults.
    "rloo": Arm("zoo.rloo", OFTEN),
    "reinforce_pp": Arm("zoo.reinforce_pp", OFTEN),
    "reinforce_pp_baseline": Arm("zoo.reinforce_pp_baseline", OFTEN),
    "gmpo": Arm("zoo.gmpo", OFTEN),
    "spo": Arm("zoo.spo", OFTEN),
    "ttrl": Arm("zoo.ttrl", OFTEN),
    # The critic comes back: PPO and VAPO with their own defaults, their lambdas; rewards per token.
    "ppo": Arm("zoo.ppo", OFTEN),
    "vapo": Arm("zoo.vapo", OFTEN),
    "prime": Arm("zoo.prime", OFTEN),
    "ppo_lambda_095": Arm("zoo.ppo", {**SHORT, **OFTEN, "gae_lambda": 0.95}),
    "ppo_lambda_050": Arm("zoo.ppo", {**SHORT, **OFTEN, "gae_lambda": 0.5}),
    "vapo_paper": Arm("zoo.vapo", {**SHORT, "gae_alpha": 0.05}),
    "prime_seen": Arm("zoo.prime", {**SHORT, "score": "seen"}),
    # Turns: GiGPO; grpo.py's advantage on the same turns; the pitfall; problems beyond the base.
    "gigpo": Arm("zoo.gigpo", OFTEN),
    "turns_grpo": Arm("zoo.gigpo", {**SHORT, **OFTEN, "step_coef": 0.0}),
    "turns_format": Arm("zoo.gigpo", {**SHORT, **OFTEN, **FORMAT}),
    "turns_format_grpo": Arm("zoo.gigpo", {**SHORT, **OFTEN, **FORMAT, "step_coef": 0.0}),
    "turns_hard": Arm("zoo.gigpo", BEYOND),
    "turns_hard_grpo": Arm("zoo.gigpo", {**BEYOND, "step_coef": 0.0}),
    # KL; the default coefficient is "grpo" above, up to the same step.
    "kl_0": Arm("grpo", NO_KL),
    "kl_10x": Arm("grpo", {**SHORT, "kl_coef": 0.4}),
    # Length and std, one at a time; kl_0 is the reference.
    "token_mean": Arm("grpo", NO_KL, {"aggregate_loss": "dapo"}),
    "constant_length": Arm("grpo", NO_KL, {"aggregate_loss": "dr_grpo"}),
    "no_std": Arm("grpo", {**BRIEF, "kl_coef": 0.0}, {"compute_advantages": "dr_grpo"}),
    # Clip width, clip object and granularity, where the policy has moved away from the sampler.
    "stale_symmetric": Arm("grpo", {**STALE, "kl_coef": 0.0}),
    "stale_higher": Arm("grpo", {**STALE, "kl_coef": 0.0, "clip_high": 0.28}),
    "stale_wide": Arm("grpo", {**STALE, "kl_coef": 0.0, "clip_high": 1.0}),
    "stale_sequence": Arm("gspo", {**STALE, "kl_coef": 0.0}),
    "stale_geometric": Arm("zoo.gmpo", {**STALE, "kl_coef": 0.0}),
    "stale_product": Arm("zoo.rloo", {**STALE, "kl_coef": 0.0}),
    "stale_ppo_clip": Arm("cispo", STALE, {"policy_loss": "dapo", "Config": "dapo"}),
    "stale_cispo": Arm("cispo", STALE),
    "hot_token": Arm("grpo", {**HOT, "kl_coef": 0.0}),
    "hot_sequence": Arm("gspo", {**HOT, "kl_coef": 0.0}),
    "mixture_token": Arm("grpo", MIXTURE),
    "mixture_sequence": Arm("gspo", MIXTURE),
    # Advantage: pooled against decoupled.
    "pooled_two": Arm("grpo", TWO),
    "decoupled_two": Arm("gdpo", TWO),
    "pooled_three": Arm("grpo", THREE),
    "decoupled_three": Arm("gdpo", THREE),
    # Sampling; evaluated often, because refilling makes the batch's own accuracy a biased sample.
    "static": Arm("dapo", {**SHORT, **OFTEN, "max_refills": 0}),
    "dynamic": Arm("dapo", {**SHORT, **OFTEN}),
    # A vote that is mostly wrong.
    "hard_verified": Arm("grpo", HARD),
    "hard_voted": Arm("zoo.ttrl", HARD),
    # Length without use: 1/|o| or a constant, with the std or without; the token mean.
    "first_grpo": Arm("grpo", {**FIRST, "kl_coef": 0.0}),
    "first_no_std": Arm("grpo", {**FIRST, "kl_coef": 0.0}, {"compute_advantages": "dr_grpo"}),
    "first_constant": Arm("grpo", {**FIRST, "kl_coef": 0.0}, {"aggregate_loss": "dr_grpo"}),
    "first_dr_grpo": Arm("dr_grpo", FIRST),
    "first_token_mean": Arm("grpo", {**FIRST, "kl_coef": 0.0}, {"aggregate_loss": "dapo"}),
    "coin_grpo": Arm("grpo", {**COIN, "kl_coef": 0.0}),
    "coin_constant": Arm("grpo", {**COIN, "kl_coef": 0.0}, {"aggregate_loss": "dr_grpo"}),
    "coin_token_mean": Arm("grpo", {**COIN, "kl_coef": 0.0}, {"aggregate_loss": "dapo"}),
    # Entropy: which clip loses it under a reward that says nothing, and under one that pays.
    "coin_symmetric": Arm("grpo", COIN_CLIP),
    "coin_higher": Arm("grpo", {**COIN_CLIP, "clip_high": 0.28}),
    "coin_tight_above": Arm("grpo", {**COIN_CLIP, "clip_high": 0.05}),
    "coin_tight_below": Arm("grpo", {**COIN_CLIP, "clip_low": 0.05}),
    "coin_no_clip": Arm("grpo", {**COIN_CLIP, "clip_low": 1.0, "clip_high": 1e6}),
    "paid_symmetric": Arm("dr_grpo", FIRST_CLIP),
    "paid_higher": Arm("dr_grpo", {**FIRST_CLIP, "clip_high": 0.28}),
    "paid_wide": Arm("dr_grpo", {**FIRST_CLIP, "clip_high": 1.0}),
    # The 'aha': trying again takes off; by the bound above, and by updates per rollout.
    "aha_005": Arm("grpo", {**OFTEN_UPDATED, "clip_high": 0.05}),
    "aha_020": Arm("grpo", OFTEN_UPDATED),
    "aha_028": Arm("grpo", {**OFTEN_UPDATED, "clip_high": 0.28}),
    "aha_100": Arm("grpo", {**OFTEN_UPDATED, "clip_high": 1.0}),
    "aha_4_updates": Arm("grpo", {**SELDOM, "steps": 24, "minibatches": 4}),
    "aha_8_updates": Arm("grpo", {**SELDOM, "minibatches": 8}),
    # Symptoms planted for tools/diagnose.py: length pays on problems without a solution; a
    # search in one fixed order pays.
    "only_verbose": Arm(
        "grpo",
        {**NO_KL, **ONLY["verbose"], "data": "experiments/unsolvable.jsonl", "eval_problems": 24},
    ),
    "only_orderly": Arm("grpo", {**NO_KL, **ONLY["orderly"]}),
    # Four times the default number of steps.
    "long": Arm("grpo", {"steps": 120}, seeds=(1, 2)),
    # A reward with a seam: it takes the completion's own word for it. The mixture base errs in
    # one of nine times that it says "yes".
    "true_reward": Arm("grpo", {**NO_KL, "model": "experiments/moe_base"}),
    "seam": Arm("grpo", {**NO_KL, **ONLY["claim"], "model": "experiments/moe_base"}),
    # What exercises change, beside arms above: a clip of 0.2 on a sequence ratio, Lite PPO, a
    # reward of certainty, and five planted faults.
    "dead_clip": Arm("grpo", {**STALE, "kl_coef": 0.0}, {"policy_loss": "gspo"}),
    "lite_ppo": Arm(
        "mine",
        {"steps": 10, "eval_every": 10},
        parts=("reinforce_pp_baseline:std", "dapo:length"),
    ),
    "certainty": Arm("grpo", {"steps": 90}, edits=CERTAINTY),
    "no_fault": Arm("grpo", FAULTY),
    **{f"fault_{name}": Arm("grpo", FAULTY, edits=patch(name)) for name in "abcde"},
}
AGED_SCRIPTS = {  # the loss: its arm, but for the lag and the learning rate
    "grpo": Arm("grpo", {**AGED, "kl_coef": 0.0}),
    "gspo": Arm("gspo", {**AGED, "kl_coef": 0.0}),
    "cispo": Arm("cispo", AGED),
    "reinforce": Arm("grpo", {**AGED, "kl_coef": 0.0}, {"policy_loss": "experiments.lag"}),
}
for loss, arm in AGED_SCRIPTS.items():  # at no lag the ratio is 1, and the loss makes no difference
    for lag, (name, rate) in itertools.product((0, *LAGS), RATES.items()):
        if lag or loss == "grpo":
            flags = {**arm.flags, "learning_rate": rate}
            ARMS[f"aged_{loss}_{lag}_{name}"] = replace(arm, flags=flags, lag=lag, seeds=(1, 2, 3))
# Ceilings: all six for 120 steps, on the default problems and on rarely solved ones.
for script in SCRIPTS:
    ARMS[f"ceiling_{script}"] = Arm(script, CEILING, seeds=(1, 2, 3))
    ARMS[f"beyond_{script}"] = Arm(script, {**CEILING, **RARE}, seeds=(1, 2, 3))
# Added when two of three seeds of those were in: dr_grpo.py and dapo.py, which have no KL term,
# ended higher than grpo.py. Is it that?
RARE_NO_KL = {**CEILING, **RARE, "kl_coef": 0.0, "steps": 60}
ARMS["beyond_no_kl"] = Arm("grpo", RARE_NO_KL, seeds=(1, 2, 3))
ARMS["beyond_no_std"] = Arm("grpo", RARE_NO_KL, {"compute_advantages": "dr_grpo"}, seeds=(1, 2, 3))
# Added before those two had run: another guess at the same.
ANSWER_ALONE = {"reward_components": ["answer"], "reward_weights": [1.0]}
ANSWER_ALONE |= {**CEILING, **RARE, "steps": 60}
ARMS["beyond_answer"] = Arm("grpo", ANSWER_ALONE, seeds=(1, 2, 3))
PARTS = [*SCRIPTS[1:], "zoo.gigpo", "zoo.gmpo", "zoo.ppo", "zoo.prime", "zoo.reinforce_pp"]
PARTS += ["zoo.reinforce_pp_baseline", "zoo.rloo", "zoo.spo", "zoo.ttrl"]
# Every pair of scripts that composes, in the order in which it does.
PAIRS = [
    order
    for pair in itertools.combinations(PARTS, 2)
    if (order := composition.in_some_order(*pair)[0])
]
for order in PAIRS:
    name = "+".join(script.rpartition(".")[2] for script in order)
    ARMS[name] = Arm("mine", SHORT, seeds=(1, 2), parts=order)
PAIR_ARMS = tuple(name for name in ARMS if "+" in name)
# Two bundles taken apart: every move alone, and the whole without it.
ARMS["bare"] = Arm("grpo", ABLATION)
for bundle, parts in BUNDLES.items():
    ARMS[f"whole_{bundle}"] = Arm("mine", ABLATION, parts=parts)
    for part in parts:
        rest = tuple(other for other in parts if other != part)
        ARMS[alone(part)] = Arm("mine", ABLATION, parts=(part,))
        ARMS[without(part, bundle)] = Arm("mine", ABLATION, parts=rest)
EXPERIMENTS = {
    "length": Experiment(
        "length + std",
        "Dividing by |o| lets long wrong completions off lightly: they end longer than under the "
        "token mean or a constant, at equal accuracy.",
        ("kl_0", "token_mean", "constant_length"),
    ),
    "std": Experiment(
        "length + std",
        "Dividing by the group's std raises the weight of groups that are nearly all right or "
        "nearly all wrong against mixed ones.",
        ("kl_0", "no_std"),
    ),
    "clip_width": Experiment(
        "clip width",
        "A higher upper bound clips fewer rare tokens that did well: entropy and the share of "
        "retries stay higher.",
        ("stale_symmetric", "stale_higher", "stale_wide"),
    ),
    "clip_object": Experiment(
        "clip width",
        "PPO's clip takes the gradient of fork tokens away more often than that of digits; CISPO "
        "takes none, and retries grow faster.",
        ("stale_ppo_clip", "stale_cispo"),
    ),
    "granularity": Experiment(
        "granularity",
        "The log of the sequence ratio varies far less than that of the token ratio.",
        ("stale_symmetric", "stale_sequence"),
    ),
    "stability": Experiment(
        "granularity",
        "Where updates go too far from the sampler, the sequence ratio keeps training alive longer "
        "than the token ratio.",
        ("hot_token", "hot_sequence"),
    ),
    "mixture": Experiment(
        "granularity",
        "In a mixture of experts updates reroute tokens; rerouted tokens have wilder token ratios, "
        "and the mean over a sequence evens them out.",
        ("mixture_token", "mixture_sequence"),
    ),
    "advantage": Experiment(
        "advantage",
        "Decoupled normalisation keeps more distinct advantage levels, and every component learns.",
        ("pooled_two", "decoupled_two", "pooled_three", "decoupled_three"),
    ),
    "sampling": Experiment(
        "sampling",
        "Refilling leaves no group without signal, and costs tokens: better per optimizer step, "
        "not per token.",
        ("static", "dynamic"),
    ),
    "kl": Experiment(
        "KL",
        "A larger coefficient keeps the policy nearer the reference and slows learning; without "
        "one there is no reference model in memory.",
        ("kl_0", "grpo", "kl_10x"),
    ),
    "reward": Experiment(
        "none: the reward",
        "A reward that believes the completion's own 'yes' is learnt at the cost of true answers: "
        "reward rises, accuracy does not.",
        ("true_reward", "seam"),
    ),
    "planted": Experiment(
        "none: symptoms for tools/diagnose.py",
        "Paid for length alone, on problems without a solution, completions grow without being "
        "right; paid for one fixed order of search the policy narrows: entropy falls.",
        ("only_verbose", "only_orderly"),
    ),
    "long": Experiment(
        "none: a longer run",
        "Four times as many steps go further and do not collapse.",
        ("long",),
    ),
    "defaults": Experiment(
        "all six",
        "With their own defaults the six end within each other's seed noise; they differ in the "
        "tokens they take, not in where they end.",
        SCRIPTS,
    ),
    "length_inflation": Experiment(
        "length + std",
        "Where going on cannot pay, and the policy can tell that it cannot, 1/|o| makes going on "
        "cheaper the longer a completion is: wrong completions grow to at least twice the length "
        "that they have under a constant by step 30, with the std or without it. The token mean "
        "drifts a tenth as much. Under a coin no arm drifts apart from another.",
        (
            "first_grpo",
            "first_no_std",
            "first_constant",
            "first_dr_grpo",
            "first_token_mean",
            "coin_grpo",
            "coin_constant",
            "coin_token_mean",
        ),
    ),
    "coin_entropy": Experiment(
        "clip width",
        "Under a coin the expected gradient is 0, and the clip alone has a direction: the bound "
        "above takes entropy at forks, the bound below gives some. So 0.2 / 0.2 loses what "
        "0.2 / 0.28 keeps; a bound of 0.05 below keeps more than the same bound above.",
        (
            "coin_symmetric",
            "coin_higher",
            "coin_tight_above",
            "coin_tight_below",
            "coin_no_clip",
        ),
    ),
    "paid_entropy": Experiment(
        "clip width",
        "Where the reward speaks, entropy falls because the policy learns: a higher bound above "
        "learns no slower and ends with no more entropy at forks than 0.2.",
        ("paid_symmetric", "paid_higher", "paid_wide"),
    ),
    "aha": Experiment(
        "clip width",
        "A base that seldom tries again learns nothing for some steps, then trying again takes "
        "off. The log-odds grow by the update, not by the bound: 0.2, 0.28 and 1.0 take off within "
        "a step of each other, not as 1 / ln(1 + bound); with fewer updates per rollout later.",
        ("aha_005", "aha_020", "aha_028", "aha_100", "aha_4_updates", "aha_8_updates"),
    ),
    "lag": Experiment(
        "none: the age of a rollout",
        "A rollout that is some steps old is off-policy in secret. REINFORCE, without ratio and "
        "clip, and CISPO, which caps the weight but keeps every gradient, break first; GRPO and "
        "GSPO, whose clips drop tokens, hold. What counts is lag times learning rate.",
        tuple(name for name in ARMS if name.startswith("aged_")),
    ),
    "ceiling": Experiment(
        "all: the ceiling, default problems",
        "All six end at one ceiling within noise; the axes move how many tokens it takes to get "
        "there, and sampling moves that most.",
        tuple(f"ceiling_{script}" for script in SCRIPTS),
    ),
    "beyond": Experiment(
        "all: the ceiling, rarely solved problems",
        "Where the base solves 7 in 100, the ceilings differ no more than on the default problems: "
        "what differs is the time that groups without signal cost, so dapo.py needs the fewest "
        "steps. pass@16 of the trained model is no higher than the base's.",
        tuple(f"beyond_{script}" for script in SCRIPTS),
    ),
    "beyond_moves": Experiment(
        "KL; length + std: the ceiling, rarely solved problems",
        "It is the KL term that holds grpo.py's ceiling down: without it grpo.py ends where "
        "dr_grpo.py does. The division by the std, gone as well, moves nothing more.",
        ("beyond_grpo", "beyond_no_kl", "beyond_no_std", "beyond_dr_grpo"),
    ),
    "beyond_format": Experiment(
        "length + std: the ceiling, rarely solved problems",
        "In a group without a right answer nothing but the format reward varies, and the division "
        "by the group's std makes it as loud as an answer. So it is the std that holds grpo.py's "
        "ceiling down, and without the format reward grpo.py ends where dr_grpo.py does.",
        ("beyond_grpo", "beyond_answer", "beyond_dr_grpo"),
    ),
    "pairs": Experiment(
        "all: two scripts at once",
        "No pair that composes ends below both of its parents, or above both, by more than noise: "
        "where neither parent fails, accuracy after 20 steps is within noise of the parents' mean. "
        "Tokens follow the parent that moves sampling or turns.",
        PAIR_ARMS,
    ),
    "ablation_dapo": Experiment(
        "all: DAPO taken apart",
        "Each move changes its own quantity when it is made alone, and leaving it out of DAPO "
        "takes that change away again. On accuracy after 20 steps only sampling shows. The four "
        "effects alone add up to that of the whole, within noise.",
        ("bare", "whole_dapo", *arms_of("dapo")),
    ),
    "ablation_scalerl": Experiment(
        "all: ScaleRL's axes taken apart",
        "As for DAPO. With sixteen updates CISPO's clip alone lets the policy leave the sampler "
        "furthest, and that is what the bundle without it gains from. The four effects add up "
        "within noise on tokens, and less well on accuracy.",
        ("bare", "whole_scalerl", *arms_of("scalerl")),
    ),
    "exercises": Experiment(
        "what exercises change",
        "A clip of 0.2 on a sequence ratio stops nothing, and sixteen updates at 5e-4 break the "
        "policy. Paid for its own certainty the policy gets better first and then repeats what it "
        "is sure of. Each planted fault shows in one number: a in ratio_spread, b in length, c in "
        "advantage_max, d in kl_ref, e in length.",
        ("dead_clip", "lite_ppo", "certainty", "no_fault", *(f"fault_{n}" for n in "abcde")),
    ),
    "ladder": Experiment(
        "zoo: the baseline V",
        "Whatever V is subtracted (the group's mean, the others', the batch's, a memory of the "
        "problem) and even if a vote takes the place of the label: with their own defaults the zoo "
        "ends where grpo.py ends, within noise.",
        ("grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "gmpo", "spo", "ttrl"),
    ),
    "critic": Experiment(
        "zoo: the critic",
        "A critic tells nothing of a completion's first half and most of its last quarter: it "
        "knows a hit and a search that gives up, not a hard problem. Over all tokens it explains "
        "no more than 15 siblings do. Accuracy ends where grpo.py's does; a step takes longer.",
        ("grpo", "reinforce_pp", "ppo", "vapo"),
    ),
    "lambda": Experiment(
        "zoo: advantage",
        "A smaller lambda gives credit to the tokens just before the reward, and an early wait "
        "gets next to none: advantages spread more within completions, completions stay shorter "
        "in steps 6-10, and accuracy at step 10 is behind.",
        ("ppo", "ppo_lambda_095", "ppo_lambda_050"),
    ),
    "pretraining": Experiment(
        "zoo: the critic",
        "Trained on ten rollouts first, VAPO's critic explains rewards from step 1 on, where PPO's "
        "explains nothing; the lead is gone after ten steps. The paper's alpha of 0.05, a horizon "
        "of two tokens here, is behind alpha 0.5.",
        ("ppo", "vapo", "vapo_paper"),
    ),
    "process": Experiment(
        "zoo: the reward",
        "A reward model that has just been shown a rollout's outcomes ranks that rollout far "
        "better than a fresh one: part of its process reward repeats the outcome. Fresh, it still "
        "ranks better than chance after 20 steps. Accuracy is within noise either way.",
        ("rloo", "prime", "prime_seen"),
    ),
    "turns": Experiment(
        "zoo: turns",
        "With the answer paid alone, a turn that starts over is worth more than its state's mean "
        "and one that gives up less. The turn's advantage knows better than the trajectory's "
        "whether the numbers that it leaves can hit the target. Accuracy is within noise, also on "
        "problems that the base rarely solves.",
        ("gigpo", "turns_grpo", "turns_hard", "turns_hard_grpo"),
    ),
    "constant_reward": Experiment(
        "zoo: turns",
        "A reward that failures earn too is discounted, largest in the last turn, and blown up by "
        "the std where all fail: giving up becomes the best turn, and accuracy at step 10 is far "
        "behind. Without the turn's advantage the same reward does no harm.",
        ("gigpo", "turns_format", "turns_format_grpo"),
    ),
    "one_std": Experiment(
        "zoo: length + std",
        "One std for the rollout instead of one for each group takes weight from lopsided groups, "
        "as much as taking the std away does.",
        ("grpo", "reinforce_pp_baseline", "no_std"),
    ),
    "geometric_mean": Experiment(
        "zoo: granularity",
        "Clipping before the mean instead of after it: under sixteen updates GMPO's ratio stays as "
        "near to 1 as GSPO's, while the share of tokens that lose their gradient stays as small as "
        "GRPO's.",
        ("stale_symmetric", "stale_sequence", "stale_geometric"),
    ),
    "product": Experiment(
        "zoo: granularity",
        "RLOO's ratio is a product over the completion, so its log spreads by some |o| times as "
        "much as the mean that GSPO takes, and a clip of 0.2 that is idle on tokens stops whole "
        "completions.",
        ("grpo", "rloo", "stale_product"),
    ),
    "memory": Experiment(
        "zoo: advantage",
        "No completion of SPO is without signal. Once problems have come back, from step 11 on, "
        "its tracker explains as much of the rewards' variance as the mean of 15 siblings does, "
        "from one completion.",
        ("grpo", "spo"),
    ),
    "vote": Experiment(
        "zoo: the reward",
        "Wrong answers scatter: the vote's label is right in more groups than completions are "
        "right, and after 15 steps in nearly all. Where the base is right in 7 % of completions "
        "wrong answers win the vote, and TTRL falls behind the verifier.",
        ("ttrl", "hard_verified", "hard_voted"),
    ),
}
ZOO = EXPERIMENTS["ladder"].arms[1:]
CRITICS = ("ppo", "vapo", "prime")


# ---- Rewards that only experiments use ----------------------------------------------------------


def claims_to_be_right(completion, problem):
    """The reward with a seam: 1 if the search ends in "yes", whatever the answer is worth."""
    return float(" yes</think>" in completion)


def plain_reward(completion, problem):
    """1 if the answer does with + and - alone, right or wrong."""
    answer = completion.rpartition("<answer>")[2].partition("</answer>")[0]
    return float(bool(answer) and not {"*", "/"} & set(answer))


def verbose_reward(completion, problem):
    """Longer is better, up to some 200 tokens."""
    return min(len(completion) / 600, 1.0)


def orderly_reward(completion, problem):
    """Share of neighbours on a line whose operators stand in the order + - * /; first step: +."""
    lines = completion.partition("</think>")[0].split("\nwait ")
    operators = [re.findall(r"\d([-+*/])\d", line) for line in lines]
    places = [["+-*/".index(symbol) for symbol in line[1:]] for line in operators]
    pairs = [a <= b for line in places for a, b in itertools.pairwise(line)]
    pairs.append(operators[0][:1] == ["+"])
    return statistics.fmean(pairs)


def coin_reward(completion, problem):
    """0 or 1 by a hash of both: it says nothing, and its expected gradient is 0."""
    text = f"{problem.numbers} {problem.target} {completion}"
    return float(hashlib.sha256(text.encode()).digest()[0] & 1)


MORE_REWARDS = {
    "coin": coin_reward,
    "claim": claims_to_be_right,
    "plain": plain_reward,
    "verbose": verbose_reward,
    "orderly": orderly_reward,
}

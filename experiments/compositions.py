"""What composing does, from the logs: pairs against their parents, and two bundles taken apart.

Effects are differences between runs of one seed: the same problems, the same initial model.
"""

from dataclasses import dataclass

from runtime.intervals import interval

import numpy as np

from experiments.catalogue import EXPERIMENTS
from experiments.catalogue.bundles import BUNDLES, alone, without
from experiments.curves import load, mean_over, tokens_at
from experiments.effects import lopsided_weight, number, peak_memory


def thousand_tokens(rows):
    return tokens_at(rows, 20) / 1e3


def accuracy(rows):
    """Held-out accuracy after 20 steps, in points."""
    return 100 * mean_over("eval_accuracy", 20, 20)(rows)


# ---- Pairs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """A pair's number and its parents', each a mean over the seeds that the pair has."""

    pair: float
    parents: tuple[float, float]

    def above_mean(self):
        return self.pair - sum(self.parents) / 2


def pairs(metric):
    """{name of the arm: Pair} of a number per run, of the pairs that have runs."""
    found = {}
    for name in EXPERIMENTS["pairs"].arms:
        runs = load(name)
        if runs:
            means = [
                float(np.mean([metric(load(arm)[seed]) for seed in runs]))
                for arm in name.split("+")
            ]
            found[name] = Pair(
                float(np.mean([metric(rows) for rows in runs.values()])), tuple(means)
            )
    return found


def seed_noise(metric):
    """Standard deviation of a number per run over seeds, pooled over the parents' default runs."""
    parents = {parent for name in EXPERIMENTS["pairs"].arms for parent in name.split("+")}
    variances = [np.var([metric(rows) for rows in load(arm).values()], ddof=1) for arm in parents]
    return float(np.sqrt(np.mean(variances)))


def limit(metric):
    """Twice the noise of a pair's two seeds minus the mean of two parents' two seeds each."""
    return 2 * seed_noise(metric) * np.sqrt(1 / 2 + 1 / 4)


# ---- Bundles taken apart ------------------------------------------------------------------------

OWN = {  # part: (what it is there to move, a number per run)
    "dapo:clip_width": ("% of tokens clipped from above", lambda r: 100 * over(r, "clipped_high")),
    "cispo:clip_width": ("KL to the sampler, 1e-3 nats", lambda r: 1e3 * over(r, "kl_old")),
    "dapo:length": ("tokens of wrong completions", lambda r: over(r, "length_wrong")),
    "dapo:kl": ("peak memory, MB", peak_memory),
    "dapo:sampling": (
        "% of groups without signal",
        lambda r: 100 * over(r, "groups_without_signal"),
    ),
    "reinforce_pp_baseline:std": ("weight of lopsided groups over even ones", lopsided_weight),
}
SHARED = {
    "held-out accuracy, points": accuracy,
    "tokens per completion": lambda r: over(r, "length"),
}


def over(rows, metric):
    return mean_over(metric, 11, 20)(rows)


def per_seed(arm, metric):
    """Numbers (seeds,) of an arm's runs, in the order of seeds."""
    return np.array([metric(rows) for _, rows in sorted(load(arm).items())])


@dataclass(frozen=True)
class Apart:
    """What a part does to one number, per seed: made alone, and as the last move of the bundle."""

    alone: np.ndarray
    last: np.ndarray


def taken_apart(bundle, metric):
    """({part: Apart}, effect of the whole per seed)."""
    bare, whole = per_seed("bare", metric), per_seed(f"whole_{bundle}", metric)
    effects = {
        part: Apart(
            per_seed(alone(part), metric) - bare, whole - per_seed(without(part, bundle), metric)
        )
        for part in BUNDLES[bundle]
    }
    return effects, whole - bare


def cell(values):
    """Mean and 95 % interval over seeds, with a sign."""
    low, high = interval(values)
    return f"{values.mean():+.3g} ({number(low)} to {number(high)})"


def pair_report():
    """Lines of results.md on the pairs."""
    accuracies, tokens = pairs(accuracy), pairs(thousand_tokens)
    lines = [
        "Each is `python -m compose PARENT PARENT -o mine.py`, then `python mine.py --steps 20 "
        "--eval_every 20 --seed S` with seeds 1 and 2. Beside it stand its parents' default runs "
        "of the same seeds; the difference is that to their mean. Two seeds are too few for "
        f"verdicts on {len(accuracies)} pairs: the hypothesis is not judged. For scale: the "
        "standard deviation over seeds of a parent's accuracy after 20 steps is "
        f"{seed_noise(accuracy):.1f} points, so that chance alone moves such a difference by "
        f"{limit(accuracy):.1f} points or more in one pair of twenty.",
        "",
        "| pair | held-out accuracy, % | parents | difference | thousand tokens | difference |",
        "|---|---|---|---|---|---|",
    ]
    for name, pair in accuracies.items():
        parents = " and ".join(f"{value:.1f}" for value in pair.parents)
        cells = [name, f"{pair.pair:.1f}", parents, f"{pair.above_mean():+.1f}"]
        cells += [f"{tokens[name].pair:.0f}", f"{tokens[name].above_mean():+.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def bundle_report(bundle):
    """Lines of results.md on a bundle: every move alone and last, and whether they add up."""
    lines = [
        "",
        "Effect of a move on grpo.py when made alone, and on the whole when made last; means and "
        "95 % intervals over five seeds. Accuracy is that at step 20, weights of groups are of "
        "steps 1-12, memory of the run, all else of steps 11-20.",
        "",
        "| move | measured | alone | last |",
        "|---|---|---|---|",
    ]
    for part in BUNDLES[bundle]:
        for what, metric in (OWN[part], *SHARED.items()):
            apart = taken_apart(bundle, metric)[0][part]
            lines.append(f"| {part} | {what} | {cell(apart.alone)} | {cell(apart.last)} |")
    lines += ["", "| measured | the moves alone, added up | the whole | difference |"]
    lines.append("|---|---|---|---|")
    for what, metric in SHARED.items():
        effects, whole = taken_apart(bundle, metric)
        total = sum(apart.alone for apart in effects.values())
        lines.append(f"| {what} | {cell(total)} | {cell(whole)} | {cell(whole - total)} |")
    return lines

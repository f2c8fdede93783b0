"""What each axis moves: one row of effects.csv for each effect, measured from the logs.

A row compares a number of one arm's runs (base) with that of another's (moved), paired by seed:
same problems, same initial model. `metric` is a logged metric, averaged over `steps`, or one of
DERIVED or OF_A_RUN below; `a > b` means a for base and b for moved. `expected` is the sign of the
difference that the hypothesis states; 0 for none, and then `margin` says how large a difference
would still count as none. Arms whose runs are not all there yet are compared on the seeds that both
have.

A row may claim a difference if a paired t test says so at 5 %, corrected for the number of rows of
its experiment (Benjamini and Hochberg 1995), and that there is none if the 95 % interval lies
within the margin.
"""

import csv
import functools
from collections import defaultdict
from dataclasses import dataclass, replace

from runtime.intervals import interval

import numpy as np
from scipy import stats

from compose.reader import HERE
from experiments.curves import curve, load, mean_over, tokens_at

TABLE = HERE / "experiments/effects.csv"
# Of probes.RATIO_EDGES: the bins above 1.2 and those below 0.8.
BEYOND_BINS = 5
BELOW_BINS = 4


# ---- Metrics ------------------------------------------------------------------------------------


def clipped(row):
    """Share of tokens without gradient, or, of CISPO, with a capped weight."""
    low, high = row.get("clipped_low"), row.get("clipped_high")
    return None if high is None else (low or 0) + high


def right_per_thousand_tokens(row):
    return 1e3 * row["accuracy"] / row["length"] if "length" in row else None


def thousand_tokens(row):
    return row["tokens_total"] / 1e3 if "tokens_total" in row else None


def explained_by_siblings(row):
    """Share of the answer reward's variance that the mean of a completion's siblings explains."""
    if "weight_by_right" not in row:
        return None
    right = np.array([n for n, _ in row["weight_by_right"]])
    G = 16
    wrong = G - right
    squares = right * (1 - (right - 1) / (G - 1)) ** 2 + wrong * (right / (G - 1)) ** 2
    rate = right.sum() / (G * len(right))
    return float(1 - squares.sum() / (G * len(right)) / (rate * (1 - rate)))


def peak_memory(rows):
    return max(row.get("peak_memory_mb", 0) for row in rows)


def lopsided_weight(rows):
    """Weight of groups with 1, 2, 14 or 15 of 16 right over that of even ones (6-10), 12 steps."""
    pairs = [pair for row in rows if row["step"] <= 12 for pair in row.get("weight_by_right", [])]
    lopsided = [weight for right, weight in pairs if right in (1, 2, 14, 15)]
    even = [weight for right, weight in pairs if 6 <= right <= 10]
    return float(np.mean(lopsided) / np.mean(even))


def rare_weight(rows):
    """Weight of groups with 1 to 3 of 16 right over that of even ones (6-10), over the run."""
    pairs = [pair for row in rows for pair in row.get("weight_by_right", [])]
    rare = [weight for right, weight in pairs if 1 <= right <= 3]
    even = [weight for right, weight in pairs if 6 <= right <= 10]
    return float(np.mean(rare) / np.mean(even))


def weight_beyond(rows):
    """Mean weight of the gradients of tokens that PPO's clip of 0.2 would stop."""
    count, total = 0.0, 0.0
    for row in rows:
        for sign, bins in row.get("weight_by_ratio", {}).items():
            stopped = bins[-BEYOND_BINS:] if sign == "up" else bins[:BELOW_BINS]
            count += sum(n for n, _ in stopped)
            total += sum(w for _, w in stopped)
    return total / count


def take_off(rows):
    """First step in which half of the failed lines are tried again; if none, the last plus one."""
    steps = [row["step"] for row in rows if row.get("retry", 0) >= 0.5]
    return float(min(steps, default=max(row["step"] for row in rows) + 1))


def odds_growth(rows):
    """Factor per step by which the odds of trying again grow on their way from 3 to 70 %."""
    points = [(row["step"], row["retry"]) for row in rows if 0.03 <= row.get("retry", 0) <= 0.7]
    steps, share = np.array(points).T
    return float(np.exp(np.polyfit(steps, np.log(share / (1 - share)), 1)[0]))


def wrong_length_at_equal_accuracy(rows):
    steps = [row for row in rows if 0.66 <= row.get("accuracy", 0) <= 0.78]
    return float(np.mean([row["length_wrong"] for row in steps]))


def accuracy_at_tokens(budget):
    """Held-out accuracy, interpolated, when this many tokens had been generated."""

    def number(rows):
        steps, accuracy = curve(rows, "eval_accuracy")
        return float(np.interp(budget, [tokens_at(rows, step) for step in steps], accuracy))

    return number


def fell(rows):
    """Whether held-out accuracy ended below half of the best that it had been."""
    _, accuracy = curve(rows, "eval_accuracy")
    return bool(accuracy[-1] < accuracy.max() / 2)


def saturating_fit(rows, against="tokens"):
    """(c, tau) of held-out accuracy = c - (c - a0) exp(-x / tau), x in tokens or steps.

    c is the ceiling, tau what 63 % of the way to it took. Least squares over the evaluations: for
    every tau on a grid the rest is linear.
    """
    steps, accuracy = curve(rows, "eval_accuracy")
    x = np.array([tokens_at(rows, step) for step in steps]) if against == "tokens" else steps
    errors = {}  # (c, tau): squared error
    for tau in np.geomspace(x[-1] / 60, x[-1] * 2, 300):
        decay = np.exp(-x / tau)
        parts = np.stack([1 - decay, decay], 1)  # accuracy = c (1 - decay) + a0 decay
        (ceiling, start), *_ = np.linalg.lstsq(parts, accuracy, rcond=None)
        found = float(ceiling), float(tau)
        errors[found] = ((parts @ [ceiling, start] - accuracy) ** 2).sum()
    return min(errors, key=errors.get)


def pass_at(step_index, k):
    """A number per run: pass@k from its first (0) or last (-1) model."""

    def number(rows):
        found = sorted((row for row in rows if "pass_at" in row), key=lambda row: row["step"])
        return found[step_index]["pass_at"][str(k)]

    return number


DERIVED = {  # a number of one step
    "clipped": clipped,
    "explained_by_siblings": explained_by_siblings,
    "right_per_thousand_tokens": right_per_thousand_tokens,
    "thousand_tokens": thousand_tokens,
    "zero": lambda row: 0.0,
    "half": lambda row: 0.5,
}
OF_A_RUN = {  # a number of all rows of a run
    "ceiling": lambda rows: saturating_fit(rows)[0],
    "tau_tokens": lambda rows: saturating_fit(rows)[1],
    "tau_steps": lambda rows: saturating_fit(rows, "steps")[1],
    "lopsided_weight": lopsided_weight,
    "rare_weight": rare_weight,
    "weight_beyond": weight_beyond,
    "take_off": take_off,
    "odds_growth": odds_growth,
    "wrong_length_at_equal_accuracy": wrong_length_at_equal_accuracy,
    "accuracy_at_350k_tokens": accuracy_at_tokens(350e3),
    "peak_memory": peak_memory,
    "pass@1 before": pass_at(0, 1),
    "pass@1 after": pass_at(-1, 1),
    "pass@16 before": pass_at(0, 16),
    "pass@16 after": pass_at(-1, 16),
}


def number_of(metric, steps):
    """The function of a run's rows that two cells of the table mean; steps is a or a-b."""
    if metric in OF_A_RUN:
        return OF_A_RUN[metric]
    first, _, last = steps.partition("-")
    return mean_over(DERIVED.get(metric, metric), int(first), int(last or first))


# ---- Effects ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effect:
    """One row of the table."""

    experiment: str
    expected: int
    margin: float | None
    base: str
    moved: str
    metric: str
    steps: str
    what: str

    def values(self):
        """(numbers of base, numbers of moved), one for each seed that both have."""
        metrics, steps = self.metric.split(" > "), self.steps.split(" > ")
        of_base = number_of(metrics[0], steps[0])
        of_moved = number_of(metrics[-1], steps[-1])
        a, b = load(self.base), load(self.moved)
        seeds = sorted(a.keys() & b.keys())
        before = np.array([of_base(a[seed]) for seed in seeds])
        return before, np.array([of_moved(b[seed]) for seed in seeds])

    def measured(self):
        """Measured, as if it were the only row; None without two seeds."""
        before, after = self.values()
        if len(before) < 2:
            return None
        difference = after - before
        return Measured(
            effect=self,
            seeds=len(before),
            base=before.mean(),
            moved=after.mean(),
            difference=difference.mean(),
            interval=interval(difference),
            agree=int((np.sign(difference) == np.sign(difference.mean())).sum()),
            p=p_value(difference),
        )


@dataclass(frozen=True)
class Measured:
    """What the runs say about an effect: means of both arms, and differences over seeds."""

    effect: Effect
    seeds: int
    base: float
    moved: float
    difference: float
    interval: tuple[float, float]  # 95 %
    agree: int  # seeds whose difference has the sign of the mean
    p: float  # of no difference

    @property
    def verdict(self):
        low, high = self.interval
        effect = self.effect
        sign = np.sign(self.difference) if self.p <= 0.05 else 0
        if effect.expected:
            return {effect.expected: "seen", -effect.expected: "the reverse"}.get(sign, "not seen")
        if -effect.margin < low and high < effect.margin:
            return f"same within {number(effect.margin)}"
        return "differs" if sign else "not separable"

    @property
    def claims_a_difference(self):
        return self.verdict in ("seen", "the reverse", "differs")


def p_value(difference):
    """Of the paired t test on differences (n,): 1 if all are 0, 0 if all are one other number."""
    if np.ptp(difference) == 0:
        return float(difference[0] == 0)
    return float(stats.ttest_1samp(difference, 0).pvalue)


def corrected(measured):
    """The same rows, of one experiment, with p for their number: Benjamini and Hochberg's."""
    p = stats.false_discovery_control([row.p for row in measured])
    return [replace(row, p=float(one)) for row, one in zip(measured, p, strict=True)]


def read_table():
    with TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            margin = float(row["margin"]) if row["margin"] else None
            yield Effect(**{**row, "expected": int(row["expected"]), "margin": margin})


EFFECTS = list(read_table())


@functools.cache
def all_measured():
    """[Measured] of all rows with at least two seeds, corrected within each experiment."""
    families = defaultdict(list)
    for effect in EFFECTS:
        if found := effect.measured():
            families[effect.experiment].append(found)
    return [row for family in families.values() for row in corrected(family)]


def number(x):
    """Three significant digits, without exponents for what a table holds."""
    return f"{x:.0f}" if abs(x) >= 1000 else f"{x:.3g}"

"""Draws every figure from the committed logs in plots/data/: python plots/make_figures.py

Thin lines are single seeds, thick lines their mean. Intervals are 95 % bootstrap intervals over
seeds of the paired difference (same problems, same initial model). Experiments whose runs are not
all there yet are drawn from the seeds that all their arms have, and say how many.
"""

import argparse
import functools
import importlib
import inspect
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from plots import diagnose
from plots.experiments import ARMS, EXPERIMENTS, LOGS

# Okabe and Ito's colours, told apart by the colour-blind; line styles for print.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
STYLES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1))]
plt.rcParams.update(
    {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 150}
)
PLOTS = ROOT / "plots"
SCRIPTS = EXPERIMENTS["defaults"].arms


# -------------------------------------------------------------------------------------------------
# Logs and statistics


@functools.cache
def load(arm):
    """{seed: rows of the run}, the line about the run left out."""
    runs = {}
    for path in sorted(LOGS.glob(f"{arm}-seed*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        runs[rows[0]["seed"]] = rows[1:]
    return runs


def curve(rows, metric):
    """(steps, values) of a metric in one run; `metric` is a name or a function of a row."""
    get = metric if callable(metric) else lambda row: row.get(metric)
    points = [(row["step"], get(row)) for row in rows]
    points = [(step, value) for step, value in points if value is not None]
    return tuple(np.array(part, float) for part in zip(*points, strict=True)) or ([], [])


def mean_over(metric, first, last):
    """A number per run: the metric's mean over these steps, both included."""

    def number(rows):
        return float(np.mean(curve([r for r in rows if first <= r["step"] <= last], metric)[1]))

    return number


def tokens_at(rows, step):
    """Tokens generated up to a step, refilled groups included."""
    return max((row.get("tokens_total", 0) for row in rows if row["step"] <= step), default=0)


def interval(values, draws=10_000):
    """95 % percentile bootstrap interval of the mean over seeds."""
    rng = np.random.default_rng(0)
    return np.percentile(rng.choice(values, (draws, len(values))).mean(1), [2.5, 97.5])


# -------------------------------------------------------------------------------------------------
# What each axis moves


def lopsided_weight(rows):
    """Gradient weight of groups with 1, 2, 14 or 15 of 16 right over that of even ones (6-10)."""
    pairs = [pair for row in rows for pair in row.get("weight_by_right") or []]
    lopsided = [weight for right, weight in pairs if right in (1, 2, 14, 15)]
    even = [weight for right, weight in pairs if 6 <= right <= 10]
    return float(np.mean(lopsided) / np.mean(even))


def wrong_length_at_equal_accuracy(rows):
    steps = [row for row in rows if 0.66 <= row.get("accuracy", 0) <= 0.78]
    return float(np.mean([row["length_wrong"] for row in steps]))


def clipped(row):
    """Share of tokens without gradient, or, of CISPO, with a capped weight."""
    parts = [row.get("clip_low"), row.get("clip_high")]
    return None if parts[1] is None else (parts[0] or 0) + parts[1]


def accuracy_at_tokens(budget):
    """Held-out accuracy, interpolated, when this many tokens had been generated."""

    def number(rows):
        steps, accuracy = curve(rows, "eval_accuracy")
        return float(np.interp(budget, [tokens_at(rows, step) for step in steps], accuracy))

    return number


def saturating_fit(rows):
    """(ceiling, tokens to go 63 % of the way to it): accuracy = c - (c - a0) exp(-tokens / tau).

    Least squares over the evaluations; for every tau on a grid the rest is linear.
    """
    steps, accuracy = curve(rows, "eval_accuracy")
    tokens = np.array([tokens_at(rows, step) for step in steps])
    best = None
    for tau in np.geomspace(tokens[-1] / 30, tokens[-1] * 2, 200):
        decay = np.exp(-tokens / tau)
        parts = np.stack([1 - decay, decay], 1)  # accuracy = c (1 - decay) + a0 decay
        (ceiling, start), *_ = np.linalg.lstsq(parts, accuracy, rcond=None)
        error = ((parts @ [ceiling, start] - accuracy) ** 2).sum()
        if best is None or error < best[0]:
            best = error, float(ceiling), float(tau)
    return best[1:]


def pass_at(step_index, k):
    """A number per run: pass@k from its first (0) or last (-1) model."""

    def number(rows):
        found = sorted((row for row in rows if "pass_at" in row), key=lambda row: row["step"])
        return found[step_index]["pass_at"][str(k)]

    return number


@dataclass(frozen=True)
class Effect:
    """A number of one arm's runs against that of another's, paired by seed.

    `metric` takes a run's rows; a pair of functions takes one for each arm. `expected` is the sign
    of the difference that the hypothesis states, 0 for none.
    """

    experiment: str
    what: str
    base: str
    moved: str
    metric: object
    expected: int

    def values(self):
        first, second = self.metric if isinstance(self.metric, tuple) else (self.metric,) * 2
        a, b = load(self.base), load(self.moved)
        seeds = sorted(a.keys() & b.keys())
        return np.array([first(a[s]) for s in seeds]), np.array([second(b[s]) for s in seeds])

    def measured(self):
        """{seeds, base, moved, difference, interval, agree, verdict}; None without two seeds."""
        before, after = self.values()
        if len(before) < 2:
            return None
        difference = after - before
        low, high = interval(difference)
        sign = 1 if low > 0 else -1 if high < 0 else 0
        if self.expected:
            verdict = {self.expected: "seen", 0: "not seen"}.get(sign, "the reverse")
        else:
            verdict = "within noise, as expected" if sign == 0 else "differs"
        return {
            "seeds": len(before),
            "base": before.mean(),
            "moved": after.mean(),
            "difference": difference.mean(),
            "interval": (low, high),
            "agree": int((np.sign(difference) == np.sign(difference.mean())).sum()),
            "verdict": verdict,
        }


END, EARLY = mean_over("eval_accuracy", 12, 30), (2, 6)
EFFECTS = [
    Effect(
        "granularity",
        "spread of the ratio (RMS of its log), token → sequence",
        "stale_symmetric",
        "stale_sequence",
        (mean_over("log_ratio_rms", 1, 12), mean_over("sequence_log_ratio_rms", 1, 12)),
        -1,
    ),
    Effect(
        "granularity",
        "share of tokens that the script's own clip stops, token → sequence",
        "stale_symmetric",
        "stale_sequence",
        mean_over(clipped, 1, 12),
        1,
    ),
    Effect(
        "stability",
        "accuracy in steps 10-12 at a rate that breaks training, token → sequence",
        "hot_token",
        "hot_sequence",
        mean_over("accuracy", 10, 12),
        1,
    ),
    Effect(
        "mixture",
        "spread of the token ratio, tokens that kept their experts → that changed them",
        "mixture_token",
        "mixture_token",
        (
            mean_over("log_ratio_rms_stayed", 1, 12),
            mean_over("log_ratio_rms_switched", 1, 12),
        ),
        1,
    ),
    Effect(
        "mixture",
        "spread of the ratio in a mixture of experts, token → sequence",
        "mixture_token",
        "mixture_sequence",
        (mean_over("log_ratio_rms", 1, 12), mean_over("sequence_log_ratio_rms", 1, 12)),
        -1,
    ),
    Effect(
        "clip_width",
        "share of tokens clipped from above, bound 0.2 → 0.28",
        "stale_symmetric",
        "stale_higher",
        mean_over("clip_high", 1, 12),
        -1,
    ),
    Effect(
        "clip_width",
        "retries at a fork in steps 2-6, bound 0.2 → 0.28",
        "stale_symmetric",
        "stale_higher",
        mean_over("retry", *EARLY),
        1,
    ),
    Effect(
        "clip_width",
        "retries at a fork in steps 2-6, bound 0.2 → 1.0",
        "stale_symmetric",
        "stale_wide",
        mean_over("retry", *EARLY),
        1,
    ),
    Effect(
        "clip_width",
        "entropy (nats) in steps 8-12, bound 0.2 → 0.28",
        "stale_symmetric",
        "stale_higher",
        mean_over("entropy", 8, 12),
        1,
    ),
    Effect(
        "clip_width",
        "entropy (nats) in steps 8-12, bound 0.2 → 1.0",
        "stale_symmetric",
        "stale_wide",
        mean_over("entropy", 8, 12),
        1,
    ),
    Effect(
        "clip_object",
        "share without gradient under PPO's clip in steps 1-6, numbers → fork tokens",
        "stale_ppo_clip",
        "stale_ppo_clip",
        (mean_over("zeroed_number", 1, 6), mean_over("zeroed_fork", 1, 6)),
        1,
    ),
    Effect(
        "clip_object",
        "share of fork tokens without gradient in steps 1-6, PPO's clip → CISPO",
        "stale_ppo_clip",
        "stale_cispo",
        mean_over("zeroed_fork", 1, 6),
        -1,
    ),
    Effect(
        "clip_object",
        "retries at a fork in steps 2-6, PPO's clip → CISPO",
        "stale_ppo_clip",
        "stale_cispo",
        mean_over("retry", *EARLY),
        1,
    ),
    Effect(
        "length",
        "tokens of wrong completions in steps 11-20, 1/|o| → token mean",
        "kl_0",
        "token_mean",
        mean_over("length_wrong", 11, 20),
        -1,
    ),
    Effect(
        "length",
        "tokens of wrong completions in steps 11-20, 1/|o| → constant",
        "kl_0",
        "constant_length",
        mean_over("length_wrong", 11, 20),
        -1,
    ),
    *(
        Effect(
            "length",
            f"tokens of wrong completions in steps with 66-78 % right, 1/|o| → {name}",
            "kl_0",
            arm,
            wrong_length_at_equal_accuracy,
            -1,
        )
        for name, arm in (("token mean", "token_mean"), ("constant", "constant_length"))
    ),
    Effect(
        "length",
        "held-out accuracy at step 20, 1/|o| → token mean",
        "kl_0",
        "token_mean",
        END,
        0,
    ),
    Effect(
        "length",
        "held-out accuracy at step 20, 1/|o| → constant",
        "kl_0",
        "constant_length",
        END,
        0,
    ),
    Effect(
        "length",
        "right answers per 1,000 tokens in steps 11-20, 1/|o| → token mean",
        "kl_0",
        "token_mean",
        mean_over(
            lambda row: 1e3 * row["accuracy"] / row["length"] if "length" in row else None, 11, 20
        ),
        1,
    ),
    Effect(
        "std",
        "gradient weight of lopsided groups over even ones, group std → none",
        "kl_0",
        "no_std",
        lopsided_weight,
        -1,
    ),
    Effect(
        "kl",
        "KL to the initial model in steps 11-20 (k3, nats per token), coefficient 0 → 0.4",
        "kl_0",
        "kl_10x",
        mean_over("kl_ref", 11, 20),
        -1,
    ),
    Effect(
        "kl",
        "KL to the initial model in steps 11-20, coefficient 0 → 0.04",
        "kl_0",
        "grpo",
        mean_over("kl_ref", 11, 20),
        -1,
    ),
    Effect(
        "kl",
        "held-out accuracy at step 20, coefficient 0 → 0.4",
        "kl_0",
        "kl_10x",
        mean_over("eval_accuracy", 20, 20),
        -1,
    ),
    Effect(
        "kl",
        "held-out accuracy at step 20, coefficient 0 → 0.04",
        "kl_0",
        "grpo",
        mean_over("eval_accuracy", 20, 20),
        -1,
    ),
    Effect(
        "kl",
        "peak memory (MB), default runs, grpo.py with its reference → dr_grpo.py without",
        "grpo",
        "dr_grpo",
        lambda rows: max(row.get("peak_memory_mb", 0) for row in rows),
        -1,
    ),
    *(
        Effect(
            "advantage",
            f"distinct advantages per batch, {count} rewards, pooled → decoupled",
            f"pooled_{count}",
            f"decoupled_{count}",
            mean_over("advantage_levels", 1, 12),
            1,
        )
        for count in ("two", "three")
    ),
    *(
        Effect(
            "advantage",
            f"{component} reward in steps 8-12, {count} rewards, pooled → decoupled",
            f"pooled_{count}",
            f"decoupled_{count}",
            mean_over(f"reward_{component}", 8, 12),
            1,
        )
        for count, components in (("two", ("answer", "brevity")), ("three", ("answer", "brevity")))
        for component in components
    ),
    Effect(
        "sampling",
        "share of groups without signal in steps 11-20, static → refilled",
        "static",
        "dynamic",
        mean_over("groups_without_signal", 11, 20),
        -1,
    ),
    Effect(
        "sampling",
        "thousand tokens generated in 20 steps, static → refilled",
        "static",
        "dynamic",
        lambda rows: tokens_at(rows, 20) / 1e3,
        1,
    ),
    Effect(
        "sampling",
        "held-out accuracy at step 20, static → refilled",
        "static",
        "dynamic",
        mean_over("eval_accuracy", 20, 20),
        1,
    ),
    Effect(
        "sampling",
        "held-out accuracy after 350 thousand tokens, static → refilled",
        "static",
        "dynamic",
        accuracy_at_tokens(350e3),
        0,
    ),
    Effect(
        "reward",
        "share of completions in steps 16-20 that are right → that earn the reward with a seam",
        "seam",
        "seam",
        (mean_over("accuracy", 16, 20), mean_over("reward_claim", 16, 20)),
        1,
    ),
    Effect(
        "reward",
        "held-out accuracy at step 20, true reward → believed claim",
        "kl_0",
        "seam",
        mean_over("eval_accuracy", 20, 20),
        -1,
    ),
    *(
        Effect(
            "defaults",
            f"held-out accuracy at step 30, grpo.py → {script}.py",
            "grpo",
            script,
            mean_over("eval_accuracy", 30, 30),
            0,
        )
        for script in SCRIPTS[1:]
    ),
    *(
        Effect(
            "defaults",
            f"{name}, grpo.py before → after 30 steps",
            "grpo",
            "grpo",
            (pass_at(0, k), pass_at(-1, k)),
            sign,
        )
        for name, k, sign in (("pass@1", 1, 1), ("pass@16", 16, 0))
    ),
]
# The rows of the summary figure, one or two for each axis.
SUMMARY = ("granularity", "mixture", "clip_width", "clip_object", "length", "std", "kl")
SUMMARY += ("advantage", "sampling", "reward")


# -------------------------------------------------------------------------------------------------
# Drawing


def draw_seeds(axes, arm, metric, label, index, last_step=None):
    """Thin lines for seeds, a thick one for their mean, over steps."""
    lines = [curve(rows, metric) for rows in load(arm).values()]
    lines = [
        (x[x <= (last_step or x[-1])], y[x <= (last_step or x[-1])]) for x, y in lines if len(x)
    ]
    for steps, values in lines:
        axes.plot(steps, values, color=COLOURS[index], lw=0.6, alpha=0.35)
    common = sorted(set.intersection(*(set(x) for x, _ in lines))) if lines else []
    if common:
        mean = np.mean([y[np.isin(x, common)] for x, y in lines], 0)
        axes.plot(common, mean, color=COLOURS[index], ls=STYLES[index], lw=2, label=label)


def thousand_tokens(rows, step):
    return tokens_at(rows, step) / 1e3


def minutes_at(rows, step):
    """Minutes of sampling and updating up to a step."""
    return sum(row.get("seconds", 0) for row in rows if row["step"] <= step) / 60


def draw_against(axes, arm, at, index):
    """Held-out accuracy against `at(rows, step)`: tokens or time."""
    lines = []
    for rows in load(arm).values():
        steps, accuracy = curve(rows, "eval_accuracy")
        lines.append(([at(rows, step) for step in steps], accuracy))
        axes.plot(*lines[-1], color=COLOURS[index], lw=0.6, alpha=0.35)
    if lines:
        style = {"color": COLOURS[index], "ls": STYLES[index], "lw": 2, "label": f"{arm}.py"}
        axes.plot(*np.mean(lines, 0), **style)


def legend(axes):
    """A legend, if anything is drawn yet."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=8)


def save(figure, name, note):
    """Writes the PNG with its conditions and command below the axes."""
    figure.text(0.01, -0.01, note, fontsize=7, va="top", family="monospace")
    (PLOTS / "figures").mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOTS / f"figures/{name}.png", bbox_inches="tight", pad_inches=0.15)
    plt.close(figure)


def seeds_of(*arms):
    counts = sorted({len(load(arm)) for arm in arms})
    return f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def command(*experiments):
    return f"python plots/experiments.py --only {' '.join(experiments)}"


AXIS_TRACKS = {  # axis -> places on its track; the first is GRPO's
    "granularity": ["one ratio\nper token", "one ratio\nper sequence"],
    "clip width": ["0.2 / 0.2", "0.2 / 0.28", "3e-4 / 4e-4", "caps the weight\nat 1.28"],
    "length + std": ["1/|o|,\ngroup std", "token mean,\ngroup std", "constant,\nno std"],
    "KL": ["k3 to the initial\nmodel, 0.04", "none"],
    "advantage": ["rewards pooled,\nthen normalised", "each normalised,\nthen pooled"],
    "sampling": ["static groups", "refilled,\noverlong punished"],
}


def places():
    """{script: {axis: place on its track}}, read from the scripts' own options and functions."""
    found = {}
    for script in SCRIPTS:
        module = importlib.import_module(script)
        config = module.Config()
        loss, mean = (
            inspect.getsource(getattr(module, name)) for name in ("policy_loss", "aggregate_loss")
        )
        advantage = inspect.getsource(module.compute_advantages)
        low, high = getattr(config, "clip_low", None), config.clip_high
        found[script] = {
            "granularity": int("one ratio per completion" in loss),
            "clip width": 3 if low is None else 2 if low < 0.01 else int(high != low),
            "length + std": 1
            if "num_tokens" in mean.split('"""')[-1]
            else int("max_new" in mean) * 2,
            "KL": int(not hasattr(config, "kl_coef")),
            "advantage": int("per component" in advantage),
            "sampling": int(hasattr(config, "max_refills")),
        }
    return found


def draw_map():
    """Six tracks; each variant's mark lies where that script is."""
    found = places()
    figure, axes = plt.subplots(figsize=(9, 6.2), layout="constrained")
    for row, (axis, track) in enumerate(AXIS_TRACKS.items()):
        y = -row
        axes.plot([0, len(track) - 1], [y, y], color="#999999", lw=2, zorder=1)
        for place, text in enumerate(track):
            names = [script for script, where in found.items() if where[axis] == place]
            colour = COLOURS[0] if place == 0 else COLOURS[1]
            style = {"color": colour, "ha": "center", "family": "monospace", "fontsize": 7.5}
            axes.scatter(place, y, s=70, color=colour, zorder=2)
            axes.text(place, y + 0.15, text, ha="center", va="bottom", fontsize=8)
            lines = ["  ".join(names[:3]), "  ".join(names[3:])]
            axes.text(place, y - 0.15, "\n".join(filter(None, lines)), va="top", **style)
    axes.set_yticks([-row for row in range(len(AXIS_TRACKS))], AXIS_TRACKS, fontweight="bold")
    axes.set_xticks([])
    axes.set_xlim(-0.6, 3.5)
    axes.set_ylim(-len(AXIS_TRACKS) + 0.4, 0.6)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0)
    axes.set_title("Six axes: GRPO's place on the left, and who leaves it")
    save(figure, "six_axes", "Read from the six scripts' options and functions by make_figures.py")


PANELS = [  # axis: what is shown, y label, experiments, [(arm, metric, label)]
    (
        "granularity: spread of the ratio",
        "RMS of log ratio",
        [
            ("stale_symmetric", "log_ratio_rms", "per token"),
            ("stale_sequence", "sequence_log_ratio_rms", "per sequence (gspo.py)"),
        ],
    ),
    (
        "clip: forks without gradient",
        "share of fork tokens",
        [
            ("stale_ppo_clip", "zeroed_fork", "PPO's clip"),
            ("stale_ppo_clip", "zeroed_number", "PPO's clip, numbers"),
            ("stale_cispo", "zeroed_fork", "CISPO"),
        ],
    ),
    (
        "length: wrong completions",
        "tokens",
        [
            ("kl_0", "length_wrong", "1/|o|"),
            ("token_mean", "length_wrong", "token mean"),
            ("constant_length", "length_wrong", "constant"),
        ],
    ),
    (
        "KL: distance to the initial model",
        "nats per token (k3)",
        [
            ("kl_0", "kl_ref", "coefficient 0"),
            ("grpo", "kl_ref", "0.04"),
            ("kl_10x", "kl_ref", "0.4"),
        ],
    ),
    (
        "advantage: distinct values, 3 rewards",
        "levels per batch",
        [
            ("pooled_three", "advantage_levels", "pooled"),
            ("decoupled_three", "advantage_levels", "decoupled (gdpo.py)"),
        ],
    ),
    (
        "sampling: groups without signal",
        "share of groups",
        [
            ("static", "groups_without_signal", "static"),
            ("dynamic", "groups_without_signal", "refilled (dapo.py)"),
        ],
    ),
]


def draw_panels():
    """One panel for each axis: the quantity that it moves, over steps."""
    figure, grid = plt.subplots(2, 3, figsize=(11, 6.2), layout="constrained")
    for axes, (title, unit, lines) in zip(grid.flat, PANELS, strict=True):
        for index, (arm, metric, label) in enumerate(lines):
            draw_seeds(axes, arm, metric, label, index, last_step=20)
        axes.set(title=title, xlabel="step (one rollout each)", ylabel=unit)
        axes.set_ylim(bottom=0)
        legend(axes)
    arms = [arm for _, _, lines in PANELS for arm, _, _ in lines]
    save(
        figure,
        "axes_measured",
        f"{seeds_of(*arms)} per arm (thin), mean (thick); 256 completions per step. Granularity "
        "and clip: 16 updates per rollout, learning rate 5e-4, no KL;\nthe others 4 updates, 2e-4; "
        "length without KL; sampling in dapo.py.\n"
        + command("granularity", "clip_object", "length", "kl", "advantage", "sampling"),
    )


def draw_clip_width():
    """What a wider clip does where the policy is far from the sampler, and what breaks it."""
    figure, grid = plt.subplots(1, 3, figsize=(11, 3.5), layout="constrained")
    arms = [
        ("stale_symmetric", "0.2 / 0.2"),
        ("stale_higher", "0.2 / 0.28"),
        ("stale_wide", "0.2 / 1.0"),
    ]
    shown = (("retry", "retries at a fork", "share"), ("entropy", "entropy", "nats per token"))
    for axes, (metric, title, unit) in zip(grid[:2], shown, strict=True):
        for index, (arm, label) in enumerate(arms):
            draw_seeds(axes, arm, metric, label, index)
        axes.set(title=f"clip width: {title}", xlabel="step", ylabel=unit)
    for index, (arm, label) in enumerate(
        (("mixture_token", "all tokens"), ("mixture_sequence", "sequence ratio (gspo.py)"))
    ):
        metric = ("log_ratio_rms", "sequence_log_ratio_rms")[index]
        draw_seeds(grid[2], arm, metric, label, index)
    draw_seeds(grid[2], "mixture_token", "log_ratio_rms_switched", "that changed experts", 2)
    grid[2].set(title="mixture of experts: the ratio", xlabel="step", ylabel="RMS of log ratio")
    for axes in grid:
        legend(axes)
    save(
        figure,
        "clip_and_experts",
        f"{seeds_of(*(arm for arm, _ in arms), 'mixture_token', 'mixture_sequence')} per arm "
        "(thin), mean (thick). 16 updates per rollout, learning rate 5e-4, no KL.\n"
        + command("clip_width", "mixture"),
    )


def draw_accuracy():
    """The six defaults: accuracy and length against tokens, time and steps; pass@1 and pass@16."""
    figure, ((tokens, clock), (length, solved)) = plt.subplots(
        2, 2, figsize=(10, 7), layout="constrained"
    )
    for index, arm in enumerate(SCRIPTS):
        runs = list(load(arm).values())
        draw_against(tokens, arm, thousand_tokens, index)
        draw_against(clock, arm, minutes_at, index)
        draw_seeds(length, arm, "length", f"{arm}.py", index)
        for k, shift, marker in ((1, -0.12, "o"), (16, 0.12, "s")):
            values = [pass_at(-1, k)(rows) for rows in runs]
            x = np.full(len(values), index + shift)
            solved.scatter(x, values, s=14, marker=marker, color=COLOURS[index], alpha=0.7)
    tokens.set(title="accuracy by tokens", xlabel="thousand tokens", ylabel="held-out accuracy")
    clock.set(title="accuracy by time", xlabel="minutes, one thread", ylabel="held-out accuracy")
    length.set(title="length", xlabel="step", ylabel="tokens per completion")
    for k, style in ((1, ":"), (16, "--")):
        values = [pass_at(0, k)(rows) for rows in load("grpo").values()]
        if values:
            solved.axhline(np.mean(values), color="#666666", ls=style, lw=1)
            solved.text(
                5.5, np.mean(values), f"base, pass@{k}", fontsize=7, va="bottom", ha="right"
            )
    solved.set_xticks(range(6), [f"{arm}.py" for arm in SCRIPTS], rotation=20)
    solved.set(title="after 30 steps: pass@1 (dots), pass@16 (squares)", ylabel="held-out problems")
    legend(tokens)
    save(
        figure,
        "accuracy",
        f"{seeds_of(*SCRIPTS)} per script (thin), mean (thick). 384 held-out problems, one "
        "completion each; lower right: 96 problems, 16 completions each.\nThe time of a run "
        f"includes a second run beside it on the other core. {command('defaults')}",
    )


def draw_failures():
    """Length inflation, entropy, and a reward with a seam: how runs go wrong."""
    figure, grid = plt.subplots(1, 3, figsize=(11, 3.5), layout="constrained")
    draw_seeds(grid[0], "grpo", "length_wrong", "grpo.py, wrong", 0)
    draw_seeds(grid[0], "grpo", "length_right", "grpo.py, right", 1)
    draw_seeds(grid[0], "dr_grpo", "length_wrong", "dr_grpo.py, wrong", 2)
    draw_seeds(grid[1], "kl_0", "entropy", "4 updates, 2e-4", 0)
    draw_seeds(grid[1], "stale_symmetric", "entropy", "16 updates, 5e-4", 1)
    draw_seeds(grid[1], "hot_token", "entropy", "16 updates, 1e-3: breaks", 2)
    draw_seeds(grid[2], "seam", "reward_claim", "reward: claims to be right", 0)
    draw_seeds(grid[2], "seam", "accuracy", "is right", 1)
    grid[0].set(title="length inflation", xlabel="step", ylabel="tokens per completion")
    grid[1].set(title="entropy (grpo.py, no KL)", xlabel="step", ylabel="nats per token")
    grid[2].set(title="a reward with a seam", xlabel="step", ylabel="share of completions")
    for axes in grid:
        legend(axes)
    arms = ("grpo", "dr_grpo", "kl_0", "stale_symmetric", "hot_token", "seam")
    save(
        figure,
        "failures",
        f"{seeds_of(*arms)} per arm (thin), mean (thick). "
        + command("defaults", "length", "clip_width", "stability", "reward"),
    )


def draw_summary(measured):
    """Axes down, relative effect with interval across."""
    rows = [(e, m) for e, m in measured if e.experiment in SUMMARY][::-1]
    figure, axes = plt.subplots(figsize=(10, 0.42 * len(rows) + 1), layout="constrained")
    for y, (_, found) in enumerate(rows):
        scale = 100 / max(abs(found["base"]), 1e-9)
        low, high = (x * scale for x in found["interval"])
        sure = found["interval"][0] > 0 or found["interval"][1] < 0
        colour = COLOURS[0] if sure else "#888888"
        axes.plot([low, high], [y, y], color=colour, lw=2)
        axes.scatter(
            found["difference"] * scale, y, color=colour, marker="o" if sure else "x", zorder=3
        )
    labels = [
        f"{EXPERIMENTS[e.experiment].axis}: {e.what}\n"
        f"{m['base']:.3g} → {m['moved']:.3g}, {m['seeds']} seeds, {m['verdict']}"
        for e, m in rows
    ]
    axes.set_yticks(range(len(rows)), labels, fontsize=7.5)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlim(-250, 9000)
    axes.axvline(0, color="#444444", lw=0.8)
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xticks([-100, -10, 0, 10, 100, 1000], ["-100", "-10", "0", "10", "100", "1000"])
    axes.set_xlabel("change against the first arm, %: mean and 95 % bootstrap interval over seeds")
    save(figure, "summary", "Blue dot: the interval excludes 0. python plots/experiments.py")


def draw_speed():
    """Ratios to TRL, model.generate and the plain update; and growth."""
    report = json.loads((PLOTS / "data/benchmark.json").read_text())
    figure, grid = plt.subplots(1, 4, figsize=(12, 3.4), layout="constrained")
    bars = [(f"step, {name}\nagainst TRL", entry) for name, entry in report["step"].items()]
    for phase, other in (("rollout", "generate"), ("update", "plain padded")):
        for name, entry in report["phases"].items():
            bars.append((f"{phase}, {name}\nagainst {other}", entry[phase]))
    for row, (_, entry) in enumerate(reversed(bars)):
        grid[0].barh(row, entry["ratio"], color=COLOURS[0])
        grid[0].plot(entry["ratio_range"], [row, row], color="black", lw=1)
    grid[0].set_yticks(range(len(bars)), [label for label, _ in reversed(bars)], fontsize=7)
    grid[0].axvline(1, color="#444444", lw=0.8, ls=":")
    grid[0].set(title="times as fast", xlabel="ratio (line: range)")
    for axes, (name, points) in zip(grid[1:], report["growth"].items(), strict=True):
        x = [int(value) for value in points]
        for index, (phase, other) in enumerate(
            (("rollout", "generate"), ("update", "plain padded"))
        ):
            entries = [point[phase] for point in points.values()]
            for who, style in (("ours", "-"), ("other", ":")):
                y = [entry[who] for entry in entries]
                label = f"{phase}, {'ours' if who == 'ours' else other}"
                axes.plot(x, y, style, marker="o", ms=3, color=COLOURS[index], label=label)
        axes.set(title=name, xlabel=name, xscale="log", yscale="log")
        axes.set_xticks(x, x)
        axes.minorticks_off()
    grid[1].set_ylabel("tokens/s")
    legend(grid[1])
    about = report["about"]
    save(
        figure,
        "speed",
        f"{about['threads']} threads, {about['rounds']} timed turns, medians; growth at forced "
        "full length. python plots/benchmark.py",
    )


# -------------------------------------------------------------------------------------------------
# Tables and transcripts


def number(x):
    """Three significant digits, without exponents for what a table holds."""
    return f"{x:.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def results(measured):
    """The text of results.md: per experiment its hypothesis, arms, effects and verdicts."""
    lines = [
        "# Results",
        "",
        "Written by `python plots/make_figures.py` from the logs in `plots/data/`. Differences are "
        "paired by seed (same problems, same initial model); intervals are 95 % percentile "
        "bootstrap intervals over seeds, which with five seeds are short: read them with the "
        "number of seeds that agree in sign. Each hypothesis was written before its runs. A "
        "verdict is *seen* if the interval excludes 0 on the side that the hypothesis names. Any "
        "run again: `python plots/experiments.py --one ARM --seed SEED`.",
    ]
    for name, experiment in EXPERIMENTS.items():
        lines += ["", f"## {name} ({experiment.axis})", "", experiment.hypothesis, ""]
        for arm in experiment.arms:
            swaps = "".join(f", `{f}` of {s}.py" for f, s in ARMS[arm].swap.items())
            tokens = [tokens_at(rows, 99) for rows in load(arm).values()]
            updates = [sum(row.get("updates", 0) for row in rows) for rows in load(arm).values()]
            if tokens:
                budget = f"{np.mean(updates):.0f} updates, {np.mean(tokens) / 1e3:.0f}k tokens"
                lines.append(f"* {arm}: `{ARMS[arm].command('S')}`{swaps}: {budget}")
        lines += ["", "| measured | before | after | difference | 95 % | seeds | verdict |"]
        lines.append("|---|---|---|---|---|---|---|")
        for effect, found in measured:
            if effect.experiment == name:
                low, high = map(number, found["interval"])
                cells = [effect.what.replace("|", "\\|"), number(found["base"])]
                cells += [number(found["moved"]), number(found["difference"]), f"{low} to {high}"]
                cells += [f"{found['agree']} of {found['seeds']}", found["verdict"]]
                lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## Ceiling or speed?", ""]
    lines.append(
        "Held-out accuracy of the default runs, and a saturating fit of it against tokens, "
        "`c - (c - a0) exp(-tokens / tau)`, run by run: mean and 95 % interval over seeds."
    )
    lines += [
        "",
        "| script | step 30 | ceiling c | tau, thousand tokens | tokens | pass@1 | pass@16 |",
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for script in SCRIPTS:
        runs = list(load(script).values())
        if len(runs) < 2:
            continue
        fits = np.array([saturating_fit(rows) for rows in runs])
        columns = [np.array([mean_over("eval_accuracy", 30, 30)(rows) for rows in runs]) * 100]
        columns += [fits[:, 0] * 100, fits[:, 1] / 1e3]
        columns.append(np.array([tokens_at(rows, 30) for rows in runs]) / 1e3)
        columns += [np.array([pass_at(-1, k)(rows) for rows in runs]) * 100 for k in (1, 16)]
        cells = []
        for index, values in enumerate(columns):
            low, high = interval(values)
            unit = "" if index in (2, 3) else " %"
            cells.append(f"{values.mean():.1f}{unit} ({low:.1f} to {high:.1f})")
        lines.append(f"| {script}.py | {' | '.join(cells)} |")
    return "\n".join([*lines, *diagnoses()]) + "\n"


PLANTED = {  # arm: the symptom that it was made to show
    "only_verbose": "length grows without accuracy",
    "only_brevity": "entropy collapses",
    "stale_symmetric": "token ratios are noisy",
    "pooled_two": "reward components collide",
    "stale_higher": "fork tokens are clipped",
    "kl_0": "groups without signal",
    "seam": "reward rises, accuracy does not",
    "mixture_token": "policy far from the start",
    "hot_token": "training breaks",
}


def diagnoses():
    """Lines of results.md: what diagnose.py says of planted and of healthy runs."""
    found = {}
    for arm in (*PLANTED, *SCRIPTS):
        for path in sorted(LOGS.glob(f"{arm}-seed*.jsonl")):
            script, training, _ = diagnose.read_run(path)
            shown = {f.symptom for f in diagnose.findings(script, training) if f.shown}
            found.setdefault(arm, []).append(shown)
    lines = ["", "## Diagnosis: hits and false alarms", ""]
    lines += [
        "`plots/diagnose.py` on runs that were made to show a symptom, and on the default runs of "
        "the six scripts. A planted run may show other symptoms too; what a default run shows is "
        "either a false alarm or a finding. Thresholds were set on runs of seed 1.",
        "",
        "| planted in | symptom | shown in | also shown |",
        "|---|---|---|---|",
    ]
    for arm, symptom in PLANTED.items():
        runs = found.get(arm, [])
        others = Counter(name for shown in runs for name in shown if name != symptom)
        also = ", ".join(f"{name} ({count})" for name, count in others.most_common())
        hits = sum(symptom in shown for shown in runs)
        lines.append(f"| {arm} | {symptom} | {hits} of {len(runs)} | {also or '-'} |")
    lines += ["", "| default run | symptoms shown |", "|---|---|"]
    for arm in SCRIPTS:
        counts = Counter(name for shown in found.get(arm, []) for name in shown)
        text = ", ".join(f"{name} ({count} of {len(found[arm])})" for name, count in counts.items())
        lines.append(f"| {arm}.py | {text or 'none'} |")
    return lines


def transcripts():
    """The text of transcripts.md: the first three held-out problems, before and after, seed 1."""
    lines = [
        "# Transcripts",
        "",
        "Chosen by rule: seed 1, the first three held-out problems, at the first evaluation (the "
        "base) and at the last. Written by `python plots/make_figures.py` from the logs.",
    ]

    def show(title, samples):
        lines.extend(["", f"## {title}"])
        for sample in samples:
            verdict = "right" if sample["right"] else "wrong"
            numbers = " ".join(map(str, sample["numbers"]))
            lines.extend(["", f"{numbers} -> {sample['target']}, {verdict}:", "", "```"])
            lines.extend([sample["completion"], "```"])

    for arm in (*SCRIPTS, "hot_token", "seam"):
        samples = [row for row in load(arm).get(1, []) if "completion" in row]
        if not samples:
            continue
        if arm == SCRIPTS[0]:
            show("The base", [row for row in samples if row["step"] == 0][:3])
        last = samples[-1]["step"]
        title = {"hot_token": "A failed run: grpo.py, 16 updates per rollout at 1e-3 (hot_token)"}
        title["seam"] = "A reward that believes the claim (seam)"
        after = [row for row in samples if row["step"] == last][:3]
        show(f"{title.get(arm, f'{arm}.py')}, after {last} steps", after)
    return "\n".join(lines) + "\n"


def main():
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    measured = [(effect, effect.measured()) for effect in EFFECTS]
    measured = [(effect, found) for effect, found in measured if found]
    for effect, found in measured:
        low, high = map(number, found["interval"])
        print(
            f"{effect.experiment}: {effect.what}: {number(found['base'])} -> "
            f"{number(found['moved'])}, difference {number(found['difference'])} "
            f"[{low}, {high}], {found['agree']} of {found['seeds']} seeds: {found['verdict']}"
        )
    (PLOTS / "results.md").write_text(results(measured), encoding="utf-8")
    (PLOTS / "transcripts.md").write_text(transcripts(), encoding="utf-8")
    draw_map()
    draw_panels()
    draw_clip_width()
    draw_accuracy()
    draw_failures()
    draw_summary(measured)
    draw_speed()


if __name__ == "__main__":
    main()

"""Draws every figure from the committed logs in plots/data/: python plots/make_figures.py

Thin lines are single seeds, thick lines their mean. Intervals are 95 % bootstrap intervals over
seeds of the paired difference (same problems, same initial model). Experiments whose runs are not
all there yet are drawn from the seeds that all their arms have, and say how many.
"""

import argparse
import json
import math
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from plots.experiments import EXPERIMENTS, LOGS

# Okabe and Ito's colours, told apart by the colour-blind; line styles for print.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
STYLES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1))]
plt.rcParams.update(
    {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 150}
)
FIGURES = ROOT / "plots/figures"


# -------------------------------------------------------------------------------------------------
# Logs and statistics


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
    return [np.array(part, float) for part in zip(*points, strict=True)] if points else ([], [])


def late(rows, metric, last=5):
    """Mean of a metric over the last steps of a run."""
    values = curve(rows, metric)[1][-last:]
    return float(np.mean(values)) if len(values) else math.nan


def paired(base, moved, metric):
    """Differences moved - base of a number per run, seed by seed, where both arms have the seed.

    `metric` takes a run's rows; a pair of functions takes one for each arm.
    """
    first, second = metric if isinstance(metric, tuple) else (metric, metric)
    a, b = load(base), load(moved)
    seeds = sorted(a.keys() & b.keys())
    before = np.array([first(a[seed]) for seed in seeds])
    return before, np.array([second(b[seed]) for seed in seeds])


def interval(values, draws=10_000):
    """95 % percentile bootstrap interval of the mean over seeds."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, (draws, len(values))).mean(1)
    return np.percentile(means, [2.5, 97.5])


# -------------------------------------------------------------------------------------------------
# What each axis moves


def zeroed(row):
    return row.get("zeroed_fork")


def extreme_weight(rows):
    """Mean weight of groups nearly all wrong or nearly all right (1-2, 14-15 of 16) over mixed."""
    pairs = [pair for row in rows for pair in row.get("weight_by_right") or []]
    mean = lambda wanted: np.mean([w for right, w in pairs if right in wanted])  # noqa: E731
    return float(mean({1, 2, 14, 15}) / mean({6, 7, 8, 9, 10}))


def last(metric):
    return lambda rows: late(rows, metric)


def mean_of(metric):
    return lambda rows: float(np.mean(curve(rows, metric)[1]))


# axis, what is measured, base arm, moved arm, number per run (or one for each arm)
EFFECTS = [
    (
        "granularity",
        "RMS log-ratio, sequence against token",
        "stale_symmetric",
        "stale_sequence",
        (mean_of("log_ratio_rms"), mean_of("sequence_log_ratio_rms")),
    ),
    (
        "clip width",
        "entropy (nats), upper bound 0.28 against 0.2",
        "stale_symmetric",
        "stale_higher",
        last("entropy"),
    ),
    (
        "clip width",
        "entropy (nats), upper bound 1.0 against 0.2",
        "stale_symmetric",
        "stale_wide",
        last("entropy"),
    ),
    (
        "clip width (object)",
        "share of fork tokens without gradient, CISPO against PPO's clip",
        "stale_ppo_clip",
        "stale_cispo",
        mean_of("zeroed_fork"),
    ),
    (
        "clip width (object)",
        "retries at a fork, CISPO against PPO's clip",
        "stale_ppo_clip",
        "stale_cispo",
        last("retry"),
    ),
    (
        "length + std",
        "tokens of wrong completions, token mean against 1/|o|",
        "kl_0",
        "token_mean",
        last("length_wrong"),
    ),
    (
        "length + std",
        "tokens of wrong completions, constant against 1/|o|",
        "kl_0",
        "constant_length",
        last("length_wrong"),
    ),
    (
        "length + std",
        "weight of lopsided groups over mixed ones, no std against std",
        "kl_0",
        "no_std",
        extreme_weight,
    ),
    (
        "KL",
        "KL to the reference, coefficient 0.4 against 0",
        "kl_0",
        "kl_10x",
        last("kl_ref"),
    ),
    (
        "KL",
        "held-out accuracy, coefficient 0.4 against 0",
        "kl_0",
        "kl_10x",
        lambda rows: late(rows, "eval_accuracy", 1),
    ),
    (
        "advantage",
        "distinct advantages per batch, two rewards, decoupled against pooled",
        "pooled_two",
        "decoupled_two",
        mean_of("advantage_levels"),
    ),
    (
        "advantage",
        "distinct advantages per batch, three rewards, decoupled against pooled",
        "pooled_three",
        "decoupled_three",
        mean_of("advantage_levels"),
    ),
    (
        "sampling",
        "share of groups without signal, refilled against static",
        "static",
        "dynamic",
        mean_of("groups_without_signal"),
    ),
    (
        "sampling",
        "tokens generated for the same steps, refilled against static",
        "static",
        "dynamic",
        lambda rows: curve(rows, "tokens_total")[1][-1],
    ),
]


def effects():
    """[{axis, what, seeds, base, moved, difference, interval}] of all pairs that have runs."""
    table = []
    for axis, what, base, moved, metric in EFFECTS:
        before, after = paired(base, moved, metric)
        if len(before) < 2:
            continue
        low, high = interval(after - before)
        table.append(
            {
                "axis": axis,
                "what": what,
                "arms": [base, moved],
                "seeds": len(before),
                "base": before.mean(),
                "moved": after.mean(),
                "difference": (after - before).mean(),
                "interval": [low, high],
                "verdict": "seen" if low > 0 or high < 0 else "not seen",
            }
        )
    return table


# -------------------------------------------------------------------------------------------------
# Drawing


def draw_seeds(axes, arm, metric, label, index, x=None):
    """Thin lines for seeds, a thick one for their mean; returns the number of seeds."""
    lines = []
    for rows in load(arm).values():
        steps, values = curve(rows, metric)
        if x is not None:
            steps = np.array([x(rows, step) for step in steps])
        lines.append((steps, values))
        axes.plot(steps, values, color=COLOURS[index], lw=0.6, alpha=0.35)
    shortest = min((len(values) for _, values in lines), default=0)
    if shortest:
        mean = [
            np.mean([part[:shortest] for part in parts], 0) for parts in zip(*lines, strict=True)
        ]
        axes.plot(*mean, color=COLOURS[index], ls=STYLES[index], lw=2, label=f"{label}")
    return len(lines)


def tokens_at(rows, step):
    """Tokens generated up to a step, in thousands."""
    return (
        max(
            (row["tokens_total"] for row in rows if row["step"] <= step and "tokens_total" in row),
            default=0,
        )
        / 1e3
    )


def save(figure, name, note):
    """Writes the PNG with its conditions and command below the axes."""
    figure.text(0.01, -0.01, note, fontsize=7, va="top", family="monospace")
    FIGURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURES / f"{name}.png", bbox_inches="tight", pad_inches=0.15)
    plt.close(figure)


def seeds_of(*arms):
    counts = sorted({len(load(arm)) for arm in arms})
    return f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def command(*experiments):
    return f"python plots/experiments.py --only {' '.join(experiments)}"


AXIS_TRACKS = {  # axis -> places on its track; the first is GRPO's
    "granularity": ["one ratio per token", "one ratio per sequence"],
    "clip width": ["0.2 / 0.2", "0.2 / 0.28", "3e-4 / 4e-4", "caps the weight at 1.28"],
    "length + std": ["1/|o|, group std", "token mean, group std", "constant, no std"],
    "KL": ["k3 to the initial model, 0.04", "none"],
    "advantage": ["rewards pooled, then normalised", "each normalised, then pooled"],
    "sampling": ["static groups", "refilled, overlong punished"],
}


def places():
    """{script: {axis: place on its track}}, read from the scripts' own options and functions."""
    import importlib
    import inspect

    found = {}
    for script in ("grpo", "dr_grpo", "dapo", "gspo", "gdpo", "cispo"):
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
    figure, axes = plt.subplots(figsize=(9, 5.2))
    for row, (axis, track) in enumerate(AXIS_TRACKS.items()):
        y = len(AXIS_TRACKS) - row
        axes.plot([0, len(track) - 1], [y, y], color="#999999", lw=2, zorder=1)
        for place, text in enumerate(track):
            names = [script for script, where in found.items() if where[axis] == place]
            axes.scatter(place, y, s=70, color=COLOURS[0] if place == 0 else COLOURS[1], zorder=2)
            axes.text(place, y + 0.14, text, ha="center", va="bottom", fontsize=8)
            axes.text(
                place,
                y - 0.16,
                "  ".join(names),
                ha="center",
                va="top",
                fontsize=7.5,
                family="monospace",
                color=COLOURS[0] if place == 0 else COLOURS[1],
            )
    axes.set_yticks(range(len(AXIS_TRACKS), 0, -1), AXIS_TRACKS)
    axes.set_xticks([])
    axes.set_xlim(-0.6, 3.6)
    axes.set_ylim(0.4, len(AXIS_TRACKS) + 0.6)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0)
    axes.set_title("Six axes: GRPO's place on the left, and who leaves it")
    save(figure, "six_axes", "Read from the six scripts' options and functions.")


PANELS = [  # title, y label, [(arm, metric, label)]
    (
        "granularity: spread of the ratio",
        "RMS of log ratio",
        [
            ("stale_symmetric", "log_ratio_rms", "token ratio"),
            ("stale_sequence", "sequence_log_ratio_rms", "sequence ratio (gspo.py)"),
        ],
    ),
    (
        "clip width: entropy",
        "nats per token",
        [
            ("stale_symmetric", "entropy", "0.2 / 0.2"),
            ("stale_higher", "entropy", "0.2 / 0.28"),
            ("stale_wide", "entropy", "0.2 / 1.0"),
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
            ("kl_0", "kl_ref", "0"),
            ("kl_default", "kl_ref", "0.04"),
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
        "share",
        [
            ("static", "groups_without_signal", "static"),
            ("dynamic", "groups_without_signal", "refilled (dapo.py)"),
        ],
    ),
]


def draw_panels():
    figure, grid = plt.subplots(2, 3, figsize=(11, 6), layout="constrained")
    used = []
    for axes, (title, unit, lines) in zip(grid.flat, PANELS, strict=True):
        for index, (arm, metric, label) in enumerate(lines):
            draw_seeds(axes, arm, metric, label, index)
            used.append(arm)
        axes.set(title=title, xlabel="step (one rollout)", ylabel=unit)
        axes.legend(frameon=False, fontsize=8)
    save(
        figure,
        "axes_measured",
        f"{seeds_of(*used)} per arm (thin), mean (thick). 256 completions per step. Upper left and "
        "middle: 16 updates per rollout,\nlearning rate 1e-3, no KL. "
        + command("granularity", "clip_width", "length", "kl", "advantage", "sampling"),
    )


def draw_accuracy():
    """The six defaults: accuracy and length against tokens and steps."""
    figure, grid = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    arms = EXPERIMENTS["defaults"].arms
    for index, arm in enumerate(arms):
        draw_seeds(grid[0], arm, "eval_accuracy", f"{arm}.py", index, x=tokens_at)
        draw_seeds(grid[1], arm, "accuracy", f"{arm}.py", index)
        draw_seeds(grid[2], arm, "length", f"{arm}.py", index)
    grid[0].set(title="held-out accuracy", xlabel="thousand tokens generated", ylabel="share")
    grid[1].set(title="accuracy while training", xlabel="step", ylabel="share")
    grid[2].set(title="length", xlabel="step", ylabel="tokens per completion")
    grid[0].legend(frameon=False, fontsize=8)
    save(
        figure,
        "accuracy",
        f"{seeds_of(*arms)} per script (thin), mean (thick); 384 held-out problems, one completion "
        f"each. {command('defaults')}",
    )


def draw_failures():
    """Length of wrong completions and entropy, the two classic ways to go wrong."""
    figure, grid = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
    for index, arm in enumerate(("grpo", "dr_grpo")):
        draw_seeds(grid[0], arm, "length_wrong", f"{arm}.py, wrong", index)
        draw_seeds(grid[0], arm, "length_right", f"{arm}.py, right", index + 2)
    for index, (arm, label) in enumerate(
        (
            ("stale_symmetric", "0.2 / 0.2"),
            ("stale_higher", "0.2 / 0.28"),
            ("stale_wide", "0.2 / 1.0"),
        )
    ):
        draw_seeds(grid[1], arm, "entropy", label, index)
    grid[0].set(title="length", xlabel="step", ylabel="tokens per completion")
    grid[1].set(
        title="entropy, policy far from the sampler", xlabel="step", ylabel="nats per token"
    )
    for axes in grid:
        axes.legend(frameon=False, fontsize=8)
    save(
        figure,
        "failures",
        f"{seeds_of('grpo', 'dr_grpo', 'stale_symmetric', 'stale_higher', 'stale_wide')} "
        f"(thin), mean (thick). {command('defaults', 'clip_width')}",
    )


def draw_summary(table):
    """Axes down, relative effect with interval across."""
    figure, axes = plt.subplots(figsize=(9, 0.5 * len(table) + 1), layout="constrained")
    for row, effect in enumerate(reversed(table)):
        scale = 100 / max(abs(effect["base"]), 1e-9)
        low, high = (x * scale for x in effect["interval"])
        middle, seen = effect["difference"] * scale, effect["verdict"] == "seen"
        colour = COLOURS[0] if seen else "#888888"
        axes.plot([low, high], [row, row], color=colour, lw=2)
        axes.scatter(middle, row, color=colour, marker="o" if seen else "x", zorder=3)
    labels = [
        f"{e['axis']}: {e['what']}\n{e['base']:.3g} → {e['moved']:.3g}, {e['seeds']} seeds"
        for e in reversed(table)
    ]
    axes.set_yticks(range(len(table)), labels, fontsize=7.5)
    axes.axvline(0, color="#444444", lw=0.8)
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlabel("change against the base arm, % (95 % bootstrap interval over seeds, paired)")
    save(figure, "summary", f"Blue dot: interval excludes 0. {command(*EXPERIMENTS)}")


def draw_speed():
    """Ratios to TRL, model.generate and the plain update; and growth."""
    report = json.loads((ROOT / "plots/data/benchmark.json").read_text())
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
    grid[1].legend(frameon=False, fontsize=7)
    about = report["about"]
    save(
        figure,
        "speed",
        f"{about['threads']} threads, {about['rounds']} timed turns, medians; growth at forced "
        "full length. python plots/benchmark.py",
    )


def main():
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    table = effects()
    for effect in table:
        low, high = effect["interval"]
        print(
            f"{effect['axis']}: {effect['what']}: {effect['base']:.4g} -> {effect['moved']:.4g}, "
            f"difference {effect['difference']:.3g} [{low:.3g}, {high:.3g}], "
            f"{effect['seeds']} seeds, {effect['verdict']}"
        )
    draw_map()
    draw_panels()
    draw_accuracy()
    draw_failures()
    draw_summary(table)
    draw_speed()


if __name__ == "__main__":
    main()

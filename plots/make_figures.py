"""Draws every figure from the committed logs: python -m plots.make_figures

Thin lines are single seeds, thick lines their mean. Writes plots/figures/; the tables are written
by `python -m experiments.reports`.
"""

if __package__ != "plots":
    raise SystemExit("run it from the repository's folder: python -m plots.make_figures")

import json

import numpy as np

import common
from experiments.arms import EXPERIMENTS, SCRIPTS
from experiments.benchmark import MORE_TURNS
from experiments.curves import load, tokens_at
from experiments.effects import all_measured, pass_at
from plots.axes import coordinates
from plots.style import COLOURS, draw_against, draw_seeds, legend, plt, save, seeds_of

# The rows of the summary figure, one or two for each axis.
SUMMARY = ("granularity", "mixture", "clip_width", "clip_object", "length", "std", "kl")
SUMMARY += ("advantage", "sampling", "reward")


def thousand_tokens(rows, step):
    return tokens_at(rows, step) / 1e3


def minutes_at(rows, step):
    """Minutes of sampling and updating up to a step."""
    return sum(row.get("seconds", 0) for row in rows if row["step"] <= step) / 60


def command(*experiments):
    return f"python -m experiments.run --only {' '.join(experiments)}"


AXIS_TRACKS = {  # axis -> {coordinate in a docstring: its label}; the first is GRPO's
    "granularity": {
        "token ratio": "one ratio\nper token",
        "sequence ratio, clipped as a whole": "one ratio\nper sequence",
    },
    "clip width": {
        "symmetric, 0.2": "0.2 / 0.2",
        "0.2 below, 0.28 above (clip-higher)": "0.2 / 0.28",
        "3e-4 below, 4e-4 above, on the sequence ratio": "3e-4 / 4e-4",
        "clips the weight, not the update: every token keeps its gradient; no lower clip": (
            "caps the weight\nat 1.28"
        ),
    },
    "length + std": {
        "1/|o| per completion, divided by the group's std": "1/|o|,\ngroup std",
        "mean over the tokens of the minibatch, divided by the group's std": (
            "token mean,\ngroup std"
        ),
        "constant 1/T instead of 1/|o|, no division by the group's std": "constant,\nno std",
    },
    "KL": {
        "k3 to the frozen initial model, in the loss, beta 0.04": (
            "k3 to the initial\nmodel, 0.04"
        ),
        "none, and no reference model": "none",
    },
    "advantage": {
        "reward components pooled, minus the group's mean": "rewards pooled,\nthen centred",
        "each component normalised per group, weighted, summed, normalised over the rollout": (
            "each normalised,\nthen pooled"
        ),
    },
    "sampling": {
        "static groups": "static groups",
        "dynamic: groups without signal are refilled; soft overlong punishment (Eq. 13)": (
            "refilled,\noverlong punished"
        ),
    },
}


def draw_map():
    """Six tracks; each variant's mark lies where its docstring says that it is."""
    sources = {name: (common.HERE / f"{name}.py").read_text(encoding="utf-8") for name in SCRIPTS}
    found = {name: coordinates(source) for name, source in sources.items()}
    figure, axes = plt.subplots(figsize=(9, 6.2), layout="constrained")
    for row, (axis, track) in enumerate(AXIS_TRACKS.items()):
        y = -row
        axes.plot([0, len(track) - 1], [y, y], color="#999999", lw=2, zorder=1)
        for place, (coordinate, text) in enumerate(track.items()):
            names = [script for script, where in found.items() if where[axis] == coordinate]
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
    save(figure, "six_axes", "Read from the scripts' docstrings by make_figures.py")


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
            solved.text(5.5, np.mean(values), f"base, pass@{k}", fontsize=7, va="top", ha="right")
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
    draw_seeds(grid[1], "only_orderly", "entropy", "4 updates, paid for one order", 3)
    draw_seeds(grid[2], "seam", "reward_claim", "reward: claims to be right", 0)
    draw_seeds(grid[2], "seam", "accuracy", "is right", 1)
    grid[0].set(title="length inflation", xlabel="step", ylabel="tokens per completion")
    grid[1].set(title="entropy (grpo.py, no KL)", xlabel="step", ylabel="nats per token")
    grid[1].set_ylim(0, 0.21)  # room for the legend
    grid[2].set(title="a reward with a seam", xlabel="step", ylabel="share of completions")
    for axes in grid:
        legend(axes)
    arms = ("grpo", "dr_grpo", "kl_0", "stale_symmetric", "hot_token", "only_orderly", "seam")
    save(
        figure,
        "failures",
        f"{seeds_of(*arms)} per arm (thin), mean (thick). "
        + command("defaults", "length", "clip_width", "stability", "planted", "reward"),
    )


def draw_summary(measured):
    """Axes down, relative effect with interval across."""
    rows = [(e, m) for e, m in measured if e.experiment in SUMMARY and m["base"]][::-1]
    figure, axes = plt.subplots(figsize=(10, 0.42 * len(rows) + 1), layout="constrained")
    for y, (_, found) in enumerate(rows):
        scale = 100 / abs(found["base"])
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
    save(figure, "summary", "Blue dot: the interval excludes 0. python -m experiments.run")


def draw_speed():
    """Ratios to TRL, model.generate and the plain update; and growth."""
    report = json.loads((common.HERE / "experiments/benchmark.json").read_text())
    figure, grid = plt.subplots(1, 4, figsize=(12, 4.6), layout="constrained")
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
                y = [entry[who] / 1e3 for entry in entries]
                label = f"{phase}, {'ours' if who == 'ours' else other}"
                axes.plot(x, y, style, marker="o", ms=3, color=COLOURS[index], label=label)
        axes.set(title=name, xlabel=name, xscale="log", ylim=(0, None))
        axes.set_xticks(x, x)
        axes.minorticks_off()
    grid[1].set_ylabel("thousand tokens/s")
    legend(grid[1])
    about = report["about"]
    short = about["rounds"] * MORE_TURNS["short"]
    save(
        figure,
        "speed",
        f"{about['threads']} threads, {about['rounds']} timed turns ({short} of short), medians; "
        "growth at forced full length. python -m experiments.benchmark",
    )


def main():
    draw_map()
    draw_panels()
    draw_clip_width()
    draw_accuracy()
    draw_failures()
    draw_summary(all_measured())
    draw_speed()


if __name__ == "__main__":
    main()

"""Draws every figure from the committed logs: python -m plots.make_figures

Thin lines are single seeds, thick lines their mean. Writes plots/figures/; the tables are written
by `python -m experiments.reports`.
"""

if __package__ != "plots":
    raise SystemExit("run it from the repository's folder: python -m plots.make_figures")

import argparse
import json
import textwrap

from runtime.intervals import interval

import numpy as np

from compose.reader import HERE, coordinates, source_of
from experiments.benchmark import MORE_TURNS
from experiments.catalogue import ARMS, CRITICS, EXPERIMENTS, FRONTIER, SCRIPTS, ZOO
from experiments.curves import load, mean_over, tokens_at
from experiments.effects import DERIVED, all_measured, pass_at
from plots import compositions, critics, failures, frontier, real_model, turns
from plots.style import COLOURS, draw_difference, draw_seeds, legend, plt, save, seeds_of

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
        "reward components pooled, minus the group's mean": "rewards summed,\nthen centred",
        "each component normalised per group, weighted, summed, normalised over the rollout": (
            "each normalised,\nthen summed"
        ),
    },
    "sampling": {
        "static groups": "static groups",
        "dynamic: all-right and all-wrong groups redrawn; soft overlong punishment (Eq. 13)": (
            "dynamic sampling,\noverlong penalty"
        ),
    },
    "sampler": {
        "taken for the old policy": "taken for\nthe old policy",
        "corrected: a token weighs pi_old / mu, 2 at most": "weighed by\npi_old / mu",
    },
}


ZOO_TRACKS = {  # the same for the ladder of baselines
    "granularity": {
        "token ratio": "one ratio\nper token",
        "sequence ratio, a geometric mean of clipped token ratios": "one ratio\nper sequence",
        "the completion is one action: the product of its token ratios": "their product",
    },
    "clip width": {
        "symmetric, 0.2": "0.2 / 0.2",
        "0.2 below, 0.28 above": "0.2 / 0.28",
        "c = 0.4 in the log of a token's ratio: exp(-0.4) to exp(0.4), one side each": (
            "tokens, e^-0.4 / e^0.4,\nbefore the mean"
        ),
    },
    "length + std": {
        "1/|o| per completion, divided by the group's std": "1/|o|,\ngroup std",
        "1/|o| per completion, divided by the rollout's std": "1/|o|,\nrollout std",
        "1/|o| per completion, divided by the rollout's std over tokens": (
            "1/|o|,\nstd over tokens"
        ),
        "mean over the tokens of the minibatch, divided by the rollout's std": (
            "token mean,\nrollout std"
        ),
        "mean over the tokens of the minibatch, divided by the rollout's std over tokens": (
            "token mean,\nstd over tokens"
        ),
        "no 1/|o|, no division by the group's std": "neither",
    },
    "KL": {
        "k3 to the frozen initial model, in the loss, beta 0.04": "k3 in the loss,\n0.04",
        "k2 to the frozen initial model, in the loss, beta 0.04": "k2 in the loss,\n0.04",
        "k1 to the frozen initial model, in the reward, beta 0.05": "k1 in the reward,\n0.05",
        "k1 to the frozen initial model, in the reward of every token, beta 0.01": (
            "k1 in every token's\nreward, 0.01"
        ),
        "none in the loss": "none in the loss",
        "none, and no reference model": "none",
    },
    "advantage": {
        "reward components pooled, minus the group's mean": "minus the\ngroup's mean",
        "reward components pooled, minus the mean of the others": "minus the mean\nof the others",
        "reward components pooled, minus the rollout's mean over tokens": (
            "minus the\nbatch's mean"
        ),
        "0 or 1, minus what the tracker expects, minus the rollout's mean": (
            "minus a memory\nof the problem"
        ),
        "reward components pooled, minus a critic of the prefix (GAE, lambda 1)": (
            "minus a critic\nof the prefix"
        ),
        "rewards pooled, minus a critic (GAE, lambda by length); right answers imitated": (
            "a critic, by length;\nright ones imitated"
        ),
        "reward components pooled, minus the mean of the others, and process rewards to go": (
            "minus the others,\nrewards per token"
        ),
        "of the trajectory, minus the group's mean; of the turn, minus the state's mean": (
            "minus the group's mean,\nplus the turn's"
        ),
    },
    "sampling": {
        "static groups": "static groups",
        "256 prompts, one completion each": "256 problems,\none each",
        "256 problems of a pool, one completion each, those of middling value more often": (
            "the same, chosen\nfrom a pool"
        ),
    },
    "sampler": {"taken for the old policy": "taken for the old policy"},
}


FRONTIER_TRACKS = {  # the same for the methods of 2026
    "granularity": {"token ratio": "one ratio\nper token"},
    "clip width": {
        "symmetric, 0.2": "0.2 / 0.2",
        "soft: a gate whose slope fades as the ratio leaves 1, tau 1 if A > 0, else 1.05": (
            "a soft gate"
        ),
        "by probability: no gradient once pi - pi_old is beyond 0.15": "0.15 on the\nprobability",
        "none: neither ratio nor bound in the surrogate": "none",
    },
    "length + std": {
        "1/|o| per completion, divided by the group's std": "1/|o|,\ngroup std",
        "1/|o| per completion, divided by the group's mean": "1/|o|,\ngroup mean",
        "1/|o| per completion, no division by the group's std": "1/|o|,\nno std",
    },
    "KL": {
        "k3 to the frozen initial model, in the loss, beta 0.04": "k3 in the loss,\n0.04",
        "k3 times the ratio, to the frozen initial model, in the loss, beta 0.04": (
            "k3 times the ratio,\n0.04"
        ),
        "half the squared log-ratio to the policy that sampled, in the loss, beta 0.05": (
            "a square to the\nold policy, 0.05"
        ),
    },
    "advantage": {
        "reward components pooled, minus the group's mean": "minus the\ngroup's mean",
    },
    "sampling": {"static groups": "static groups"},
    "sampler": {
        "taken for the old policy": "taken for\nthe old policy",
        "believed: its log-probs are the old ones in any precision": ("believed in\nany precision"),
        "corrected: a token weighs pi_old / mu, 2 at most": "weighed by\npi_old / mu",
        "believed, and failures that the policy has left by 0.5 nats a token are masked": (
            "believed, stale\nfailures masked"
        ),
    },
}


def draw_map(scripts, tracks, name, title):
    """A track for each axis; each script's mark lies where its docstring says that it is."""
    found = {arm: coordinates(source_of(ARMS[arm].script)) for arm in scripts}
    longest = max(map(len, tracks.values()))  # places on a track
    names = {  # (axis, coordinate): the scripts there, in lines
        (axis, coordinate): textwrap.wrap(
            " ".join(script for script, where in found.items() if where[axis] == coordinate), 22
        )
        for axis, track in tracks.items()
        for coordinate in track
    }
    height = len(tracks) * (0.7 + 0.15 * max(map(len, names.values())))
    size = (max(9, 1.7 * longest), height)
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    for row, (axis, track) in enumerate(tracks.items()):
        y = -row
        axes.plot([0, len(track) - 1], [y, y], color="#999999", lw=2, zorder=1)
        for place, (coordinate, text) in enumerate(track.items()):
            colour = COLOURS[0] if place == 0 else COLOURS[1]
            style = {"color": colour, "ha": "center", "family": "monospace", "fontsize": 8.5}
            axes.scatter(place, y, s=70, color=colour, zorder=2)
            axes.text(place, y + 0.15, text, ha="center", va="bottom", fontsize=9.5)
            axes.text(place, y - 0.15, "\n".join(names[axis, coordinate]), va="top", **style)
    axes.set_yticks([-row for row in range(len(tracks))], tracks, fontweight="bold")
    axes.set_xticks([])
    axes.set_xlim(-0.6, longest - 0.5)
    axes.set_ylim(-len(tracks) + 0.4, 0.6)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(title)
    save(figure, name, "Read from the scripts' docstrings by make_figures.py")


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
        "clip: tokens without gradient",
        "share of tokens of the kind",
        [
            ("stale_ppo_clip", "zeroed_retry_point", "PPO's clip: try again or stop"),
            ("stale_ppo_clip", "zeroed_number", "PPO's clip: numbers"),
            ("stale_cispo", "zeroed_retry_point", "CISPO: try again or stop"),
        ],
    ),
    (
        "length, where only one try pays",
        "tokens of wrong completions",
        [
            ("first_grpo", "length_wrong", "1/|o|"),
            ("first_token_mean", "length_wrong", "token mean"),
            ("first_constant", "length_wrong", "constant"),
        ],
    ),
    (
        "KL: distance to the start",
        "nats per token (k3)",
        [
            ("kl_0", "kl_ref", "coefficient 0"),
            ("grpo", "kl_ref", "0.04"),
            ("kl_10x", "kl_ref", "0.4"),
        ],
    ),
    (
        "advantage: values, 3 rewards",
        "distinct values per batch",
        [
            ("pooled_three", "advantage_levels", "summed first"),
            ("decoupled_three", "advantage_levels", "decoupled (gdpo.py)"),
        ],
    ),
    (
        "sampling: groups without signal",
        "share of groups",
        [
            ("static", "groups_without_signal", "static"),
            ("dynamic", "groups_without_signal", "dynamic sampling (dapo.py)"),
        ],
    ),
]


ZOO_PANELS = [
    (
        "GMPO: largest ratio of a step",
        "ratio",
        [
            ("stale_symmetric", "ratio_max", "per token (grpo.py)"),
            ("stale_sequence", "ratio_max", "per sequence (gspo.py)"),
            ("stale_geometric", "ratio_max", "clipped, then per sequence (gmpo.py)"),
        ],
    ),
    (
        "GMPO: tokens without gradient",
        "share of tokens",
        [
            ("stale_symmetric", DERIVED["clipped"], "clip on tokens (grpo.py)"),
            ("stale_sequence", DERIVED["clipped"], "after the mean (gspo.py)"),
            ("stale_geometric", DERIVED["clipped"], "before the mean (gmpo.py)"),
        ],
    ),
    (
        "RLOO: tokens in clipped completions",
        "share of tokens",
        [
            ("grpo", DERIVED["clipped"], "clip on tokens (grpo.py)"),
            ("rloo", DERIVED["clipped"], "clip on their product (rloo.py)"),
        ],
    ),
    (
        "SPO: completions without signal",
        "share of completions",
        [
            ("grpo", "groups_without_signal", "groups of 16 (grpo.py)"),
            ("spo", "zero_advantages", "a tracker (spo.py)"),
        ],
    ),
    (
        "V: what a baseline explains",
        "share of the reward's variance",
        [
            ("grpo", DERIVED["explained_by_siblings"], "the other 15 (grpo.py)"),
            ("spo", "explained", "a tracker alone (spo.py)"),
            ("spo", "explained_centred", "a tracker and the batch's mean"),
        ],
    ),
    (
        "TTRL: is the vote right?",
        "share",
        [
            ("ttrl", "label_right", "labels"),
            ("ttrl", "accuracy", "completions"),
            ("hard_voted", "label_right", "labels, hard problems"),
            ("hard_voted", "accuracy", "completions, hard problems"),
        ],
    ),
]


def draw_panels(panels, name, conditions, experiments, width=11):
    """One panel for each quantity that a script moves, over steps; a narrow one has large text."""
    figure, grid = plt.subplots(2, 3, figsize=(width, 6.2), layout="constrained")
    for axes, (title, unit, lines) in zip(grid.flat, panels, strict=True):
        for index, (arm, metric, label) in enumerate(lines):
            draw_seeds(axes, arm, metric, label, index)
        axes.set(title=title, xlabel="step", ylabel=unit)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if metric == "ratio_max":
            axes.set(yscale="log", ylim=(0.7, 2000))  # room for the legend
        elif axes.get_ylim()[0] > -0.1:  # nothing is negative
            axes.set_ylim(bottom=0)
        legend(axes)
    arms = [arm for _, _, lines in panels for arm, _, _ in lines]
    note = f"{seeds_of(*arms)} per arm (thin), mean (thick); 256 completions per step. "
    save(figure, name, f"{note}{conditions}\n{command(*experiments)}")


RUNGS = {  # script: V, the baseline that is subtracted from its reward
    "reinforce_pp": "the batch's mean",
    "grpo": "the group's mean",
    "reinforce_pp_baseline": "the group's mean",
    "gmpo": "the group's mean",
    "ttrl": "the group's mean, of votes",
    "rloo": "the mean of the others",
    "spo": "a memory of the problem",
    "ppo": "a critic of the prefix",
    "vapo": "a critic of the prefix, trained first",
    "prime": "the mean of the others; rewards per token",
}


def draw_ladder():
    """The ladder of baselines: what V is, and where a script with it ends."""
    figure, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
    for y, (arm, baseline) in enumerate(RUNGS.items()):
        values = [mean_over("eval_accuracy", 30, 30)(rows) for rows in load(arm).values()]
        colour = COLOURS[0] if arm == "grpo" else COLOURS[1]
        axes.axhline(y, color="#dddddd", lw=1, zorder=0)
        axes.text(
            0.005, y + 0.1, f"V = {baseline}", transform=axes.get_yaxis_transform(), va="bottom"
        )
        axes.plot(interval(values), [y, y], color=colour, lw=2)
        axes.scatter(values, [y] * len(values), s=16, color=colour, alpha=0.5)
        axes.scatter(np.mean(values), y, s=60, marker="|", color=colour)
    axes.set_yticks(range(len(RUNGS)), [f"{arm}.py" for arm in RUNGS], family="monospace")
    axes.set(xlim=(0.35, 0.8), xlabel="held-out accuracy after 30 steps")
    axes.set_title("One ladder: A = R - V")
    save(
        figure,
        "ladder",
        f"Dots: {seeds_of(*RUNGS)}; bar: mean and 95 % t interval.\n"
        + command("ladder", "critic", "process"),
    )


def draw_clip_width():
    """What a wider clip does where the policy is far from the sampler, and what breaks it."""
    figure, grid = plt.subplots(1, 3, figsize=(11, 3.5), layout="constrained")
    arms = [
        ("stale_symmetric", "0.2 / 0.2"),
        ("stale_higher", "0.2 / 0.28"),
        ("stale_wide", "0.2 / 1.0"),
    ]
    shown = (
        ("retry", "retries", "share of retry points"),
        ("entropy", "entropy", "nats per token"),
    )
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
    """The six defaults: accuracy minus grpo.py's; length by step; pass@1 and pass@16."""
    figure, ((tokens, clock), (length, solved)) = plt.subplots(
        2, 2, figsize=(10, 7), layout="constrained"
    )
    for index, arm in enumerate(SCRIPTS):
        runs = list(load(arm).values())
        draw_difference(tokens, arm, thousand_tokens, index)
        draw_difference(clock, arm, minutes_at, index)
        draw_seeds(length, arm, "length", f"{arm}.py", index)
        for k, shift, marker in ((1, -0.12, "o"), (16, 0.12, "s")):
            values = [pass_at(-1, k)(rows) for rows in runs]
            x = np.full(len(values), index + shift)
            solved.scatter(x, values, s=14, marker=marker, color=COLOURS[index], alpha=0.7)
    tokens.set(title="accuracy minus grpo.py's, at equal tokens", xlabel="thousand tokens")
    clock.set(title="accuracy minus grpo.py's, at equal time", xlabel="minutes, one thread")
    for axes in (tokens, clock):
        axes.set(ylabel="points of held-out accuracy", ylim=(-15, 10))
    length.set(title="length", xlabel="step", ylabel="tokens per completion")
    for k, style in ((1, ":"), (16, "--")):
        values = [pass_at(0, k)(rows) for rows in load("grpo").values()]
        if values:
            solved.axhline(np.mean(values), color="#666666", ls=style, lw=1)
            solved.text(5.5, np.mean(values), f"base, pass@{k}", fontsize=7, va="top", ha="right")
    solved.set_xticks(range(6), [f"{arm}.py" for arm in SCRIPTS], rotation=20)
    solved.set(title="after 30 steps: pass@1 (dots), pass@16 (squares)", ylabel="held-out problems")
    legend(length)
    save(
        figure,
        "accuracy",
        f"{seeds_of(*SCRIPTS)} per script (thin), mean (thick). 384 held-out problems, one "
        "completion each; lower right: 16 completions each.\nDifferences are by seed, up to the "
        "end of grpo.py's run. The time of a run includes a second run beside it on the other "
        f"core.\n{command('defaults')}",
    )


def draw_symptoms():
    """Entropy where one order of search pays and where training breaks; an exploitable reward."""
    figure, (entropy, reward) = plt.subplots(1, 2, figsize=(8, 3.5), layout="constrained")
    draw_seeds(entropy, "kl_0", "entropy", "4 updates, 2e-4", 0)
    draw_seeds(entropy, "stale_symmetric", "entropy", "16 updates, 5e-4", 1)
    draw_seeds(entropy, "hot_token", "entropy", "16 updates, 1e-3: breaks", 2)
    draw_seeds(entropy, "only_orderly", "entropy", "4 updates, paid for one order", 3)
    draw_seeds(reward, "seam", "reward_claim", "reward: claims to be right", 0)
    draw_seeds(reward, "seam", "accuracy", "is right", 1)
    entropy.set(title="entropy (grpo.py, no KL)", xlabel="step", ylabel="nats per token")
    entropy.set_ylim(0, 0.21)  # room for the legend
    reward.set(title="an exploitable reward", xlabel="step", ylabel="share of completions")
    for axes in (entropy, reward):
        legend(axes)
    arms = ("kl_0", "stale_symmetric", "hot_token", "only_orderly", "seam")
    save(
        figure,
        "symptoms",
        f"{seeds_of(*arms)} per arm (thin), mean (thick).\n"
        + command("length", "clip_width", "stability", "planted", "reward"),
    )


def draw_summary(measured):
    """Axes down, relative effect with interval across."""
    rows = [row for row in measured if row.effect.experiment in SUMMARY and row.base][::-1]
    figure, axes = plt.subplots(figsize=(10, 0.42 * len(rows) + 1), layout="constrained")
    for y, row in enumerate(rows):
        scale = 100 / abs(row.base)
        low, high = (x * scale for x in row.interval)
        sure = row.claims_a_difference
        colour = COLOURS[0] if sure else "#888888"
        axes.plot([low, high], [y, y], color=colour, lw=2)
        axes.scatter(row.difference * scale, y, color=colour, marker="o" if sure else "x", zorder=3)
    labels = [
        f"{EXPERIMENTS[row.effect.experiment].axis}: {row.effect.what}\n"
        f"{row.base:.3g} → {row.moved:.3g}, {row.seeds} seeds, {row.verdict}"
        for row in rows
    ]
    axes.set_yticks(range(len(rows)), labels, fontsize=7.5)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlim(-250, 9000)
    axes.axvline(0, color="#444444", lw=0.8)
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xticks([-100, -10, 0, 10, 100, 1000], ["-100", "-10", "0", "10", "100", "1000"])
    axes.set_xlabel("change against the first arm, %: mean and 95 % interval (paired t) over seeds")
    save(figure, "summary", "Blue dot: a difference is claimed. python -m experiments.run")


def draw_speed():
    """Ratios to TRL, model.generate and the plain update; and growth."""
    report = json.loads((HERE / "experiments/benchmark.json").read_text())
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
    argparse.ArgumentParser(description=__doc__).parse_args()
    draw_map(
        (*SCRIPTS, "tis"),
        AXIS_TRACKS,
        "seven_axes",
        "Seven axes: GRPO's place on the left, and who leaves it",
    )
    draw_map(
        ("grpo", *ZOO, *CRITICS, "gigpo"),
        ZOO_TRACKS,
        "seven_axes_zoo",
        "The ladder of baselines on the same axes",
    )
    draw_map(
        ("grpo", *FRONTIER),
        FRONTIER_TRACKS,
        "seven_axes_frontier",
        "Six methods of 2026 on the same axes",
    )
    draw_panels(
        PANELS,
        "axes_measured",
        "Granularity and clip: 16 updates per rollout,\nlearning rate 5e-4, no KL; the others 4 "
        "updates, 2e-4. Length: only the first line of a search is paid, no KL.\nSampling in "
        "dapo.py.",
        ("granularity", "clip_object", "length_inflation", "kl", "advantage", "sampling"),
        width=9.2,  # README's
    )
    draw_panels(
        ZOO_PANELS,
        "zoo_measured",
        "GMPO: 16 updates per rollout, learning rate 5e-4,\nno KL; the others 4 updates, 2e-4. "
        "Hard problems: numbers to 20, targets to 99.",
        ("geometric_mean", "product", "memory", "vote"),
    )
    draw_ladder()
    critics.draw()
    draw_clip_width()
    draw_accuracy()
    draw_symptoms()
    failures.draw()
    turns.draw()
    frontier.draw()
    compositions.draw()
    real_model.draw()
    draw_summary(all_measured())
    draw_speed()


if __name__ == "__main__":
    main()

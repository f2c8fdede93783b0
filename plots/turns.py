"""What turns are worth: one problem's step groups as a tree, and over training.

What it means is in docs/lab/turns.md.

Drawn by `python -m plots.make_figures`.
"""

import itertools
import json
from statistics import fmean

from matplotlib.colors import Normalize

from experiments.turns import RESULT
from plots.style import draw_seeds, legend, plt, save, seeds_of

AT = (0.0, 1.0, 2.1)  # x of all numbers, of the pairs that a call leaves, of what came next
END = {"give_up": "gave up", "stop": "answered after a hit"}

TURN_PANELS = [  # (title, unit, [(arm, metric, label)]), as in plots/make_figures.py
    (
        "what a turn is worth (gigpo.py)",
        "mean advantage of the turn",
        [
            ("gigpo", "turn_S_wait", "starts over"),
            ("gigpo", "turn_S_try", "tries another operation"),
            ("gigpo", "turn_S_give_up", "gives up"),
        ],
    ),
    (
        "who knows a good first step?",
        "correlation with what it leads to",
        [
            ("gigpo", "value_known_to_turn", "advantage of the turn"),
            ("gigpo", "value_known_to_trajectory", "of the trajectory"),
        ],
    ),
    (
        "a reward that failures earn too",
        "held-out accuracy",
        [
            ("gigpo", "eval_accuracy", "answer alone (gigpo.py)"),
            ("turns_format", "eval_accuracy", "with 0.1 for format"),
            ("turns_format_grpo", "eval_accuracy", "the same, trajectories alone"),
        ],
    ),
    (
        "harder problems",
        "held-out accuracy",
        [
            ("turns_hard", "eval_accuracy", "turns and trajectories"),
            ("turns_hard_grpo", "eval_accuracy", "trajectories alone"),
        ],
    ),
]


def branches(trajectories, state):
    """{what was done in a state: [S of each turn]}, the best first."""
    found = {}
    for trajectory in trajectories:
        for turn in trajectory["turns"]:
            if turn["state"] == state:
                call = turn["text"].rpartition(" ")[2].rstrip("=")
                wait = f"wait, then {call}"
                name = END.get(turn["kind"], wait if turn["kind"] == "wait" else call)
                found.setdefault(name, []).append(turn["S"])
    return dict(sorted(found.items(), key=lambda item: -fmean(item[1])))


def openings(trajectories, whole):
    """{pair: [S of each first turn that led to it]}; a pair that only a wait led to has none."""
    found = {}
    for trajectory in trajectories:
        turns = trajectory["turns"]
        for turn, after in itertools.pairwise(turns):
            if after["state"] != turn["state"]:
                first = [turn["S"]] if turn["state"] == whole else []
                found.setdefault(tuple(after["state"]), []).extend(first)
    return found


def draw_step_groups():
    """All numbers on the left, the pairs that a call left, and what was done with each."""
    group = json.loads(RESULT.read_text(encoding="utf-8"))
    whole = sorted(group["numbers"])
    trajectories = group["trajectories"]
    pairs = openings(trajectories, whole)
    order = sorted(pairs, key=lambda pair: -fmean(pairs[pair] or [-9]))
    shown = {}
    for pair in order:
        found = branches(trajectories, list(pair))
        turns = [S for values in found.values() for S in values]
        shown[pair] = found if any(turns) else {"none of them led anywhere": turns}
    rows = sum(map(len, shown.values())) + 0.6 * len(shown)
    figure, axes = plt.subplots(figsize=(9.5, 0.29 * rows + 0.6), layout="constrained")
    colours = plt.get_cmap("coolwarm_r")
    scale = Normalize(-1.6, 1.6)

    def branch(start, end, values):
        """A line as wide as it has turns, in the colour of their mean -> what to write at it."""
        mean = fmean(values)
        width = 0.8 + 0.3 * min(len(values), 10)
        axes.plot(*zip(start, end, strict=True), lw=width, color=colours(scale(mean)), zorder=1)
        turns = "turn" if len(values) == 1 else "turns"
        return f"{round(mean, 2) + 0.0:+.2f}  ({len(values)} {turns})"

    middle = 0.8 - rows / 2
    y = 0.0
    for pair, found in shown.items():
        here = (AT[1], y - (len(found) - 1) / 2)
        for text, values in found.items():
            label = branch((here[0] + 0.16, here[1]), (AT[2] - 0.02, y), values)
            axes.text(AT[2], y, f"{text}  {label}", va="center", fontsize=8)
            y -= 1
        note = "after a wait"
        if pairs[pair]:
            note = branch((AT[0] + 0.1, middle), (here[0] - 0.02, here[1]), pairs[pair])
        axes.text(*here, " ".join(map(str, pair)), va="center", fontweight="bold")
        axes.text(here[0] + 0.02, here[1] - 0.72, note, va="center", fontsize=7, color="#444444")
        y -= 0.6
    numbers = " ".join(map(str, whole))
    label = f"{numbers}\nmake {group['target']}"
    axes.text(AT[0], middle, label, ha="center", va="center", fontweight="bold")
    axes.set(xlim=(-0.12, 3.1), ylim=(y + 0.2, 0.8))
    axes.axis("off")
    right = sum(trajectory["right"] for trajectory in trajectories)
    axes.set_title("What each turn was worth: its advantage among the turns from the same numbers")
    save(
        figure,
        "step_groups",
        f"{len(trajectories)} trajectories of the base on one problem, {right} right; every number "
        "is a mean over the turns in brackets. Blue: better than\nthe state's mean; red: worse. "
        "python -m experiments.turns",
    )


def draw_measured():
    """What turns are worth over training, the pitfall, and harder problems."""
    figure, grid = plt.subplots(2, 2, figsize=(8.5, 6.4), layout="constrained")
    for axes, (title, unit, lines) in zip(grid.flat, TURN_PANELS, strict=True):
        for index, (arm, metric, label) in enumerate(lines):
            draw_seeds(axes, arm, metric, label, index, last_step=20)
        axes.set(title=title, xlabel="step (one rollout each)", ylabel=unit, xticks=range(0, 21, 5))
        legend(axes)
    for axes in grid[0]:
        axes.axhline(0, color="#666666", lw=1, ls=":")
    arms = [arm for _, _, lines in TURN_PANELS for arm, _, _ in lines]
    save(
        figure,
        "turns",
        f"{seeds_of(*arms)} per arm (thin), mean (thick); default settings, harder: numbers to 20, "
        "targets to 99.\npython -m experiments.run --only turns constant_reward",
    )


def draw():
    draw_step_groups()
    draw_measured()

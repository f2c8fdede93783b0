"""How everything is drawn: colours, styles, seeds as thin lines under their mean."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from compose.reader import HERE
from experiments.curves import curve, load
from tasks import InputError

FIGURES = HERE / "plots/figures"
# Okabe and Ito's colours, told apart by the colour-blind; line styles for print.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
STYLES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1))]
plt.rcParams.update(
    {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 150}
)


def draw_seeds(axes, arm, metric, label, index, last_step=None):
    """Thin lines for seeds, a thick one for their mean, over steps."""
    lines = [curve(rows, metric) for rows in load(arm).values()]
    lines = [
        (x[x <= (last_step or x[-1])], y[x <= (last_step or x[-1])]) for x, y in lines if len(x)
    ]
    for steps, values in lines:
        axes.plot(steps, values, color=COLOURS[index], lw=0.6, alpha=0.35)
    shared = sorted(set.intersection(*(set(x) for x, _ in lines))) if lines else []
    if shared:
        mean = np.mean([y[np.isin(x, shared)] for x, y in lines], 0)
        axes.plot(shared, mean, color=COLOURS[index], ls=STYLES[index], lw=2, label=label)


def draw_difference(axes, arm, at, index, against="grpo"):
    """Held-out accuracy minus another arm's where `at(rows, step)` is equal, in points, by seed.

    Nothing is drawn beyond the end of the other arm's run.
    """
    lines = []
    for seed in sorted(load(arm).keys() & load(against).keys()):
        rows = load(arm)[seed]
        others = load(against)[seed]
        steps, accuracy = curve(rows, "eval_accuracy")
        other_steps, other_accuracy = curve(others, "eval_accuracy")
        x = [at(rows, step) for step in steps]
        other_x = [at(others, step) for step in other_steps]
        same = np.interp(x, other_x, other_accuracy, right=np.nan)
        lines.append((x, 100 * (accuracy - same)))
        axes.plot(*lines[-1], color=COLOURS[index], lw=0.6, alpha=0.35)
    style = {"color": COLOURS[index], "ls": STYLES[index], "lw": 2, "label": f"{arm}.py"}
    axes.plot(*np.mean(lines, 0), **style)


def legend(axes):
    """A legend, if anything is drawn yet."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=8)


def save(figure, name, note):
    """Writes the PNG with its conditions and command below the axes."""
    figure.text(0.01, -0.01, note, fontsize=7, va="top", family="monospace")
    figure.savefig(FIGURES / f"{name}.png", bbox_inches="tight", pad_inches=0.15)
    plt.close(figure)


def check_picture(path):
    """InputError if no picture can be written there, as --figure asks."""
    if not path.absolute().parent.is_dir():
        raise InputError(f"--figure {path}: there is no folder {path.parent}; make it first")
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"--figure {path}: let it end in .png, .svg or .pdf")


def seeds_of(*arms):
    counts = sorted({len(load(arm)) for arm in arms})
    return f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"

"""Pairs of scripts against their parents, and two bundles taken apart.

Drawn by `python -m plots.make_figures`; what it means is in docs/lab/compositions.md.
"""

from runtime.intervals import interval

import numpy as np

from experiments.catalogue.bundles import BUNDLES
from experiments.catalogue.pairs import PARTS
from experiments.compositions import (
    SHARED,
    accuracy,
    limit,
    pairs,
    seed_noise,
    taken_apart,
    thousand_tokens,
)
from plots.style import COLOURS, legend, plt, save, seeds_of


def draw_pairs():
    """Two triangles of one square each: what a pair does beyond the mean of its parents."""
    names = [script.rpartition(".")[2] for script in PARTS]
    figure, grid = plt.subplots(1, 2, figsize=(13, 6.4), layout="constrained")
    for axes, metric, title in (
        (grid[0], accuracy, "held-out accuracy, points"),
        (grid[1], thousand_tokens, "thousand tokens generated"),
    ):
        values = np.full((len(names), len(names)), np.nan)
        for name, pair in pairs(metric).items():
            row, column = sorted((names.index(parent) for parent in name.split("+")), reverse=True)
            values[row, column] = pair.above_mean()
        bound = 3 * limit(metric)
        axes.imshow(values, cmap="PuOr", vmin=-bound, vmax=bound)
        for row in range(len(names)):
            for column in range(row):
                value = values[row, column]
                text = "×" if np.isnan(value) else f"{value:+.0f}"
                text = "0" if text in ("-0", "+0") else text
                bold = "bold" if abs(value) > limit(metric) else "normal"
                ink = "white" if abs(value) > 0.6 * bound else "black"
                axes.text(
                    column, row, text, ha="center", va="center", size=8, weight=bold, color=ink
                )
        axes.set_xticks(range(len(names) - 1), names[:-1], rotation=60, ha="right")
        axes.set_yticks(range(1, len(names)), names[1:])
        axes.set(xlim=(-0.5, len(names) - 1.5), ylim=(len(names) - 0.5, 0.5))
        axes.set(title=f"{title}: pair minus mean of parents")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    save(
        figure,
        "pairs",
        "After 20 steps at the defaults, seeds 1 and 2: too few for a verdict. Bold: more than "
        "twice the noise of two seeds\n"
        f"(sd of a run {seed_noise(accuracy):.1f} points, "
        f"{seed_noise(thousand_tokens):.0f} thousand tokens); × refused, "
        "see docs/reference/compose.md. "
        "python -m experiments.run --only pairs",
    )


def draw_ablations():
    """Each move alone and last, and whether the effects alone add up to the whole."""
    figure, grid = plt.subplots(2, 2, figsize=(11, 6), layout="constrained")
    for row, bundle in zip(grid, BUNDLES, strict=True):
        for axes, (what, metric) in zip(row, SHARED.items(), strict=True):
            effects, whole = taken_apart(bundle, metric)
            total = sum(apart.alone for apart in effects.values())
            rows = [*((part, apart.alone, apart.last) for part, apart in effects.items())]
            rows.append(("added up, and the whole", total, whole))
            for y, (_, first, last) in enumerate(reversed(rows)):
                for place, values, index in ((y + 0.15, first, 0), (y - 0.15, last, 1)):
                    style = {"color": COLOURS[index]}
                    label = ("alone", "last, or the whole")[index] if y == 0 else None
                    axes.plot(interval(values), [place, place], lw=2, **style)
                    axes.scatter(values.mean(), place, marker="os"[index], label=label, **style)
                    axes.scatter(values, [place] * len(values), s=5, alpha=0.5, **style)
            axes.axvline(0, color="#999999", lw=1)
            axes.axhline(0.5, color="#dddddd", lw=1)
            axes.set_yticks(range(len(rows)), [part for part, *_ in reversed(rows)])
            axes.set(title=bundle, xlabel=f"effect on {what}")
    legend(grid[1][0])
    arms = [f"whole_{bundle}" for bundle in BUNDLES]
    save(
        figure,
        "ablations",
        f"{seeds_of(*arms)} (small dots), mean and 95 % interval; 16 updates per rollout, 20 "
        "steps.\npython -m experiments.run --only ablation_dapo ablation_scalerl",
    )


def draw():
    draw_pairs()
    draw_ablations()

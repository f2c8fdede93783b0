"""Two runs or more, metric by metric: how they differ, with intervals, and a picture.

    python -m tools.compare runs/exercise runs/grpo-seed1         # yours and another
    python -m tools.compare runs/exercise --committed grpo        # and its committed seeds
    python -m tools.compare runs/exercise runs/other --steps 6-10

A run is its directory, or a committed run by its name, such as grpo-seed1 (experiments/logs/).
A number is the mean over the last quarter of the steps that all runs have, or over --steps. A
difference is that to the first run, with its 95 % paired t interval over those steps: runs with
the same seed see the same problems, step by step. Where a step lacks a number, as `length_wrong`
does when all are right, a run is compared with the first over the steps that both have. It says
whether these two runs differ, not whether two methods do: that takes seeds. Held-out accuracy is
that of the first run's last evaluation in those steps, and of the others' at the same step.

Committed arms are those of `python -m experiments.run --list`. Of each the lowest and the highest
seed are shown. A star says that the first run is outside of what one more seed would give: the
95 % prediction interval of the seeds, which is wider than they are. Chance alone stars 6 of 100
numbers: so many were starred when each seed of the committed arms was judged by the others.
So a star or two in a table are no evidence; look for the metric that you predicted. Against a
run of another seed chance stars 18 of 100, because a run's steps resemble each other.
"""

if __package__ != "tools":
    raise SystemExit("run it from the repository's folder: python -m tools.compare RUN RUN")

import argparse
import math
import re
from pathlib import Path
from statistics import fmean, stdev

from runtime.intervals import half_width, prediction

from experiments.curves import curve
from experiments.effects import number
from experiments.runs import committed, read
from plots.style import COLOURS, STYLES, check_picture, plt
from tasks import InputError, printable

COUNTDOWN = "countdown_task"  # of committed runs, and of those from before there was --task
METRICS = {  # metric: its title
    "accuracy": "right completions",
    "eval_accuracy": "held-out accuracy",
    "reward": "reward",
    "length": "tokens per completion",
    "length_right": "tokens if right",
    "length_wrong": "tokens if wrong",
    "truncated": "cut off by the budget",
    "entropy": "entropy, nats",
    "entropy_base_uncertain": "entropy, base-uncertain tokens",  # of experiments only
    "retry": "failed lines tried again",
    "ratio_spread": "spread of the log-ratio",
    "clipped_low": "clipped from below",
    "clipped_high": "clipped from above",
    "clipped_uncertain": "uncertain tokens clipped",
    "kl_old": "KL to the sampler, nats",
    "kl_ref": "KL to the initial model, nats",
    "advantage_levels": "distinct advantages",
    "advantage_max": "largest advantage",
    "groups_without_signal": "groups without signal",
    "tokens_sampled": "tokens sampled in a step",
    "grad_norm": "gradient norm",
}


def window(runs, asked):
    """(first, last) step to average over; InputError if `asked`, such as 6-10, is none."""
    last = min(max(row["step"] for row in run.rows) for run in runs)
    if asked is None:
        return max(1, last - max(3, last // 4) + 1), last
    found = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", asked)
    if not found:
        raise InputError(f"--steps {asked}: one step or two, such as 6-10")
    begin = int(found[1])
    end = int(found[2] or begin)
    if not 1 <= begin <= end:
        raise InputError(f"--steps {asked}: one step or two, such as 6-10")
    if end > last:
        raise InputError(f"--steps {asked}: the shortest run has {last} steps")
    return begin, end


def difference(values, base):
    """(mean difference, half of its 95 % interval over steps); None of a single step."""
    gaps = [a - b for a, b in zip(values, base, strict=True)]
    return fmean(gaps), half_width(stdev(gaps), len(gaps)) if len(gaps) > 1 else None


def table(runs, bands, first, last):
    """Lines: a row for each metric that the first run has; bands: {arm: its runs}."""
    heads = ["metric", "first run", *(f"run {n}" for n in range(2, len(runs) + 1)), *bands]
    lines = [heads]
    for metric in METRICS:
        begin = first
        end = last
        if metric.startswith("eval_"):  # of another run, too, the evaluation at that step
            begin = end = runs[0].last_evaluation(first, last)
        base = runs[0].at(metric, begin, end)
        if not base:
            continue
        mine = fmean(base.values())
        cells = [metric, number(mine)]
        cells += [against(run.at(metric, begin, end), base) for run in runs[1:]]
        for seeds in bands.values():
            means = [fmean(v) for run in seeds if (v := run.over(metric, begin, end))]
            cells.append(range_of(means, mine) if means else "-")
        lines.append(cells)
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]


def against(values, base):
    """A run's number, and its difference to the first run's: a star if its interval excludes 0.

    values and base are {step: number}; what counts are the steps of both.
    """
    shared = [step for step in values if step in base]
    if not shared:
        return "-"
    mean = number(fmean(values[step] for step in shared))
    gap, half = difference([values[step] for step in shared], [base[step] for step in shared])
    sign = "-" if gap < 0 else "+"
    if half is None:
        return f"{mean} ({sign}{number(abs(gap))})"
    star = "*" if abs(gap) > half else ""
    return f"{mean} ({sign}{number(abs(gap))} ± {number(half)}){star}"


def range_of(means, mine):
    """The range of an arm's seeds: a star if the first run is not what one more seed would be.

    One seed says nothing of the others, so none is starred by it.
    """
    slack = 1e-4 * abs(mine)  # committed logs keep five digits
    star = ""
    if len(means) > 1:
        low, high = prediction(means)
        star = "" if low - slack <= mine <= high + slack else "*"
    return f"{number(min(means))} to {number(max(means))}{star}"


def band(seeds, metric):
    """(steps that all seeds have, lowest value at each, highest value) of a metric."""
    found = [dict(zip(*curve(run.rows, metric), strict=True)) for run in seeds]
    found = [values for values in found if values]
    steps = sorted(set.intersection(*map(set, found))) if found else []
    low = [min(values[step] for values in found) for step in steps]
    high = [max(values[step] for values in found) for step in steps]
    return steps, low, high


def draw(runs, bands, path):
    """Every metric that a run has, over steps; seeds of committed arms as bands."""
    shown = [m for m in METRICS if any(row.get(m) is not None for r in runs for row in r.rows)]
    height = math.ceil(len(shown) / 5)  # rows of five panels
    figure, grid = plt.subplots(height, 5, figsize=(16, 2.75 * height + 0.5), layout="constrained")
    for axes, metric in zip(grid.flat, shown, strict=False):
        for index, run in enumerate(runs):
            steps, values = curve(run.rows, metric)
            axes.plot(steps, values, color=COLOURS[index % 6], ls=STYLES[index % 6], label=run.name)
        for index, (arm, seeds) in enumerate(bands.items(), len(runs)):
            look = {
                "color": COLOURS[index % 6],
                "alpha": 0.25,
                "label": f"{arm}, {len(seeds)} seeds",
            }
            axes.fill_between(*band(seeds, metric), **look)
        axes.set(title=METRICS[metric], xlabel="step")
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", help="run directories, or committed runs: ARM-seedN")
    parser.add_argument("--committed", nargs="+", default=[], metavar="ARM", help="arms as bands")
    parser.add_argument("--steps", help="to average over, such as 6-10")
    parser.add_argument("--figure", type=Path, default=Path("comparison.png"), help="the picture")
    args = parser.parse_args()
    try:
        runs = [read(path) for path in args.runs]
        bands = {arm: committed(arm) for arm in args.committed}
        first, last = window(runs, args.steps)
        check_picture(args.figure)
    except InputError as error:
        parser.exit(2, f"error: {printable(error)}\n")
    for place, run in enumerate(runs, 1):
        print(f"run {place}: {run.name}")
    tasks = {run.settings.get("task", COUNTDOWN) for run in runs}
    tasks |= {COUNTDOWN} if bands else set()
    if len(tasks) > 1:
        print(f"no fair comparison, of different tasks: {', '.join(map(printable, sorted(tasks)))}")
    print(f"means over steps {first} to {last}; * the interval excludes 0, or one more seed of the")
    print("arm would not be there (95 % prediction interval; chance stars 6 numbers of 100)")
    print("\n".join(table(runs, bands, first, last)))
    draw(runs, bands, args.figure)
    print(f"picture: {args.figure}")


if __name__ == "__main__":
    main()

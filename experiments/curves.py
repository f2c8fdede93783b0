"""What the committed logs in experiments/logs/ say: curves and means."""

import functools

import numpy as np

from experiments import archive


@functools.cache
def load(arm):
    """{seed: rows of the run} of an arm's own seeds, the line about the run left out."""
    return {seed: archive.read(arm, seed)[1:] for seed in archive.compared_seeds(arm)}


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

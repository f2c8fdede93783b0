"""The intervals that are printed here: of a mean over seeds, steps or problems, and of one more."""

import numpy as np
from scipy.special import stdtrit


def half_width(deviation, count):
    """Half of the 95 % t interval of a mean: of `count` >= 2 values with this sample std."""
    return stdtrit(count - 1, 0.975) * deviation / np.sqrt(count)


def interval(values):
    """(low, high) of the 95 % t interval of the mean of n >= 2 independent values (n,).

    Of differences between runs of one seed each it is the paired t interval.
    """
    values = np.asarray(values, float)
    half = half_width(values.std(ddof=1), len(values))
    return values.mean() - half, values.mean() + half


def prediction(values):
    """(low, high) of the 95 % interval for one more value like these n >= 2 independent ones (n,).

    Wider than the interval of their mean: one value scatters more than a mean of n does.
    """
    values = np.asarray(values, float)
    half = half_width(values.std(ddof=1), len(values)) * np.sqrt(len(values) + 1)
    return values.mean() - half, values.mean() + half

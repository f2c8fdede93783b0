"""The smallest model in which 1/|o| lengthens completions: a hopeless state, go on or stop.

A first line fails with probability 1 - p; then nothing that follows can pay. After each failed
line the policy goes on with probability q = sigmoid(theta) or stops. With k more lines a wrong
completion has |o| = first + k * line tokens, and the derivative of its log-probability is

    s_k = d log pi / d theta = k (1 - q) - q          one more line: 1 - q each; the stop: -q

so that a step moves theta by E[A w(|o|) s_k], w the weight that the loss gives to each of its
tokens. E[s_k] = 0: where w does not depend on |o|, the length stays. 1/|o| is smaller where s_k is
larger, and A < 0: theta grows.
"""

import numpy as np
from scipy import stats


def advantage_of_wrong(p, group_size, by_std=True):
    """Mean advantage of a wrong completion: m of the other G - 1 are right, m binomial (p)."""
    G = group_size
    m = np.arange(G)
    chance = stats.binom.pmf(m, G - 1, p)
    mean = m / G
    std = np.sqrt(G / (G - 1) * mean * (1 - mean)) if by_std else np.ones(G)
    return float((chance * -mean / (std + 1e-4 * by_std)).sum())


def drift(q, p, weight, first, line, budget, group_size=16, by_std=True):
    """E[A w(|o|) s_k] over wrong completions; weight is a function of |o| in tokens (array).

    A completion that reaches the budget is cut off: it has no stop.
    """
    last = int((budget - first) // line)  # lines after the first that fit
    k = np.arange(last + 1)
    chance = q**k * (1 - q) ** (k < last)
    score = k * (1 - q) - q * (k < last)
    tokens = first + k * line
    expected = (chance * weight(tokens) * score).sum()
    return float((1 - p) * advantage_of_wrong(p, group_size, by_std) * expected)


def follow(q, rates, weight, rate, **shape):
    """q before each step, from q on, where the success rate of step t is rates[t].

    rate: change of theta for a drift of 1 (learning rate, optimizer and all).
    """
    theta = np.log(q / (1 - q))
    path = []
    for p in rates:
        path.append(1 / (1 + np.exp(-theta)))
        theta += rate * drift(path[-1], p, weight, **shape)
    return np.array(path)

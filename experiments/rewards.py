"""Rewards that only experiments use."""

import hashlib
import itertools
import re
import statistics


def claims_to_be_right(completion, problem):
    """An exploitable reward: 1 if the search ends in "yes", whatever the answer is worth."""
    return float(" yes</think>" in completion)


def plain_reward(completion, problem):
    """1 if the answer does with + and - alone, right or wrong."""
    answer = completion.rpartition("<answer>")[2].partition("</answer>")[0]
    return float(bool(answer) and not {"*", "/"} & set(answer))


def verbose_reward(completion, problem):
    """Longer is better, up to some 200 tokens."""
    return min(len(completion) / 600, 1.0)


def orderly_reward(completion, problem):
    """Share of neighbours on a line whose operators stand in the order + - * /; first step: +."""
    lines = completion.partition("</think>")[0].split("\nwait ")
    operators = [re.findall(r"\d([-+*/])\d", line) for line in lines]
    places = [["+-*/".index(symbol) for symbol in line[1:]] for line in operators]
    pairs = [a <= b for line in places for a, b in itertools.pairwise(line)]
    pairs.append(operators[0][:1] == ["+"])
    return statistics.fmean(pairs)


def coin_reward(completion, problem):
    """A random reward, 0 or 1 by a hash of both: its expected gradient is 0."""
    text = f"{problem.numbers} {problem.target} {completion}"
    return float(hashlib.sha256(text.encode()).digest()[0] & 1)


MORE_REWARDS = {
    "coin": coin_reward,
    "claim": claims_to_be_right,
    "plain": plain_reward,
    "verbose": verbose_reward,
    "orderly": orderly_reward,
}

"""Countdown with a calculator: a tool writes what follows `a op b =`, so a search has turns.

The committed base writes a search in which every result and every verdict follows from what stands
before it:

    12-9=3: 12+3=15 vs 16 no, 12-3=9 vs 16 no,
    wait 12+9=21: ...

Here the model stops at each `=`, and the tool writes the rest: `3: ` after a step that leaves two
numbers or more, `15 vs 16 no, ` or `16 vs 16 yes` after one that leaves a single number. The model
chooses: another call, `wait` to start over with all numbers, or `</think>` and an answer.

It stands in zoo/ because only gigpo.py needs it. It works on text, so that any tokenizer will do:
what the model sampled is kept as ids and never encoded again; only the tool's words are encoded.
"""

import re
from fractions import Fraction

import torch

from countdown_task import OPERATORS, Problem
from tasks import InputError

CALL = re.compile(r"(\d{1,6})\s*([-+*/])\s*(\d{1,6})\s*=")
ILLEGAL = " no, "  # numbers that are not there, or a result that is not a whole number from 0 up


def without(numbers, *used):
    """The numbers but for the used ones; None if one of them is not there."""
    left = list(numbers)
    for number in used:
        if number not in left:
            return None
        left.remove(number)
    return left


def combine(left, a, symbol, b):
    """(value, numbers left after it) of a legal step; None of an illegal one."""
    rest = without(left, a, b)
    if rest is None or (symbol == "/" and b == 0):
        return None
    value = OPERATORS[symbol](Fraction(a), Fraction(b))
    if value < 0 or value.denominator != 1:
        return None
    return int(value), tuple(sorted([*rest, int(value)]))


def numbers_left(thought, problem):
    """State at the end of a thought: the numbers that a next step can use, sorted.

    A step that leaves two numbers or more is made; one that would leave a single number is only
    tried, so that other operations on the same two can follow. `wait` starts over.
    """
    left = tuple(sorted(problem.numbers))
    for a, symbol, b in CALL.findall(thought.rpartition("wait")[2]):
        step = combine(left, int(a), symbol, int(b))
        if step and len(step[1]) > 1:
            left = step[1]
    return left


def reply(completion, problem):
    """What the tool writes after a completion that ends in a call; "" if it does not end in one.

    Total: any text has a reply. Nothing is answered after </think>.
    """
    if "</think>" in completion:
        return ""
    calls = list(CALL.finditer(completion))
    if not calls or calls[-1].end() != len(completion.rstrip()):
        return ""
    a, symbol, b = calls[-1].groups()
    left = numbers_left(completion[: calls[-1].start()], problem)
    step = combine(left, int(a), symbol, int(b))
    if step is None:
        return ILLEGAL
    value, after = step
    if len(after) > 1:
        return f"{value}: "
    return f"{value} vs {problem.target} " + ("yes" if value == problem.target else "no, ")


class Tool:
    """A tool for a batch of completions: which tokens are its own, and the state of every turn.

    A turn is what the model writes between two replies; its state is what it had to choose from. A
    tool of one's own says three things: docs/lab/turns.md has one in 30 lines.
    """

    ends_in = ""  # the last character of a call

    def reply(self, completion, problem):
        """What the tool writes after a completion; "" if that does not end in a call."""
        raise NotImplementedError

    def state(self, completion, problem):
        """What the model has to choose from, as something that can be compared and hashed."""
        raise NotImplementedError

    def __init__(self, tokenizer, problems, ids):
        self.tokenizer = tokenizer
        self.problems = problems  # B
        self.ids = ids  # (B, T) of the completions, filled by the sampler
        self.written = ids.new_full(ids.shape, -1)  # (B, T) ids of the tool's tokens, else -1
        self.states = [[self.state("", problem)] for problem in problems]  # B lists, one a turn
        words = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
        self.calls = {i for i, word in enumerate(words) if self.ends_in in word}

    def listen(self, rows, t):
        """After token t of `rows`: where a call ends, write the reply into the places behind it."""
        for row in rows.tolist():
            if int(self.ids[row, t]) not in self.calls or self.written[row, t] >= 0:
                continue
            text = self.tokenizer.decode(self.ids[row, : t + 1])
            words = self.reply(text, self.problems[row])
            if words:
                ids = self.tokenizer.encode(words, add_special_tokens=False)
                end = t + 1 + len(ids)  # the model's next place, if the budget reaches that far
                room = self.written[row, t + 1 : end]
                room.copy_(room.new_tensor(ids[: len(room)]))
                if end < self.written.shape[1]:  # else there is no turn behind the reply
                    self.states[row].append(self.state(text, self.problems[row]))

    def turns(self):
        """(B, T): the number of the turn that each token belongs to, from 0; the tool's too."""
        tools = self.written >= 0
        starts = tools[:, :-1] & ~tools[:, 1:]  # the model's first token behind the tool's
        return torch.cat([torch.zeros_like(starts[:, :1]), starts], 1).cumsum(1)


class Calculator(Tool):
    """Results and verdicts of a search; the state is the numbers left."""

    def __init__(self, tokenizer, problems, ids):
        if not isinstance(problems[0], Problem):
            raise InputError("--task: zoo/calculator.py is for Countdown's problems alone")
        super().__init__(tokenizer, problems, ids)

    ends_in = "="
    reply = staticmethod(reply)
    state = staticmethod(numbers_left)

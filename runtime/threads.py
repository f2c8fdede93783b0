"""How many threads a run takes on a CPU: timed at its start, and again if its steps get slow.

A second thread helps where nothing else runs. Where something does, each of thousands of small
operations waits for the thread whose core is taken, and two threads are many times slower than one.
So no number is right everywhere. docs/lab/speed.md has the measurements.
"""

import itertools
import math
import os
import statistics
import time
from types import SimpleNamespace

from runtime import engine

import torch

import common

ALL = torch.get_num_threads()  # PyTorch takes one for each core, or OMP_NUM_THREADS
GAIN = 1.15  # more threads are taken if they are so many times faster
LARGE = 50e6  # parameters: the operations of such a model are long, so it gets all threads
SECONDS = 0.8  # of timing, for all numbers together
PRODUCTS = 2e8  # rows x parameters of what is timed, at most
LENGTH = 16  # tokens of each row that is learnt in it


class Threads:
    """The number that a run takes: --threads, else OMP_NUM_THREADS, else `kept`, else by timing.

    kept: the checkpoint's, so that a resumed run rounds as before. `why` says which it was, for
    the banner; `after_step` watches the pace. On a GPU nothing is timed.
    """

    def __init__(self, model, config, kept=None):
        size = sum(parameter.numel() for parameter in model.parameters())
        number = torch.get_num_threads()
        self.timed = {}  # number of threads: seconds of self.work()
        if config.threads:
            number = config.threads
            self.why = "--threads"
        elif common.MODEL_DEVICE.type != "cpu":
            self.why = "the GPU does the work"
        elif "OMP_NUM_THREADS" in os.environ:
            self.why = "OMP_NUM_THREADS"
        elif size >= LARGE:
            number = ALL
            self.why = "all, for a large model"
        else:
            self.work = work_of_a_step(model, config, size)
            self.timed = timings(self.work, [kept] if kept else doublings(ALL))
            number = best(self.timed)
            self.why = "as before" if kept else as_text(self.timed)
        torch.set_num_threads(number)
        self.first_seconds = None  # of the first step
        self.first_tokens = None
        self.pace = math.inf  # seconds a token, of the fastest step
        self.told = False

    def after_step(self, step, seconds, tokens):
        """A line on why a step was far slower than others and what to do, or None.

        Each change of the number is told; why else a step was slow, once in a run.
        """
        if self.first_seconds is None:
            self.first_seconds = seconds
            self.first_tokens = tokens
        self.pace = min(self.pace, seconds / tokens)
        slower = seconds / tokens / self.pace
        longer = seconds / self.first_seconds
        if seconds < 1:
            return None
        if slower >= 2:
            what = f"step {step} took {slower:.1f} times as long for each token as the fastest"
            self.pace = seconds / tokens  # so that only another doubling asks again
            number = torch.get_num_threads()
            slowed_down = self._time_again() if self.timed else True
            if torch.get_num_threads() != number:
                new = f"{torch.get_num_threads()} instead of {number} threads from here on"
                return f"{what}: {new} ({as_text(self.timed)})"
            if not slowed_down:
                return None  # one long completion can hold up all others
            advice = "close what else uses the cores, or plug in the charger"
        elif longer >= 4:
            what = f"step {step} took {longer:.1f} times as long as the first"
            more = tokens / self.first_tokens
            advice = f"it wrote {more:.1f} times as many tokens; --max_new_tokens bounds them"
        else:
            return None
        told_before = self.told
        self.told = True
        return None if told_before else f"{what}: {advice}"

    def _time_again(self):
        """Times all numbers again and takes the best; True if the machine has become slower."""
        before = min(self.timed.values())
        self.timed = timings(self.work, doublings(max(ALL, torch.get_num_threads())))
        torch.set_num_threads(best(self.timed))
        return min(self.timed.values()) > 1.5 * before


def doublings(most):
    """[1, 2, 4, ..., most]"""
    return [2**power for power in range(most.bit_length()) if 2**power < most] + [most]


def work_of_a_step(model, config, size):
    """A function that does a little of what a step does: decode four tokens a row, learn a few.

    It computes log-probs and gradients and then forgets them. Rows are as many as the run has, or
    fewer for a larger model of `size` parameters.
    """
    most = max(1, int(PRODUCTS / size))  # rows
    rows = min(most, config.prompts_per_step * config.group_size)
    vocabulary = model.get_input_embeddings().num_embeddings
    generator = common.torch_stream("threads")
    ids = torch.randint(vocabulary, (rows, LENGTH), generator=generator).to(common.DEVICE)
    sampled = SimpleNamespace(
        prompts=[[0, 0]] * rows, completion_ids=ids, mask=torch.ones_like(ids, dtype=torch.float32)
    )
    learnt = list(range(max(1, min(rows, most // LENGTH))))

    def work():
        with common.autocast(config):
            with torch.no_grad():
                cache = engine.start_decoding(model, sampled.prompts)
                for t in range(4):
                    cache.decode(model, ids[:, t, None])
            logits, _ = engine.completion_logits(model, sampled, learnt)
        logits.float().logsumexp(-1).mean().backward()
        model.zero_grad()

    return work


def timings(work, numbers):
    """{number of threads: seconds of work()}, the median of turns that take SECONDS in all.

    The first turn warms up.
    """
    seconds = {number: [] for number in numbers}
    end = time.perf_counter() + SECONDS
    for turn in itertools.count():
        if turn > 2 and time.perf_counter() > end:
            break
        for number, values in seconds.items():
            torch.set_num_threads(number)
            started = time.perf_counter()
            work()
            values.append(time.perf_counter() - started)
    return {number: statistics.median(values[1:]) for number, values in seconds.items()}


def best(seconds):
    """The number to take: more threads only if they are clearly faster."""
    chosen = min(seconds)
    for number in sorted(seconds):
        if seconds[chosen] > GAIN * seconds[number]:
            chosen = number
    return chosen


def as_text(seconds):
    return ", ".join(f"{number}: {1000 * value:.0f} ms" for number, value in seconds.items())

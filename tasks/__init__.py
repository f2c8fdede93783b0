"""What a task is. countdown_task.py is one; --task names another, a module of these names:

    Problem            a frozen dataclass; a run logs its fields
      .prompt()        str: what the model is asked, before chat template and <think>
      .key()           str: equal for equal problems; its hash says who is held out
      .is_correct(o)   bool: the verdict on a completion o, a str without the prompt
      .answer_of(o)    what o answers, to be compared by ==; None if it answers nothing
      .reward(name, o) float: one component of the reward
      .solution()      str: a right completion, if base_model/warm_start.py is to teach them
    REWARDS            {name: function(o, problem) -> float}, the components there are
    Task.from_config(config)   with sample(count, rng) and held_out(count): lists of problems

Any str is a completion, so none may raise. tasks/source.py has most of a Task, and reads files.
"""

import importlib
import math
import random
from importlib.util import find_spec

TRIED = ("", "</think>\n<answer>1</answer>")  # completions that each reward is asked about at once


class InputError(ValueError):
    """Something the user gave is wrong; the message names the option and what to do."""


def printable(text):
    """Text of unknown origin for a terminal: one line, its escapes shown as \\x1b, not obeyed."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def load(config):
    """The Task that a script's options name; InputError if that is none, or lacks a reward."""
    try:
        found = find_spec(config.task)
    except (ImportError, ValueError):  # a package that is not there; no name at all
        found = None
    if found is None:
        raise InputError(f"--task {config.task}: no such module; of tasks/mine.py it is tasks.mine")
    module = importlib.import_module(config.task)  # what is wrong in it has a traceback
    for name in ("Problem", "REWARDS", "Task"):
        if not hasattr(module, name):
            raise InputError(f"--task {config.task}: it has no {name}; see tasks/__init__.py")
    for name in config.reward_components:
        if name not in module.REWARDS:
            known = ", ".join(module.REWARDS)
            raise InputError(f"--reward_components {name}: choose from {known}")
    task = module.Task.from_config(config)
    check_rewards(task.sample(1, random.Random(0))[0], config)
    return task


def check_rewards(problem, config):
    """InputError if a reward is no number: found in a first step, it would break the model."""
    for name in config.reward_components:
        for text in TRIED:
            value = problem.reward(name, text)
            if not (isinstance(value, float) and math.isfinite(value)):
                raise InputError(
                    f"--reward_components {name}: it pays {value!r} for {text!r}; a reward is a "
                    "float, and finite"
                )

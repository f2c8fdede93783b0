"""What a task is. countdown_task.py is one; --task names another, a module of these names:

    Problem            a frozen dataclass; a run logs its fields
      .prompt()        str: what the model is asked, before chat template and <think>
      .key()           str: equal for equal problems; its hash says who is held out
      .is_correct(o)   bool: the verdict on a completion o, a str without the prompt
      .answer_of(o)    what o answers, to be compared by ==; None if it answers nothing
      .reward(name, o) float: one component of the reward
    REWARDS            {name: function(o, problem) -> float}, the components there are
    Task.from_config(config)   with sample(count, rng) and held_out(count): lists of problems

Any str is a completion, so none may raise. tasks/source.py has most of a Task, and reads files.
"""

import importlib


class InputError(ValueError):
    """Something the user gave is wrong; the message names the option and what to do."""


def printable(text):
    """Text of unknown origin for a terminal: one line, its escapes shown as \\x1b, not obeyed."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def load(config):
    """The Task that a script's options name; InputError if that is none, or lacks a reward."""
    try:
        module = importlib.import_module(config.task)
    except (ImportError, TypeError, ValueError) as error:
        if getattr(error, "name", None) not in (None, config.task, config.task.split(".")[0]):
            raise  # the task is there, and what it imports is not
        raise InputError(
            f"--task {config.task}: no such module; of tasks/mine.py it is tasks.mine"
        ) from error
    for name in ("Problem", "REWARDS", "Task"):
        if not hasattr(module, name):
            raise InputError(f"--task {config.task}: it has no {name}; see tasks/__init__.py")
    for name in config.reward_components:
        if name not in module.REWARDS:
            known = ", ".join(module.REWARDS)
            raise InputError(f"--reward_components {name}: choose from {known}")
    return module.Task.from_config(config)

"""Runs that take seconds, each a process of its own: for gpu_check and for the tests of faults."""

import dataclasses
import importlib
import os
import subprocess
import sys

from runtime.measures import repeatable
from runtime.run_folder import read_jsonl

import common

OPTIONS = {"prompts_per_step": 2, "group_size": 4, "minibatches": 2, "max_new_tokens": 6}
OPTIONS |= {"steps": 2, "eval_problems": 2, "eval_every": 1, "checkpoint_every": 1}
OPTIONS |= {"dtype": "float32", "learning_rate": 1e-3}
LEARNS = {"reward_components": ["brevity", "format"]}  # the model is never right
OWN = {  # script: what would take long otherwise, or have no effect
    "dapo": {"max_refills": 1, "overlong_cache": 4},
    "zoo.gigpo": {"reward_weights": [1.0, 0.1]},
    "zoo.reinforce_pp": {"group_size": 1, "prompts_per_step": 8},
    "zoo.spo": {"pool_size": 4, "offline_completions": 2},
}
TINY = {"prompts_per_step": 4, "group_size": 8, "checkpoint_every": 10, "eval_every": 100}
TINY |= {"max_new_tokens": 24, "learning_rate": 1e-4}


def options_of(script, **changes):
    """The options of a micro run of a script, by name: those that its Config has and allows."""
    fields = {
        field.name: field for field in dataclasses.fields(importlib.import_module(script).Config)
    }
    usual = OPTIONS | LEARNS
    for name, field in fields.items():
        allowed = field.metadata["bounds"].get("choices")
        values = usual[name] if isinstance(usual.get(name), list) else [usual.get(name)]
        if allowed is not None and not set(values) <= set(allowed):
            usual.pop(name, None)
    options = usual | OWN.get(script, {}) | changes
    return {name: value for name, value in options.items() if name in fields}


def words_of(options):
    """Options as words of a command line; True is a bare flag, a list several words."""
    words = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [] if value is True else [value]
        words += [f"--{name}", *map(str, values)]
    return words


def start(script, **options):
    """`python SCRIPT` as a process, its output thrown away."""
    words = words_of(options_of(script, **TINY | options))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, f"{script}.py", *words]
    return subprocess.Popen(
        command, cwd=common.HERE, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finish(process):
    """Wait for it; SystemExit with its words if it did not end well."""
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(process.args[1:3])}: {errors.decode()}")


def training_rows(folder):
    """What the log says of training, without what the clock says."""
    rows = read_jsonl(folder / "metrics.jsonl")
    return repeatable(row for row in rows if "reward" in row)

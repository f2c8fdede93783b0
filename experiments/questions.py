"""Do the six scripts learn another task? python -m experiments.questions

A base for the embedded questions is made from their worked solutions, in a minute; then each script
trains on them with five seeds. What is measured is the share of right answers to all held-out
questions, 16 completions each, before and after. Writes experiments/questions.json, which
docs/reference/own_task.md shows.
"""

if __package__ != "experiments":
    raise SystemExit("run it from the repository's folder: python -m experiments.questions")

import argparse
import importlib
import json
import subprocess
import sys

from runtime.intervals import interval

import numpy as np

import common
import grpo
import tasks
from compose.reader import HERE
from experiments.catalogue import SCRIPTS
from experiments.catalogue.arm import SEEDS
from experiments.run import step_of

RUNS = HERE / "runs/questions"
FOUND = HERE / "experiments/questions.json"
TASK = "tasks.question_task"
STEPS = 30
WARM_START = "--start base_model --task tasks.question_task --steps 400 --learning_rate 1e-3"


def accuracy(model):
    """Share of right answers to all held-out questions, 16 completions each."""
    config = grpo.Config(task=TASK, group_size=16, max_new_tokens=64)
    held_out = tasks.load(config).held_out(config.eval_problems)
    generator = common.torch_stream("questions")
    rollout = grpo.sample_groups(*common.load_model(str(model)), held_out, config, generator)
    return rollout.correct.float().mean().item()


def trained(script, seed, base):
    """The model that a script makes of the base; a run that is complete is not made again."""
    folder = RUNS / f"{script}-seed{seed}"
    if step_of(folder / "checkpoint") < STEPS:
        module = importlib.import_module(script)
        options = {"model": str(base), "task": TASK, "steps": STEPS, "max_new_tokens": 64}
        options |= {"overlong_cache": 16} if script == "dapo" else {}
        options |= {"seed": seed, "threads": 1, "eval_every": 0, "output_dir": str(folder)}
        module.train(module.Config(**options, resume=folder.exists()))
    return folder / "checkpoint"


def table():
    """The lines of the table in docs/reference/own_task.md, of what is written down."""
    found = json.loads(FOUND.read_text(encoding="utf-8"))
    lines = ["| script | before | after | gain in points, 95 % interval |", "|---|---|---|---|"]
    for script, after in found["after"].items():
        low, high = (100 * bound for bound in interval(np.array(after) - found["before"]))
        means = f"{100 * found['before']:.1f} % | {100 * np.mean(after):.1f} %"
        lines.append(f"| {script}.py | {means} | {low:+.1f} to {high:+.1f} |")
    return lines


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    base = RUNS / "base"
    if not (base / "model.safetensors").exists():
        command = f"-m base_model.warm_start {WARM_START} --output_dir {base}"
        subprocess.run([sys.executable, *command.split()], cwd=HERE, check=True)
    found = {"warm_start": WARM_START, "steps": STEPS, "before": accuracy(base)}
    found["after"] = {
        script: [accuracy(trained(script, seed, base)) for seed in SEEDS] for script in SCRIPTS
    }
    FOUND.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

"""Runs all experiments, some, or one run of them.

    python -m experiments.run --list                    # hypotheses, arms, what is done
    python -m experiments.run --jobs 2                  # all that is missing, two at a time
    python -m experiments.run --only kl clip_width      # some experiments
    python -m experiments.run --one grpo --seed 3       # one run

Each run takes one thread and is watched by probes. Complete runs leave a small log in
experiments/logs/ and are skipped; runs that were cut off are resumed.
"""

if __package__ != "experiments":
    raise SystemExit("run it from the repository's folder: python -m experiments.run")

import argparse
import hashlib
import importlib
import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import torch

import common
from compose import composition
from compose.reader import source_of
from countdown_task import REWARDS
from experiments.arms import ARMS, EXPERIMENTS, LOGS, MORE_REWARDS, SCRIPTS, SEEDS, SELDOM
from experiments.lag import OldSampler
from experiments.probes import Probes, pass_at_k
from runtime import run_folder, session

RUNS = common.HERE / "runs/experiments"
# Arms whose last model is sampled 16 times a problem; of two of them the first model too.
BEYOND = [arm for arm in ARMS if arm.startswith("beyond_")]
PASS_AT_16 = (*SCRIPTS, *BEYOND)

TAKE_OFF = 8  # the step of an evaluation of aha_020 at which trying again takes off


def prepare(arm):
    """A fresh copy of the arm's script as a module, functions swapped, with probes in its log."""
    REWARDS.update(MORE_REWARDS)
    if arm.parts:
        RUNS.mkdir(parents=True, exist_ok=True)
        module = composition.module_of(arm.parts, RUNS)
    elif arm.edits:
        module = composition.load(edited(arm))
    else:
        module = composition.load(common.HERE / f"{arm.script.replace('.', '/')}.py")
    for name, source in arm.swap.items():
        setattr(module, name, getattr(importlib.import_module(source), name))
    if arm.lag:
        module.sample_batch = OldSampler(module.sample_batch, arm.lag)
    probes = Probes(module)

    class WatchedRun(session.Run):
        def __init__(self, config, script):
            super().__init__(config, module.__file__)

        def log(self, step, metrics):
            super().log(step, {**metrics, **probes.summary()})

    module.session = SimpleNamespace(**{**vars(session), "Run": WatchedRun})
    return module


def edited(arm):
    """The file of an arm's script with its edits made; each is to be found once."""
    source = source_of(arm.script)
    for old, new in arm.edits.items():
        if source.count(old) != 1:
            raise SystemExit(f"{arm.script}: not once in it: {old}")
        source = source.replace(old, new)
    RUNS.mkdir(parents=True, exist_ok=True)
    path = RUNS / f"edited-{hashlib.sha256(source.encode()).hexdigest()[:8]}.py"
    path.write_text(source, encoding="utf-8")
    return path


def prepare_model(names):
    """The base that seldom tries again is not committed: it is made when an arm asks for it."""
    model = common.HERE / SELDOM["model"]
    wanted = any(ARMS[name].flags.get("model") == SELDOM["model"] for name in names)
    if wanted and not (model / "tokenizer.json").exists():
        command = "-m base_model.warm_start --start base_model --retry 0.02 --steps 400"
        command += f" --learning_rate 1e-3 --output_dir {model}"
        print(f"making {SELDOM['model']}, a minute: python {command}", flush=True)
        subprocess.run([sys.executable, *command.split()], cwd=common.HERE, check=True)


def run_one(name, seed):
    """One run with probes; its small log is written last."""
    torch.set_num_threads(1)
    prepare_model([name])
    arm = ARMS[name]
    folder = RUNS / f"{name}-seed{seed}"
    module = prepare(arm)
    begun = (folder / "config.json").exists()
    again = {"overwrite": begun} if arm.lag else {"resume": begun}
    config = module.Config(**{"seed": seed, **arm.flags}, output_dir=str(folder), **again)
    module.train(config)
    rows = run_folder.read_jsonl(folder / "metrics.jsonl")
    models = {config.steps: str(folder / "checkpoint")} if name in PASS_AT_16 else {}
    if name in ("grpo", "beyond_grpo"):
        models[0] = config.model
    for step, path in models.items():
        found = pass_at_k(*common.load_model(path), module, config)
        rows.append({"step": step, "pass_at": found})
    if seed == SEEDS[0]:  # transcripts of the first and the last evaluation
        samples = run_folder.read_jsonl(folder / "samples.jsonl")
        shown = (0, TAKE_OFF, config.steps) if name == "aha_020" else (0, config.steps)
        rows += [sample for sample in samples if sample["step"] in shown]
    head = {"arm": name, "script": arm.script, "seed": seed, "flags": arm.flags, "swap": arm.swap}
    head |= {"parts": arm.parts} if arm.parts else {}
    head |= {"edits": arm.edits} if arm.edits else {}
    LOGS.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(shorten(row)) for row in [head, *rows]]
    run_folder.write_text(LOGS / f"{name}-seed{seed}.jsonl", "\n".join(lines) + "\n")


def shorten(value):
    """Floats to five significant digits."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: shorten(part) for key, part in value.items()}
    return [shorten(part) for part in value] if isinstance(value, list) else value


def run_all(todo, jobs):
    """Subprocesses of one thread each, `jobs` at a time; a failed run is reported and left."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    failed = []
    running = {}
    started = time.perf_counter()
    count = len(todo)
    todo = list(todo)
    while todo or running:
        while todo and len(running) < jobs:
            name, seed = todo.pop(0)
            RUNS.mkdir(parents=True, exist_ok=True)
            with open(RUNS / f"{name}-seed{seed}.out", "w") as out:
                command = [
                    sys.executable,
                    "-m",
                    "experiments.run",
                    "--one",
                    name,
                    "--seed",
                    str(seed),
                ]
                process = subprocess.Popen(
                    command, cwd=common.HERE, stdout=out, stderr=out, env=environment
                )
            running[process] = f"{name}-seed{seed}"
        time.sleep(1)
        for process in [p for p in running if p.poll() is not None]:
            label = running.pop(process)
            done = count - len(todo) - len(running)
            minutes = (time.perf_counter() - started) / 60
            state = "done" if process.returncode == 0 else f"FAILED, see {RUNS / label}.out"
            failed += [label] if process.returncode else []
            left = minutes / done * (count - done)
            print(f"{label}: {state}  ({done} of {count}, {left:.0f} min left)", flush=True)
    return failed


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--list", action="store_true", help="show experiments and stop")
    parser.add_argument("--one", choices=ARMS, help="do this run here, with --seed")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.one:
        return run_one(args.one, args.seed)
    arms = list(dict.fromkeys(arm for name in args.only for arm in EXPERIMENTS[name].arms))
    wanted = [(arm, seed) for seed in args.seeds for arm in arms if seed in ARMS[arm].seeds]
    todo = [run for run in wanted if not (LOGS / f"{run[0]}-seed{run[1]}.jsonl").exists()]
    if args.list:
        for name in args.only:
            experiment = EXPERIMENTS[name]
            print(f"{name} ({experiment.axis})\n  {experiment.hypothesis}")
            for arm in experiment.arms:
                seeds = ARMS[arm].seeds
                done = sum((LOGS / f"{arm}-seed{s}.jsonl").exists() for s in seeds)
                swapped = "".join(f", {k} of {v}" for k, v in ARMS[arm].swap.items())
                print(f"  {arm:16s} {done}/{len(seeds)}  {ARMS[arm].command(1)}{swapped}")
        return None
    print(f"{len(wanted) - len(todo)} runs complete, {len(todo)} to do", flush=True)
    prepare_model([name for name, _ in todo])
    failed = run_all(todo, max(1, args.jobs))
    return f"failed: {', '.join(failed)}" if failed else None


if __name__ == "__main__":
    sys.exit(main())

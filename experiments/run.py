"""Runs all experiments, some, or one run of them.

    python -m experiments.run --list                    # hypotheses, arms, what is done
    python -m experiments.run --jobs 2                  # all that is missing, two at a time
    python -m experiments.run --only kl clip_width      # some experiments
    python -m experiments.run --one grpo --seed 3       # one run

Each run takes one thread and is watched by probes. A complete run leaves a small log in its
experiment's zip in experiments/logs/ and is skipped; `python -m tools.diagnose grpo-seed3` looks at
it. A run that was cut off is resumed.
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
from pathlib import Path
from types import SimpleNamespace

from compose import composition
from compose.reader import HERE, file_of, source_of
from countdown_task import REWARDS
from experiments import archive
from experiments.catalogue import ARMS, EXPERIMENTS, SCRIPTS, max_likelihood
from experiments.catalogue.aha import SELDOM
from experiments.catalogue.arm import SEEDS
from experiments.catalogue.exercises import TEACHER
from experiments.catalogue.real_model import MODEL as REAL_MODEL
from experiments.catalogue.real_model import PRETRAINED, WARM_START
from experiments.rewards import MORE_REWARDS
from tasks import InputError

# What loads torch is imported by the functions that run something: --list takes no second.

RUNS = HERE / "runs/experiments"
# Arms whose last model is sampled 16 times a problem; of two of them the first model too.
BEYOND = [arm for arm in ARMS if arm.startswith("beyond_")]
PASS_AT_16 = (*SCRIPTS, *BEYOND, *max_likelihood.ARMS)

TAKE_OFF = 8  # the step of an evaluation of aha_020 at which trying again takes off


def prepare(arm):
    """A fresh copy of the arm's script as a module, functions swapped, with probes in its log."""
    from runtime import session

    from experiments.coarse import CoarseSampler
    from experiments.lag import OldSampler
    from experiments.probes import Probes

    REWARDS.update(MORE_REWARDS)
    if arm.parts:
        RUNS.mkdir(parents=True, exist_ok=True)
        module = composition.module_of(arm.parts, RUNS)
    elif arm.edits:
        source = edited(arm)
        RUNS.mkdir(parents=True, exist_ok=True)
        name = f"edited-{hashlib.sha256(source.encode()).hexdigest()[:8]}.py"
        module = composition.written(RUNS / name, source)
    else:
        module = composition.load(file_of(arm.script))
    for name, source in arm.swap.items():
        setattr(module, name, getattr(importlib.import_module(source), name))
    if arm.lag:
        module.sample_batch = OldSampler(module.sample_batch, arm.lag)
    if arm.sampler:
        module.sample_batch = CoarseSampler(module.sample_batch, arm.sampler)
    probes = Probes(module, other_sampler=bool(arm.sampler or arm.lag)) if arm.watched else None

    class WatchedRun(session.Run):
        def __init__(self, config, script):
            super().__init__(config, module.__file__)

        def log(self, step, metrics):
            super().log(step, {**metrics, **(probes.summary() if probes else {})})

    module.session = SimpleNamespace(**{**vars(session), "Run": WatchedRun})
    return module


def edited(arm):
    """The source of an arm's script with its edits made; each is to be found once."""
    source = source_of(arm.script)
    for old, new in arm.edits.items():
        if source.count(old) != 1:
            raise SystemExit(f"{arm.script}: not once in it: {old}")
        source = source.replace(old, new)
    return source


TEACHER_STEPS = 30
MAKES = {  # a model that is not committed: the command that makes it
    SELDOM["model"]: "-m base_model.warm_start --start base_model --retry 0.02 --steps 400 "
    f"--learning_rate 1e-3 --output_dir {SELDOM['model']}",
    TEACHER: f"grpo.py --seed 11 --threads 1 --steps {TEACHER_STEPS} "
    f"--output_dir {Path(TEACHER).parent}",
    PRETRAINED: f"-m tools.smollm2 {PRETRAINED}",
    REAL_MODEL: f"-m base_model.warm_start {WARM_START} --output_dir {REAL_MODEL}",
}


def prepare_models(names):
    """Makes the models of these arms that are not committed and not here yet."""
    arms = [ARMS[name] for name in names]
    asked = [str(value) for arm in arms for value in (*arm.flags.values(), *arm.edits.values())]
    for model in (SELDOM["model"], TEACHER, REAL_MODEL):
        if any(model in value for value in asked):
            make(model)


def step_of(checkpoint):
    """The step that a run's checkpoint is of, -1 without one; not every one is of the last step."""
    state = checkpoint / "state.json"
    return json.loads(state.read_text(encoding="utf-8"))["step"] if state.exists() else -1


def make(model):
    """Makes a model unless it is here; a warm start or a run that was killed goes on."""
    folder = HERE / model
    is_run = model == TEACHER
    done = step_of(folder) >= TEACHER_STEPS if is_run else (folder / "tokenizer.json").exists()
    if done:
        return
    if model == REAL_MODEL:
        make(PRETRAINED)
    command = MAKES[model]
    begun = folder.parent / "config.json" if is_run else folder / "warm_start.pt"
    command += " --resume" if begun.exists() else ""
    print(f"making {model} first: python {command}", flush=True)
    if subprocess.run([sys.executable, *command.split()], cwd=HERE).returncode:
        raise SystemExit(f"{model} could not be made")


def sha256(file):
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def run_one(name, seed):
    """One run with probes; its small log is written last."""
    from runtime import run_folder

    import common
    from experiments.probes import pass_at_k

    prepare_models([name])
    arm = ARMS[name]
    folder = RUNS / f"{name}-seed{seed}"
    module = prepare(arm)
    begun = (folder / "config.json").exists()
    again = {"overwrite": begun} if arm.lag else {"resume": begun}
    options = {"seed": seed, "threads": 1, "output_dir": str(folder)}
    config = module.Config(**options, **arm.flags, **again)
    log = folder / "metrics.jsonl"
    try:
        module.train(config)
    except InputError:
        if not any("stopped" in row for row in run_folder.read_jsonl(log)[-1:]):
            raise
        # An update broke the model: the log says so, and is a result.
    rows = run_folder.read_jsonl(log)
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
    head |= {"sampler": arm.sampler} if arm.sampler else {}
    if arm.flags.get("model") == REAL_MODEL:
        head["model_sha256"] = sha256(HERE / REAL_MODEL / "model.safetensors")
    archive.save(name, seed, [json.dumps(shorten(row)) for row in [head, *rows]])
    print(f"{name}-seed{seed} is in {archive.zip_of(name)}")


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
                    command, cwd=HERE, stdout=out, stderr=out, env=environment
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
    parser.add_argument("--seeds", nargs="+", type=int, help="default: all that an arm has")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--list", action="store_true", help="show experiments and stop")
    parser.add_argument("--one", choices=ARMS, help="do this run here, with --seed")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.one:
        return run_one(args.one, args.seed)
    arms = list(dict.fromkeys(arm for name in args.only for arm in EXPERIMENTS[name].arms))
    asked = args.seeds or sorted({seed for arm in arms for seed in ARMS[arm].seeds})
    wanted = [(arm, seed) for seed in asked for arm in arms if seed in ARMS[arm].seeds]
    done = {arm: archive.seeds_of(arm) for arm in arms}
    todo = [(arm, seed) for arm, seed in wanted if seed not in done[arm]]
    if args.list:
        for name in args.only:
            experiment = EXPERIMENTS[name]
            print(f"{name} ({experiment.axis})\n  {experiment.hypothesis}")
            for arm in experiment.arms:
                seeds = ARMS[arm].seeds
                there = len(set(seeds) & set(done[arm]))
                changes = "".join(f", {k} of {v}" for k, v in ARMS[arm].swap.items())
                changes += ", lines changed" if ARMS[arm].edits else ""
                changes += f", rollouts in {ARMS[arm].sampler}" if ARMS[arm].sampler else ""
                print(f"  {arm:16s} {there}/{len(seeds)}  {ARMS[arm].command(seeds[0])}{changes}")
        return None
    print(f"{len(wanted) - len(todo)} runs complete, {len(todo)} to do", flush=True)
    prepare_models([name for name, _ in todo])
    failed = run_all(todo, max(1, args.jobs))
    return f"failed: {', '.join(failed)}" if failed else None


if __name__ == "__main__":
    sys.exit(main())

"""Seconds a step takes beside other programs, by the number of threads and how they wait.

    python -m experiments.threads   # half an hour on an idle machine; writes threads.json

Every cell is a run of grpo.py of a few steps beside so many processes that spin, in rounds, so that
neighbours in time are compared. The large model has 135M random weights in a published shape.
"""

if __package__ != "experiments":
    raise SystemExit("run it from the repository's folder: python -m experiments.threads")

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from runtime.run_folder import read_jsonl, write_text

import common
from experiments.benchmark import random_chat_model

RESULT = common.HERE / "experiments/threads.json"
LOADS = (0, 1, 4)  # other processes
LONGEST = 60  # seconds of a cell; what it has logged by then counts
SPIN = {"GOMP_SPINCOUNT": "300000"}  # what libgomp does without a word: some milliseconds
SLEEP = {"OMP_WAIT_POLICY": "PASSIVE"}
ROWS = {  # environment of each
    "1 thread": {"OMP_NUM_THREADS": "1"},
    "2 threads that spin": {"OMP_NUM_THREADS": "2", **SPIN},
    "2 threads that sleep at once": {"OMP_NUM_THREADS": "2", **SLEEP},
    "2 threads that wait as here": {"OMP_NUM_THREADS": "2"},
    "8 threads that spin": {"OMP_NUM_THREADS": "8", **SPIN},
    "chosen": {},
    "chosen, of 8": {},
}
LARGE_ROWS = ("1 thread", "2 threads that spin", "chosen")
SMALL = {"steps": 4}
LARGE = {"steps": 2, "prompts_per_step": 2, "minibatches": 1, "group_size": 4, "max_new_tokens": 16}
SPINNING = """
import os
parent = os.getppid()
while os.getppid() == parent:  # it must not outlive a measurement that is killed
    for _ in range(10**6):
        pass
"""
OF_EIGHT = """
import runtime
import torch
torch.set_num_threads(8)  # as PyTorch does on eight cores; runtime.threads asks when it is loaded
import grpo
from runtime import session
session.launch(grpo.train, grpo.Config, "")
"""


@contextlib.contextmanager
def beside(count):
    """Inside `with`, so many processes that do nothing but spin."""
    spinning = [subprocess.Popen([sys.executable, "-c", SPINNING]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()


def cell(row, options):
    """(seconds, threads) of one run's steps, a list each; empty if none ended in time."""
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {k: v for k, v in os.environ.items() if k not in names} | ROWS[row]
    program = ["-c", OF_EIGHT] if row == "chosen, of 8" else ["grpo.py"]
    with tempfile.TemporaryDirectory() as folder:
        options = options | {"eval_every": 0, "eval_problems": 1, "output_dir": f"{folder}/run"}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [sys.executable, *program, *words],
                cwd=common.HERE,
                env=environment,
                stdout=subprocess.DEVNULL,
                timeout=LONGEST,
            )
        rows = read_jsonl(Path(folder) / "run/metrics.jsonl")
    rows = [row for row in rows if "seconds" in row]
    return [row["seconds"] for row in rows], [row["threads"] for row in rows]


def measure(rows, options, rounds):
    """{row: {load: {median, range, threads}}}; a median of None: no step ended."""
    seconds = {row: {load: [] for load in LOADS} for row in rows}
    threads = {row: {load: [] for load in LOADS} for row in rows}
    for turn in range(rounds):
        for load in LOADS:
            with beside(load):
                for row in rows:
                    found, numbers = cell(row, options)
                    seconds[row][load] += found
                    threads[row][load] += numbers
                    print(f"round {turn + 1}, {load} beside, {row}: {found} {numbers}", flush=True)
    return {
        row: {
            load: {
                "median": statistics.median(values) if values else None,
                "range": [min(values), max(values)] if values else None,
                "steps": len(values),
                "threads": sorted(set(threads[row][load])),
            }
            for load, values in seconds[row].items()
        }
        for row in rows
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each cell")
    args = parser.parse_args()
    report = {"cores": os.cpu_count(), "rounds": args.rounds}
    report["base_model"] = measure(ROWS, SMALL, args.rounds)
    with tempfile.TemporaryDirectory() as folder:
        random_chat_model(folder, "SmolLM2-135M")
        report["135M"] = measure(LARGE_ROWS, LARGE | {"model": folder}, args.rounds)
    write_text(RESULT, json.dumps(report, indent=1) + "\n")
    for name in ("base_model", "135M"):
        for row, loads in report[name].items():
            shown = ["-" if x["median"] is None else f"{x['median']:.2f}" for x in loads.values()]
            print(f"{name}, {row}: {' | '.join(shown)}")


if __name__ == "__main__":
    main()

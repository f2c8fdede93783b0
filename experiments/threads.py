"""Seconds a step takes beside other programs, by the number of threads and how they wait.

    pip install -r tests/requirements.txt            # TRL
    python -m experiments.threads                    # an hour on an idle machine; threads.json
    python -m experiments.threads --parts TRL        # only one part

Every cell is a run of grpo.py of a few steps beside so many processes that spin, in rounds, so that
neighbours in time are compared. The large model has 135M random weights in a published shape. TRL
takes turns with grpo.py's step in one process, as in experiments.benchmark.
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
from experiments.benchmark import compare, random_chat_model, show

RESULT = common.HERE / "experiments/threads.json"
LOADS = (0, 1, 4)  # other processes
LONGEST = 60  # seconds of a cell; what it has logged by then counts
SPIN = {"GOMP_SPINCOUNT": "300000"}  # what libgomp does without a word: some milliseconds
SLEEP = {"OMP_WAIT_POLICY": "PASSIVE"}
ROWS = {  # (--threads, environment) of each; 0 threads: the run chooses
    "1 thread": (1, {}),
    "2 threads that spin": (2, SPIN),
    "2 threads that sleep at once": (2, SLEEP),
    "2 threads that wait as here": (2, {}),
    "8 threads that spin": (8, SPIN),
    "8 threads that wait as here": (8, {}),
    "chosen": (0, {}),
    "chosen, of 8": (0, {}),
}
LARGE_ROWS = ("1 thread", "2 threads that spin", "chosen")
SMALL = {"steps": 4}
LARGE = {"steps": 2, "prompts_per_step": 2, "minibatches": 1, "group_size": 4, "max_new_tokens": 16}
TRL_LOADS = (0, 1)
TRL_ROWS = ("1 thread", "2 threads that spin", "2 threads that wait as here")
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
TAKING_TURNS = """
import json
import sys
import runtime
import torch
from experiments import benchmark
torch.set_num_threads(int(sys.argv[1]))
benchmark.REWARDS["coin"] = benchmark.coin
ours = benchmark.Ours(benchmark.settings(benchmark.BASE, 16))
seconds, _ = benchmark.paired_steps(ours, int(sys.argv[2]))
print(json.dumps(seconds))
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


def environment(waiting):
    """This process's environment without a word on threads but `waiting`."""
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    return {name: value for name, value in os.environ.items() if name not in names} | waiting


def cell(row, options):
    """(seconds, threads) of one run's steps, a list each; empty if none ended in time."""
    threads, waiting = ROWS[row]
    program = ["-c", OF_EIGHT] if row == "chosen, of 8" else ["grpo.py"]
    with tempfile.TemporaryDirectory() as folder:
        options = options | {"threads": threads, "output_dir": f"{folder}/run"}
        options = options | {"eval_every": 0, "eval_problems": 1}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [sys.executable, *program, *words],
                cwd=common.HERE,
                env=environment(waiting),
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


def against_trl(rounds):
    """{row: {load: compare()}}: steps per second of grpo.py and of TRL, turn by turn."""
    report = {row: {} for row in TRL_ROWS}
    for load in TRL_LOADS:
        with beside(load):
            for row in TRL_ROWS:
                threads, waiting = ROWS[row]
                written = subprocess.run(
                    [sys.executable, "-c", TAKING_TURNS, str(threads), str(rounds)],
                    cwd=common.HERE,
                    env=environment(waiting),
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                ).stdout
                seconds = json.loads(written.splitlines()[-1])
                speed = {who: [1 / value for value in values] for who, values in seconds.items()}
                report[row][load] = {**compare(speed["ours"], speed["TRL"]), "unit": "steps/s"}
                show(f"{load} beside, {row}", report[row][load])
    return report


def large_model(rounds):
    with tempfile.TemporaryDirectory() as folder:
        random_chat_model(folder, "SmolLM2-135M")
        return measure(LARGE_ROWS, LARGE | {"model": folder}, rounds)


PARTS = {
    "base_model": lambda rounds: measure(ROWS, SMALL, rounds),
    "135M": large_model,
    "TRL": lambda rounds: against_trl(3 * rounds),
}


def tables():
    """{part: lines of Markdown} of what has been measured, as docs/lab/speed.md shows it."""
    report = json.loads(RESULT.read_text())
    found = {}
    for part in ("base_model", "135M"):
        found[part] = ["| seconds a step | alone | beside one | beside four |", "|---|---|---|---|"]
        for row, loads in report.get(part, {}).items():
            cells = [
                f"over {LONGEST}" if x["median"] is None else f"{x['median']:.1f}"
                for x in loads.values()
            ]
            found[part].append(f"| {row} | {' | '.join(cells)} |")
    found["TRL"] = ["| ours against TRL's, seconds a step | alone | beside one |", "|---|---|---|"]
    for row, loads in report.get("TRL", {}).items():
        cells = [f"{1 / x['ours']:.1f} / {1 / x['other']:.1f}, {ratio(x)}" for x in loads.values()]
        found["TRL"].append(f"| {row} | {' | '.join(cells)} |")
    return found


def ratio(entry):
    low, high = entry["ratio_range"]
    return f"{entry['ratio']:.1f} x ({low:.1f} to {high:.1f})"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3, help="runs of each cell")
    args = parser.parse_args()
    report = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    report |= {"cores": os.cpu_count()}
    for part in args.parts:
        report[part] = PARTS[part](args.rounds)
        write_text(RESULT, json.dumps(report, indent=1) + "\n")
    for lines in tables().values():
        print("\n".join(lines))


if __name__ == "__main__":
    main()

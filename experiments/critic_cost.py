"""What a second network costs: memory and seconds of a step, processes in turn.

    python -m experiments.critic_cost   # five minutes; writes experiments/critic_cost.json

The policy alone (dr_grpo.py), with a frozen reference (grpo.py), with a critic (ppo.py) and with a
reward model and its reference (prime.py), each on the same groups. The learning rates are so small
that the policy, and with it the work, stays as it is. Every ratio is to the policy alone in the
same round; memory is that of the whole process, from which the base without a step is subtracted.
"""

if __package__ != "experiments":
    raise SystemExit("run it from the repository's folder: python -m experiments.critic_cost")

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from runtime.run_folder import read_jsonl, write_text

import common

RESULT = common.HERE / "experiments/critic_cost.json"
ROUNDS = 5
OPTIONS = {"steps": 3, "eval_every": 0, "eval_problems": 1, "learning_rate": 1e-9}
OPTIONS |= {"prompts_per_step": 16, "group_size": 16}
CONTENDERS = {  # module: its own options
    "dr_grpo": {},
    "grpo": {},
    "zoo.ppo": {"critic_learning_rate": 1e-9},
    "zoo.prime": {"reward_learning_rate": 1e-9},
}


def step_of(module, folder, **changes):
    """{seconds_sampling, seconds_updating, peak_memory_mb} of a step: medians of a short run."""
    options = OPTIONS | CONTENDERS[module] | changes | {"output_dir": folder}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    subprocess.run(
        [sys.executable, "-m", module, *words, "--overwrite"],
        cwd=common.HERE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    rows = [row for row in read_jsonl(folder / "metrics.jsonl") if "seconds" in row]
    names = ("seconds_sampling", "seconds_updating", "peak_memory_mb")
    return {name: statistics.median(row[name] for row in rows) for name in names}


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            rounds.append({name: step_of(name, Path(folder) / name) for name in CONTENDERS})
            print(f"round {number + 1} of {ROUNDS}", flush=True)
        least = {"prompts_per_step": 4, "group_size": 2, "max_new_tokens": 1, "steps": 1}
        loaded = step_of("dr_grpo", Path(folder) / "least", **least)["peak_memory_mb"]
    report = {"loaded_mb": loaded}
    for name in CONTENDERS:
        seconds = [turn[name]["seconds_updating"] for turn in rounds]
        alone = [turn["dr_grpo"]["seconds_updating"] for turn in rounds]
        ratios = [ours / theirs for ours, theirs in zip(seconds, alone, strict=True)]
        report[name] = {
            "seconds_updating": statistics.median(seconds),
            "times_as_long": statistics.median(ratios),
            "range": [min(ratios), max(ratios)],
            "peak_memory_mb": statistics.median(turn[name]["peak_memory_mb"] for turn in rounds),
        }
    write_text(RESULT, json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()

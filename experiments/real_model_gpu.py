"""The real model on one GPU, in twelve minutes: warm start, then the six scripts side by side.

    python -m experiments.real_model_gpu --model runs/smollm2                        # on a GPU
    python -m experiments.real_model_gpu --model base_model --small --work runs/try  # on a CPU

It writes as it goes: whatever ends it, OUTPUT/log.jsonl holds the rows of all runs so far, and
OUTPUT/samples.jsonl what they wrote at first and last. Called again it goes on: a warm start that
was killed is resumed, an arm that is complete is left alone, another is resumed. One small model
leaves most of a GPU idle, so four arms run at a time. When --minutes are over, each arm finishes
its step, saves and stops.
"""

if __package__ != "experiments":
    raise SystemExit("run it from the repository's folder: python -m experiments.real_model_gpu")

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from runtime.run_folder import read_jsonl, write_text

from compose.reader import HERE

LARGE = {"prompts_per_step": 16, "group_size": 16, "max_new_tokens": 192, "steps": 40}
LARGE |= {"tokens_per_microbatch": 16384, "learning_rate": 2e-5, "eval_every": 10}
LARGE |= {"eval_problems": 384, "checkpoint_every": 20}
SMALL = {"prompts_per_step": 4, "group_size": 4, "max_new_tokens": 64, "steps": 2}
SMALL |= {"eval_every": 0, "eval_problems": 8, "threads": 1}
WARM = {"searches": 4, "steps": 125, "tokens_per_batch": 8192, "learning_rate": 6e-4}
WARM |= {"eval_every": 25, "eval_problems": 128, "samples": 16}
WARM_SMALL = {"searches": 2, "steps": 4, "tokens_per_batch": 1024, "learning_rate": 1e-4}
WARM_SMALL |= {"eval_every": 2, "eval_problems": 4, "samples": 2, "max_new_tokens": 64}
ARMS = [("grpo", 1), ("dr_grpo", 1), ("dapo", 1), ("gspo", 1), ("gdpo", 1), ("cispo", 1)]
ARMS += [("grpo", 2)]
JOBS = 4
PATIENCE = 60  # seconds that an arm has to finish its step and save
COPY_EVERY = 10


def words(options):
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


class Work:
    """What is to be done in `folder`, until `deadline`; what it says is copied to `output`."""

    def __init__(self, args):
        self.deadline = time.monotonic() + 60 * args.minutes
        self.folder = Path(args.work)
        self.output = Path(args.output)
        self.model = args.model
        self.small = args.small
        self.folder.mkdir(parents=True, exist_ok=True)
        self.output.mkdir(parents=True, exist_ok=True)

    def start(self, command):
        """A process that writes to OUTPUT/console.txt; it has a Ctrl-C of its own."""
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with open(self.output / "console.txt", "ab") as console:
            console.write(f"$ {' '.join(command)}\n".encode())
            console.flush()
            return subprocess.Popen(
                [sys.executable, *command],
                cwd=HERE,
                env=environment,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def is_over(self):
        return time.monotonic() > self.deadline

    def finish(self, processes):
        """Waits for the processes, until the deadline; copies what there is meanwhile."""
        copied = 0.0
        while any(process.poll() is None for process in processes) and not self.is_over():
            time.sleep(0.2)
            if time.monotonic() - copied > COPY_EVERY:
                self.copy()
                copied = time.monotonic()
            if any(process.poll() is not None for process in processes):
                break
        if self.is_over():
            self.stop(processes)
        self.copy()

    def stop(self, processes):
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in processes:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()

    def copy(self):
        """All rows so far, each with the run that it is of, as two files."""
        rows = []
        samples = []
        for log in sorted(self.folder.glob("*/*.jsonl")):
            name = log.parent.name
            found = [{"run": name, **row} for row in read_jsonl(log)]
            if log.name != "samples.jsonl":
                rows += found
            else:
                shown = {found[0]["step"], found[-1]["step"]} if found else set()
                samples += [row for row in found if row["step"] in shown]
        for name, lines in (("log.jsonl", rows), ("samples.jsonl", samples)):
            write_text(self.output / name, "".join(f"{json.dumps(row)}\n" for row in lines))

    def warm(self):
        """The folder of the warm-started model; None if the time was over before."""
        folder = self.folder / "warm"
        if not (folder / "model.safetensors").exists():
            resume = ["--resume"] if (folder / "warm_start.pt").exists() else []
            options = {"start": self.model, "output_dir": folder}
            options |= WARM_SMALL if self.small else WARM
            command = ["-m", "base_model.warm_start", *words(options), *resume]
            self.finish([self.start(command)])
        return folder if (folder / "model.safetensors").exists() else None

    def arm(self, script, seed, warm):
        """The process of an arm, or None if it is complete."""
        options = SMALL if self.small else LARGE
        folder = self.folder / f"{script}-seed{seed}"
        rows = read_jsonl(folder / "metrics.jsonl")
        if any(row["step"] == options["steps"] and "eval_accuracy" in row for row in rows):
            return None
        resume = ["--resume"] if (folder / "config.json").exists() else []
        given = {"model": warm, "seed": seed, "output_dir": folder, **options}
        return self.start([f"{script}.py", *words(given), *resume])

    def arms(self, warm):
        todo = list(ARMS)
        running = []
        while (todo or running) and not self.is_over():
            while todo and len(running) < JOBS:
                process = self.arm(*todo.pop(0), warm)
                running += [process] if process else []
            self.finish(running)
            running = [process for process in running if process.poll() is None]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="runs/smollm2", help="what the warm start begins with")
    parser.add_argument("--work", default="runs/real_model_gpu", help="folder of the runs")
    parser.add_argument("--output", default="", help="folder of what comes back; default: --work")
    parser.add_argument("--minutes", type=float, default=12.0, help="after that it stops")
    parser.add_argument("--small", action="store_true", help="a few steps, to try it on a CPU")
    args = parser.parse_args()
    args.output = args.output or args.work
    if not (Path(args.model) / "config.json").exists():
        parser.error(f"--model {args.model}: no model there; python -m tools.smollm2 makes it")
    work = Work(args)
    warm = work.warm()
    if warm is None:
        return f"no warm start; see {work.output / 'console.txt'}"
    work.arms(warm)
    work.copy()
    return None


if __name__ == "__main__":
    sys.exit(main())

"""Runs as numbers: a run's directory, or a committed run by its name, such as grpo-seed1."""

import contextlib
import difflib
import json
from dataclasses import dataclass
from pathlib import Path

from runtime.run_folder import read_jsonl

from experiments import archive
from experiments.catalogue import ARMS
from tasks import InputError, printable

NEEDED = {"step", "reward", "accuracy", "length", "entropy"}  # in the row of a training step

# Of the scripts' own ratios; logs from before `ratio_spread` have it under the probes' names.
PROBED_SPREAD = {
    **dict.fromkeys(("grpo", "dr_grpo", "dapo", "gdpo", "cispo"), "log_ratio_rms"),
    "gspo": "sequence_log_ratio_rms",
    "rloo": "product_log_ratio_rms",
}


@dataclass(frozen=True)
class Run:
    """A run's training steps and evaluations, each row a dict of numbers."""

    name: str
    script: str
    training: list[dict]
    evaluations: list[dict]

    @property
    def rows(self):
        return self.training + self.evaluations

    def over(self, metric, first, last):
        """The metric's values in these steps; of evaluations the last one only."""
        here = [row for row in self.rows if first <= row["step"] <= last]
        values = [row[metric] for row in here if row.get(metric) is not None]
        return values[-1:] if metric.startswith("eval_") else values

    def last_evaluation(self, first, last):
        """The last of these steps that has an evaluation; `last` if none has."""
        steps = [row["step"] for row in self.rows if "eval_accuracy" in row]
        return max((step for step in steps if first <= step <= last), default=last)


def read(name, shortest=1):
    """The Run in a directory, or the committed run of this name.

    InputError if it is no run, or one of fewer training steps than `shortest`.
    """
    head, rows = lines_of(name)
    script = printable(head.get("script", "?")).rpartition(".")[2]  # zoo.rloo is a rloo
    rows = [
        {printable(key): value for key, value in row.items() if is_number(value)} for row in rows
    ]
    training = [row for row in rows if row.keys() >= NEEDED and row["length"] > 0]
    if len(training) < shortest:
        raise InputError(
            f"{name}: {len(training)} training steps logged, at least {shortest} are needed"
        )
    for row in training:
        row.setdefault("ratio_spread", row.get(PROBED_SPREAD.get(script)))
    evaluations = [row for row in rows if row.keys() >= {"step", "eval_accuracy"}]
    return Run(printable(name), script, training, evaluations)


def lines_of(name):
    """(what is said about the run, its rows); InputError if there is no such run."""
    folder = Path(name)
    if (folder / "metrics.jsonl").is_file():
        head = {}
        with contextlib.suppress(OSError, ValueError, RecursionError):
            head = dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        return head, read_jsonl(folder / "metrics.jsonl")
    found = archive.find(str(name))
    if not found:
        raise InputError(
            f"{name}: no run here; name a directory with metrics.jsonl, or a committed run such "
            "as grpo-seed1"
        )
    head, *rows = archive.read(*found)
    return head, rows


def is_number(value):
    """Of a size that can be computed with; a log may come from anywhere."""
    return isinstance(value, int | float) and abs(value) < 1e30


def committed(arm):
    """The committed runs of an arm, by seed; InputError if there is no such arm."""
    if arm not in ARMS:
        near = ", ".join(difflib.get_close_matches(arm, ARMS)) or "none is near"
        raise InputError(f"--committed {arm}: no arm of experiments/catalogue ({near})")
    return [read(f"{arm}-seed{seed}") for seed in archive.seeds_of(arm)]

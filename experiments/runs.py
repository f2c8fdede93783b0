"""Runs as numbers: a run's directory, or a committed run by its name, such as grpo-seed1."""

import contextlib
import difflib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from runtime.run_folder import read_jsonl

from experiments import archive
from experiments.catalogue import ARMS
from tasks import InputError, printable

NEEDED = {"step", "reward", "accuracy", "length", "entropy"}  # in the row of a training step
FINITE = ("reward", "entropy", "grad_norm", "kl_old")  # in every row of a run that is alive

# Of the scripts' own ratios; logs from before `ratio_spread` have it under the probes' names.
PROBED_SPREAD = {
    **dict.fromkeys(("grpo", "dr_grpo", "dapo", "gdpo", "cispo"), "log_ratio_rms"),
    "gspo": "sequence_log_ratio_rms",
    "rloo": "product_log_ratio_rms",
}


@dataclass(frozen=True)
class Run:
    """A run's training steps and evaluations, each row a dict of numbers.

    fatal: what the log says has ended it, "" if nothing has; settings: the options that are known
    of it; parts: what compose made its script of.
    """

    name: str
    script: str
    training: list[dict]
    evaluations: list[dict]
    fatal: str = ""
    settings: dict = field(default_factory=dict)
    parts: tuple[str, ...] = ()

    @property
    def rows(self):
        return self.training + self.evaluations

    @property
    def log(self):
        """What a diagnosis reads of it: its training, its evaluations, and what ended it."""
        return self.training, self.evaluations, self.fatal

    def at(self, metric, first, last):
        """{step: the metric's value} in these steps; of evaluations the last one only."""
        here = [row for row in self.rows if first <= row["step"] <= last]
        values = {row["step"]: row[metric] for row in here if row.get(metric) is not None}
        return dict([*values.items()][-1:]) if metric.startswith("eval_") else values

    def over(self, metric, first, last):
        """The same without the steps."""
        return list(self.at(metric, first, last).values())

    def last_evaluation(self, first, last):
        """The last of these steps that has an evaluation; `last` if none has."""
        steps = [row["step"] for row in self.rows if "eval_accuracy" in row]
        return max((step for step in steps if first <= step <= last), default=last)


def read(name, shortest=1, or_fatal=False):
    """The Run in a directory, or the committed run of this name.

    InputError if it is no run, or one of fewer training steps than `shortest`; with or_fatal, a run
    whose log says what has ended it may have fewer.
    """
    head, rows = lines_of(name)
    fatal = fatal_of(rows)
    script = printable(head.get("script", "?")).rpartition(".")[2]  # zoo.rloo is a rloo
    rows = [
        {printable(key): value for key, value in row.items() if is_number(value)} for row in rows
    ]
    training = [row for row in rows if row.keys() >= NEEDED and row["length"] > 0]
    if len(training) < shortest and not (fatal and or_fatal):
        raise InputError(
            f"{name}: {len(training)} training steps logged, at least {shortest} are needed"
        )
    for row in training:
        row.setdefault("ratio_spread", row.get(PROBED_SPREAD.get(script)))
    evaluations = [row for row in rows if row.keys() >= {"step", "eval_accuracy"}]
    settings, parts = head.get("flags", head), head.get("parts", [])
    settings = settings if isinstance(settings, dict) else {}
    parts = tuple(map(printable, parts)) if isinstance(parts, list) else ()
    return Run(printable(name), script, training, evaluations, fatal, settings, parts)


def fatal_of(rows):
    """What the log says has ended a run, "" if nothing: it stopped, or a number is not finite."""
    if rows and isinstance(rows[-1].get("stopped"), str):
        return f'it stopped: "{printable(rows[-1]["stopped"])}"'
    for row in rows:
        for name in FINITE:
            value = row.get(name)
            if isinstance(value, float) and not math.isfinite(value):
                return f"{name} is {value} in step {printable(row.get('step'))}"
    return ""


def lines_of(name):
    """(what is said about the run, its rows); InputError if there is no such run."""
    folder = Path(name)
    if (folder / "metrics.jsonl").is_file():
        head = {}
        with contextlib.suppress(OSError, ValueError, RecursionError):
            head = dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        head.pop("parts", None)  # only a committed run's are known to compose
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
    """The committed runs of an arm's own seeds; InputError if there is no such arm."""
    if arm not in ARMS:
        near = ", ".join(difflib.get_close_matches(arm, ARMS)) or "none is near"
        raise InputError(f"--committed {arm}: no arm of experiments/catalogue ({near})")
    return [read(f"{arm}-seed{seed}") for seed in archive.compared_seeds(arm)]

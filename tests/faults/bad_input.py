"""Tries every option of every script with wrong types, edge values and at random.

    python -m tests.faults.bad_input --short   # a sample, a quarter of a minute
    python -m tests.faults.bad_input           # all, some thousand; writes docs/lab/faults.md

Each is the command line of a microscopic run (micro.py), made from the fields of the scripts'
Config. It must be refused in one line that names the option, with nothing written, or train two
steps, or stop in one line at the update that broke the model; anything else must be 0.
"""

if __package__ != "tests.faults":
    raise SystemExit("run it from the repository's folder: python -m tests.faults.bad_input")

import argparse
import dataclasses
import functools
import importlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from runtime import run_folder, session

import huggingface_hub
import torch

import common
from compose.reader import scripts
from tests.faults import micro
from tests.faults.pages import write_section
from tools import tiny_runs

WRONG = ["", "x", "1,5", "0x10", "1 2", "ä", "\x1b[31m1", "9" * 5000]
NUMBERS = ["-1", "0", "1", "2", "3", "7", "-9223372036854775808", "9223372036854775807"]
NUMBERS += ["1" + "0" * 400, "1e3", "0.5", "nan", "inf", "-inf", "1e-300", "1e-30", "1e30", "1e300"]
TEXTS = ["", ".", "/", "/dev/null", "/dev/null/x", "nowhere", "a" * 300, "ä ö", "\x1b[2J", "\udcff"]
VALUES = {int: NUMBERS, float: NUMBERS, str: TEXTS, bool: ["", "maybe", "1", "true", "0"]}
BEFORE_STEP_1 = ("pretrain_rollouts",)  # valid numbers have no end, and no step to stop a run at

REFUSED, TRAINED, STOPPED = "refused", "trained", "stopped at its update"
OTHER = "anything else"


def values_of(field):
    """Lists of words to try for a field of a Config."""
    kind = getattr(field.type, "__args__", [field.type])[0]  # of a list: of its elements
    alone = [[value] for value in [*WRONG, *VALUES[kind]]]
    if field.name in BEFORE_STEP_1:
        alone = [[value] for [value] in alone if len(value) < 10]
    bounds = field.metadata["bounds"]
    known = [[str(name)] for name in bounds.get("choices", [])]
    if field.type is kind:
        return alone + known
    every = [word for words in known for word in words]
    return [*alone, *known, [], every, every * 2, ["1"] * 3, ["nan", "1"]]


def cases(script):
    """[{option: words}] with one option changed from those of a micro run."""
    config = importlib.import_module(script).Config
    return [
        {field.name: words} for field in dataclasses.fields(config) for words in values_of(field)
    ]


def combinations(script, count, rng):
    """`count` times values for three or four options at once, more of them sensible."""
    config = importlib.import_module(script).Config
    free = [f for f in dataclasses.fields(config) if f.name not in ("model", "output_dir", "data")]
    for _ in range(count):
        fields = rng.sample(free, rng.choice([3, 4]))
        small = {int: ["1", "2", "4"], float: ["0.1", "0.5", "1"], bool: ["true", "false"]}
        yield {
            f.name: [rng.choice(small[f.type])]
            if f.type in small and rng.random() < 0.8
            else rng.choice(values_of(f))
            for f in fields
        }


def stopped_after_two_steps(folder):
    """In the run's process: no network, output where it is looked for, an end in sight."""
    os.chdir(folder)
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    log = session.Run.log

    def log_and_stop(run, step, metrics):
        log(run, step, metrics)
        run.stop = step >= 2

    session.Run.log = log_and_stop


def judge(script, model, changes, folder):
    """(verdict, what it said) of a script with these options, in an empty folder."""
    options = tiny_runs.options_of(script, model=model, output_dir="run") | changes
    words = [
        word
        for name, value in options.items()
        for word in tiny_runs.words_of({name: value if isinstance(value, list) else [value]})
    ]
    ended = micro.run(script, words, functools.partial(stopped_after_two_steps, folder))
    written = [file for file in folder.rglob("*") if file.is_file()]
    line = ended.refusal()
    logs = list(folder.rglob("metrics.jsonl"))
    steps = [row["step"] for log in logs for row in run_folder.read_jsonl(log) if "reward" in row]
    if ended.status == 0 or (line and line.startswith("stopped after step 2")):
        wanted = {0: [], 1: [1]}.get(int(options["steps"][0]) if "steps" in changes else 2, [1, 2])
        return (TRAINED, "") if steps == wanted else (OTHER, f"steps {steps}")
    if not line:
        return OTHER, ended.errors or f"status {ended.status}"
    if "broke the model" in line:
        return STOPPED, line
    if written:
        return OTHER, f"refused, but wrote {written}: {line}"
    if not any(f"--{name}" in line for name in changes):
        return OTHER, f"names none of {list(changes)}: {line}"
    return REFUSED, line


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="a sample of all scripts")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # and no run times how many are fastest
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not survive a fork
    rng = random.Random(0)
    started = time.perf_counter()
    lines = ["| script | tried | refused | trained | stopped at its update | anything else |"]
    lines += ["|---|---|---|---|---|---|"]
    totals = Counter()
    with tempfile.TemporaryDirectory() as folder:
        model = micro.make_model(Path(folder) / "model")
        for script in scripts():
            tried = cases(script)
            tried = rng.sample(tried, 5) if args.short else tried
            tried += combinations(script, 2 if args.short else 40, rng)
            counts = Counter()
            for changes in tried:
                place = Path(folder) / "place"
                place.mkdir()
                verdict, said = judge(script, model, changes, place)
                shutil.rmtree(place)
                counts[verdict] += 1
                if verdict == OTHER:
                    print(f"ANYTHING ELSE: {script} {changes!r:.200}\n    {said}", flush=True)
            found = [counts[verdict] for verdict in (REFUSED, TRAINED, STOPPED, OTHER)]
            lines.append(f"| {script} | {sum(found)} | {' | '.join(map(str, found))} |")
            totals.update(counts)
    found = [totals[verdict] for verdict in (REFUSED, TRAINED, STOPPED, OTHER)]
    lines.append(f"| **all** | {sum(found)} | {' | '.join(map(str, found))} |")
    print("\n".join(lines))
    print(f"{sum(found)} command lines, {(time.perf_counter() - started) / 60:.1f} minutes")
    if not args.short:
        write_section(common.HERE / "docs/lab/faults.md", "Bad input", lines)
    return totals[OTHER] and 1


if __name__ == "__main__":
    sys.exit(main())

"""What the warm starts of the real model found, and what a step of RL takes: real_model.json.

    python -m experiments.real_model --warm_start runs/smollm2-warm    # keeps its measurements
    python -m experiments.real_model --steps runs/grpo-seed1           # keeps its seconds
    python -m experiments.real_model                                   # the tables of the page

The runs stay where they are, uncommitted; what docs/lab/real_model.md quotes is in the file. A
folder that is given again replaces what was kept of it.
"""

if __package__ != "experiments":
    raise SystemExit("run it from the repository's folder: python -m experiments.real_model")

import argparse
import json
import statistics
from pathlib import Path

from runtime.run_folder import read_jsonl, write_text

from compose.reader import HERE
from tasks import InputError, printable

RESULT = HERE / "experiments/real_model.json"
OF_A_STEP = ("seconds_sampling", "seconds_updating", "tokens_sampled", "peak_memory_mb", "threads")
OF_A_STEP += ("length", "truncated", "accuracy", "groups_without_signal")
SETTINGS = ("prompts_per_step", "group_size", "max_new_tokens", "minibatches", "learning_rate")


def of_warm_start(folder):
    """Rows of a warm start's measurements, numbers rounded; InputError if there are none."""
    rows = read_jsonl(Path(folder) / "warm_start.jsonl")
    if not rows:
        raise InputError(f"--warm_start {folder}: no warm_start.jsonl; --eval_every writes one")
    return [
        {name: round(x, 4) if isinstance(x, float) else x for name, x in row.items()}
        for row in rows
    ]


def of_steps(folder):
    """Settings of a run, and of its steps the medians of seconds, tokens and memory."""
    rows = [row for row in read_jsonl(Path(folder) / "metrics.jsonl") if "updates" in row]
    if not rows:
        raise InputError(f"--steps {folder}: no step is logged there")
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    found = {name: config[name] for name in ("script", *SETTINGS)} | {"steps": len(rows)}
    values = {name: [row[name] for row in rows if name in row] for name in OF_A_STEP}
    medians = {name: round(statistics.median(x), 2) for name, x in values.items() if x}
    return found | medians


def tables():
    """{what: lines of Markdown} of what is kept, as docs/lab/real_model.md shows it."""
    report = json.loads(RESULT.read_text(encoding="utf-8"))
    columns = {  # header: (figure, how it is written)
        "tokens": ("tokens", "{:,}"),
        "format": ("format", "{:.0%}"),
        "steps right": ("arithmetic steps right", "{:.0%}"),
        "verdicts right": ("verdicts right", "{:.1%}"),
        "`yes` right": ("verdict yes right", "{:.0%}"),
        "solved": ("solved", "**{:.1%}**"),
        "in four tries": ("pass@4", "{:.0%}"),
        "cut": ("cut at the budget", "{:.0%}"),
        "length": ("tokens per completion", "{:.0f}"),
    }
    lines = {}
    for name, rows in report["warm_start"].items():
        lines[name] = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        for row in rows:
            cells = [style.format(row[figure]) for figure, style in columns.values()]
            lines[name].append(f"| {' | '.join(cells).replace('%', ' %')} |")
    head = "| script | completions | tokens | sampling | updating | seconds | memory | threads |"
    lines["steps"] = [head, "|---" * 8 + "|"]
    for row in report["steps"].values():
        sampling, updating = row["seconds_sampling"], row["seconds_updating"]
        cells = [f"{row['script']}.py", row["prompts_per_step"] * row["group_size"]]
        cells += [f"{row['tokens_sampled']:,.0f}", f"{sampling:.0f} s", f"{updating:.0f} s"]
        cells += [f"{sampling + updating:.0f}", f"{row['peak_memory_mb'] / 1000:.1f} GB"]
        cells.append(f"{row['threads']:.0f}")
        lines["steps"].append(f"| {' | '.join(map(str, cells))} |")
    return lines


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--warm_start", default="", help="folder of a warm start")
    parser.add_argument("--steps", default="", help="folder of a run of a script")
    parser.add_argument("--name", default="", help="what it is called; default: the folder's name")
    args = parser.parse_args()
    report = {"warm_start": {}, "steps": {}}
    if RESULT.exists():
        report = json.loads(RESULT.read_text(encoding="utf-8"))
    try:
        for kind, folder, read in (
            ("warm_start", args.warm_start, of_warm_start),
            ("steps", args.steps, of_steps),
        ):
            if folder:
                report[kind][args.name or Path(folder).name] = read(folder)
    except InputError as error:
        parser.exit(2, f"error: {printable(error)}\n")
    write_text(RESULT, json.dumps(report, indent=1) + "\n")
    for name, lines in tables().items():
        print("\n".join([name, *lines, ""]))


if __name__ == "__main__":
    main()

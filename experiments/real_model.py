"""What the warm starts and the runs of the real model found, as docs/lab/real_model.md shows it.

    python -m experiments.real_model --warm_start runs/smollm2-warm    # keeps its measurements
    python -m experiments.real_model --solve runs/smollm2-warm         # keeps what it solves
    python -m experiments.real_model                                   # the tables of the page

A model stays where it is, uncommitted; what the page quotes of it is in real_model.json, and a
folder that is given again replaces what was kept of it. The runs are in experiments/logs/.
"""

if __package__ != "experiments":
    raise SystemExit("run it from the repository's folder: python -m experiments.real_model")

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from runtime.run_folder import read_jsonl, write_text

import numpy as np

from compose.reader import HERE
from countdown_task import Task
from experiments.catalogue import SCRIPTS
from experiments.catalogue.real_model import ARMS, FLAGS
from experiments.curves import curve, load, mean_over, tokens_at
from experiments.effects import clipped, number
from tasks import InputError, printable

KINDS = {  # of problems: options of the task
    "taught": {},
    "to_20": {"max_number": 20, "max_target": 99},
    "to_99": {"max_number": 99, "max_target": 99},
    "four_to_99": {"operands": 4, "max_number": 99, "max_target": 99},
}
HELD_OUT = 128  # of each kind, one completion each
RESULT = HERE / "experiments/real_model.json"
EVALUATED = range(0, FLAGS["steps"] + 1, FLAGS["eval_every"])


@dataclass(frozen=True)
class Quantity:
    """What an axis moves, and the scripts that differ in that axis; grpo is the first."""

    title: str
    unit: str
    scripts: tuple[str, ...]
    metric: object  # a name in the log, or a function of a row

    def of(self, arm):
        """The metric in an arm's log. Of the tiny model's ratios there is none but the probes'."""
        if self.metric != "ratio_spread" or arm.startswith("real_"):
            return self.metric
        return {"grpo": "log_ratio_rms", "gspo": "sequence_log_ratio_rms"}[arm]


QUANTITIES = [
    Quantity("spread of the ratio", "RMS of log ratio", ("grpo", "gspo"), "ratio_spread"),
    Quantity("tokens beyond the clip", "share of tokens", ("grpo", "gspo", "cispo"), clipped),
    Quantity("length of wrong completions", "tokens", ("grpo", "dr_grpo", "dapo"), "length_wrong"),
    Quantity("groups without signal", "share of groups", ("grpo", "dapo"), "groups_without_signal"),
    Quantity("entropy", "nats per token", SCRIPTS, "entropy"),
]


def of_warm_start(folder):
    """Rows of a warm start's measurements, numbers rounded; InputError if there are none."""
    rows = read_jsonl(Path(folder) / "warm_start.jsonl")
    if not rows:
        raise InputError(f"--warm_start {folder}: no warm_start.jsonl; --eval_every writes one")
    return [
        {name: round(x, 4) if isinstance(x, float) else x for name, x in row.items()}
        for row in rows
    ]


def of_model(folder, kinds):
    """{kind: {figure: value}} of a model on held-out problems, at temperature 1."""
    import common  # loads torch, which the figures do without
    from base_model.warm_start import quality

    model, tokenizer = common.load_model(folder)
    found = {}
    for kind in kinds:
        held_out = Task(**KINDS[kind]).held_out(HELD_OUT)
        figures = quality(model, tokenizer, held_out, samples=1, max_new_tokens=128)
        found[kind] = {name: round(x, 4) for name, x in figures.items()}
        print(kind, found[kind], flush=True)
    return found


def tables():
    """{what: lines of Markdown}: the summary is README's, the others docs/lab/real_model.md's."""
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
    of_models = {"models": models(report["models"]), "summary": summary(report["models"])}
    return lines | of_models | {"runs": runs(), "axes": axes()}


def models(report):
    """A line for each model: what it does with problems as it was taught, and with harder ones."""
    columns = {
        "solved": "solved",
        "steps right": "arithmetic steps right",
        "tries again": "retries after a failed line",
        "cut": "cut at the budget",
    }
    harder = [kind for kind in KINDS if kind != "taught"]
    head = ["model", *columns, "length", *harder]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, found in report.items():
        cells = [f"{100 * found['taught'][figure]:.0f} %" for figure in columns.values()]
        cells.append(f"{found['taught']['tokens per completion']:.0f}")
        cells += [f"{100 * found[k]['solved']:.0f} %" if k in found else "" for k in harder]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def summary(report):
    """README's: one line, what the warm start and each run of a script solve."""
    cells = {}  # the column's title: what stands below it
    models = {"before": "warm start"} | {script: f"{script}.py" for script in SCRIPTS}
    for title, begins in models.items():
        solved = [report[name]["taught"]["solved"] for name in report if name.startswith(begins)]
        seeds = f", {len(solved)} seeds" if len(solved) > 1 else ""
        cells[title + seeds] = ", ".join(f"{100 * share:.0f}" for share in solved) + " %"
    head = f"| solved, of {HELD_OUT} | {' | '.join(cells)} |"
    line = f"| SmolLM2-135M | {' | '.join(cells.values())} |"
    return [head, "|---" * (len(cells) + 1) + "|", line]


def runs():
    """A line for each run: held-out accuracy, tokens, median seconds of a step, memory."""
    head = [*(f"step {step}" if step else "before" for step in EVALUATED), "tokens", "a step"]
    lines = [f"| run | {' | '.join(head)} | memory |", "|---" * (len(head) + 2) + "|"]
    for arm in ARMS:
        for seed, rows in load(arm).items():
            solved = dict(zip(*curve(rows, "eval_accuracy"), strict=True))
            memory = max(row.get("peak_memory_mb", 0) for row in rows) / 1000
            cells = [f"{ARMS[arm].script}.py, seed {seed}"]
            cells += [f"{100 * solved[step]:.0f} %" for step in EVALUATED]
            cells += [f"{tokens_at(rows, FLAGS['steps']):,}"]
            cells += [f"{np.median(curve(rows, 'seconds')[1]):.0f} s", f"{memory:.1f} GB"]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def axes():
    """A line for each quantity and script: means over all steps, of the tiny model and of this."""
    head = "| measured | script | 0.6M: grpo.py | the script | 135M: grpo.py | the script |"
    lines = [head, "|---" * 6 + "|"]
    for quantity in QUANTITIES:
        for script in quantity.scripts[1:]:
            cells = [f"{quantity.title}, {quantity.unit}", f"{script}.py"]
            for arm in ("grpo", script, "real_grpo", f"real_{script}"):
                mean = mean_over(quantity.of(arm), 1, FLAGS["steps"])
                cells.append(number(np.mean([mean(rows) for rows in load(arm).values()])))
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--warm_start", default="", help="folder of a warm start")
    parser.add_argument("--solve", default="", help="folder of a model that is given problems")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS], help="of problems")
    parser.add_argument("--name", default="", help="what it is called; default: the folder's name")
    args = parser.parse_args()
    report = {"warm_start": {}, "models": {}}
    if RESULT.exists():
        report = json.loads(RESULT.read_text(encoding="utf-8"))
    name = args.name or Path(args.warm_start or args.solve).name
    try:
        if args.warm_start:
            report["warm_start"][name] = of_warm_start(args.warm_start)
        if args.solve:
            found = of_model(args.solve, args.kinds)
            report["models"][name] = report["models"].get(name, {}) | found
    except InputError as error:
        parser.exit(2, f"error: {printable(error)}\n".replace("--model", "--solve"))
    write_text(RESULT, json.dumps(report, indent=1) + "\n")
    for name, lines in tables().items():
        print("\n".join([name, *lines, ""]))


if __name__ == "__main__":
    main()

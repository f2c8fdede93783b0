"""Writes results.md and transcripts.md from the committed logs: python -m experiments.reports"""

if __package__ != "experiments":
    raise SystemExit("run it from the repository's folder: python -m experiments.reports")

import argparse
import re
from collections import Counter

from runtime.intervals import interval

import numpy as np
from scipy import stats

from compose.reader import HERE
from experiments import compositions
from experiments.catalogue import ARMS, DEFINED_IN, EXPERIMENTS, SCRIPTS
from experiments.catalogue.bundles import ABLATIONS
from experiments.catalogue.lag import AGED_SCRIPTS, LAGS, RATES
from experiments.catalogue.planted_anew import PLANTS
from experiments.curves import curve, load, mean_over, tokens_at
from experiments.effects import all_measured, fell, number, pass_at, saturating_fit
from experiments.runs import committed, read
from experiments.symptoms import SHORTEST, findings, state
from tasks import printable

CEILINGS = {  # experiment: what its table is headed
    "defaults": "30 steps at the defaults, 256 new tokens",
    "ceiling": "120 steps, 768 new tokens",
    "beyond": "The same on problems of which the base solves 7 in 100",
}


TABLES_ELSEWHERE = {  # experiments whose arms are not compared seed by seed
    "planted_anew": "What it says of each: [below](#diagnosis-hits-and-false-alarms).",
    "real_model": "What became of it: [a page of its own](../docs/lab/real_model.md).",
}


def last_accuracy(rows):
    """Held-out accuracy at the last evaluation."""
    return float(curve(rows, "eval_accuracy")[1][-1])


def results():
    """The text of results.md: per experiment its hypothesis, arms, effects and verdicts."""
    lines = [
        "# Results",
        "",
        "Written by `python -m experiments.reports` from effects.csv and logs/. Differences are "
        "paired by seed (same problems, same initial model); intervals are 95 % paired t "
        "intervals over seeds. p is that of the paired t test, corrected for the number of rows of "
        "its experiment (Benjamini and Hochberg). A row that names a sign is *seen* if p is at "
        "most 0.05 and the sign is that of the hypothesis. A row that expects no difference is "
        "*the same within* a margin if its whole interval lies within that; else it *differs* if p "
        "is at most 0.05, and is *not separable* if not.",
        "",
        errors_by_chance(),
        "",
        "Each hypothesis was written before its runs, but for two that were stated anew when "
        "their first form showed nothing (reward, planted) and two that were committed when half "
        "of their runs had ended and none had been looked at (ceiling, beyond); "
        "rows on equal accuracy, on CISPO's accuracy, on SPO's tracker with the batch's mean, on "
        "GMPO's spread, on agreement with a vote and on the growth of odds were added after the "
        "runs, and the windows of steps were chosen on seed 1 or, for the failure curves, 11. The "
        "margins were written when three to five seeds of each row were known, and before the "
        "others ran. Any run again: `python -m experiments.run --one ARM --seed SEED`.",
    ]
    measured = all_measured()
    for name, experiment in EXPERIMENTS.items():
        lines += ["", f"## {name} ({experiment.axis})", "", experiment.hypothesis, ""]
        if not any(load(arm) for arm in experiment.arms):
            lines.append("Not run yet.")
            continue
        if name == "pairs":  # a row for each arm
            lines += compositions.pair_report()
            continue
        for arm in experiment.arms:
            changes = beside_the_flags(arm)
            tokens = [tokens_at(rows, 1000) for rows in load(arm).values()]
            updates = [sum(row.get("updates", 0) for row in rows) for rows in load(arm).values()]
            if tokens:
                budget = f"{np.mean(updates):.0f} updates, {np.mean(tokens) / 1e3:.0f}k tokens"
                lines.append(f"* {arm}: `{ARMS[arm].command('S')}`{changes}: {budget}")
        if name in TABLES_ELSEWHERE:
            lines += ["", TABLES_ELSEWHERE[name]]
            continue
        lines += ["", "| measured | before | after | difference | 95 % | p | seeds | verdict |"]
        lines.append("|---|---|---|---|---|---|---|---|")
        for row in measured:
            if row.effect.experiment == name:
                low, high = map(number, row.interval)
                cells = [row.effect.what.replace("|", "\\|"), number(row.base)]
                cells += [number(row.moved), number(row.difference), f"{low} to {high}"]
                cells += [f"{row.p:.2g}" if row.p >= 0.001 else "< 0.001"]
                cells += [f"{row.agree} of {row.seeds}", row.verdict]
                lines.append(f"| {' | '.join(cells)} |")
        if name in ABLATIONS:
            lines += compositions.bundle_report(ABLATIONS[name])
    lines += ["", "## All effects in one picture", ""]
    lines.append("![All effects with intervals](../plots/figures/summary.png)")
    lines += [*ceilings(), *old_rollouts(), *votes(), *diagnoses()]
    return "\n".join(lines) + "\n"


def beside_the_flags(arm):
    """What an arm changes that its command line does not say."""
    changes = "".join(f", `{f}` of {s}.py" for f, s in ARMS[arm].swap.items())
    if ARMS[arm].edits:
        changes += f", lines changed as in catalogue/{DEFINED_IN[arm]}.py"
    if ARMS[arm].sampler:
        changes += f", rollouts drawn with weights in {ARMS[arm].sampler}"
    if ARMS[arm].lag:
        changes += f", rollouts {ARMS[arm].lag} steps old"
    return changes


def errors_by_chance():
    """A sentence: how many of the verdicts chance alone may have given."""
    measured = all_measured()
    claimed = sum(row.claims_a_difference for row in measured)
    return (
        f"{claimed} of {len(measured)} rows claim a difference. The correction keeps the expected "
        f"share of false ones among them to 5 % at most: {0.05 * claimed:.0f} of these {claimed}. "
        f"Without it and without any effect, chance alone would give {0.05 * len(measured):.0f}."
    )


def ceilings():
    """Lines of results.md: saturating fits of the default runs and of the long ones."""
    lines = ["", "## Ceiling or speed?", ""]
    lines.append(
        "Held-out accuracy at the end, and a saturating fit of it, `c - (c - a0) exp(-x / tau)`, "
        "run by run: mean and 95 % interval over seeds. c is the ceiling, tau the x that 63 % of "
        "the way took, in steps or in thousands of tokens. A run that ends below half of its best "
        "accuracy *fell*: it has no ceiling."
    )
    for name, what in CEILINGS.items():
        lines += ["", f"**{what}**", ""]
        lines.append("| arm | end | c | tau, steps | tau, tokens | tokens | pass@1 | pass@16 |")
        lines.append("|---|---|---|---|---|---|---|---|")
        for arm in EXPERIMENTS[name].arms:
            runs = list(load(arm).values())
            cells = [with_interval([100 * last_accuracy(rows) for rows in runs], " %")]
            count = sum(map(fell, runs))
            if count:
                cells += [f"fell in {count} of {len(runs)}", "-", "-"]
            else:
                of_tokens = [saturating_fit(rows) for rows in runs]
                cells.append(with_interval([100 * ceiling for ceiling, _ in of_tokens], " %"))
                cells.append(with_interval([saturating_fit(rows, "steps")[1] for rows in runs]))
                cells.append(with_interval([tau / 1e3 for _, tau in of_tokens]))
            cells.append(with_interval([tokens_at(rows, 1000) / 1e3 for rows in runs]))
            if all(any("pass_at" in row for row in rows) for rows in runs):
                cells += sampled_16_times(runs, -1)
            else:
                cells += ["-", "-"]
            lines.append(f"| {arm} | {' | '.join(cells)} |")
    base = sampled_16_times(load("beyond_grpo").values(), 0)
    lines += ["", f"Of these problems the base solves {base[0]}, and {base[1]} in 16 tries."]
    return lines


def sampled_16_times(runs, index):
    """Cells: pass@1 and pass@16 of the runs' first (0) or last (-1) models."""
    return [with_interval([100 * pass_at(index, k)(rows) for rows in runs], " %") for k in (1, 16)]


def with_interval(values, unit=""):
    """A cell: mean and 95 % interval over seeds."""
    low, high = interval(np.array(values))
    return f"{np.mean(values):.1f}{unit} ({low:.1f} to {high:.1f})"


def old_rollouts():
    """Lines of results.md: accuracy by age and rate, and where the products are equal."""
    lines = ["", "## Old rollouts: is it age times learning rate?", ""]
    lines.append(
        "Right completions in steps 16-20, mean and 95 % interval over seeds. Cells with "
        "the same product stand in one row: if the product alone counts, a row is constant."
    )
    ages = "age 1, 2e-3 | age 2, 1e-3 | age 4, 5e-4", "age 2, 2e-3 | age 4, 1e-3 | age 8, 5e-4"
    triples = [[(1, "high"), (2, "mid"), (4, "low")], [(2, "high"), (4, "mid"), (8, "low")]]
    final = mean_over("accuracy", 16, 20)
    for product, header, cells in zip(("2e-3", "4e-3"), ages, triples, strict=True):
        lines += ["", f"| product {product} | {header} |", "|---|---|---|---|"]
        for loss in AGED_SCRIPTS:
            runs = [load(f"aged_{loss}_{lag}_{rate}").values() for lag, rate in cells]
            texts = [with_interval([final(rows) * 100 for rows in cell], " %") for cell in runs]
            lines.append(f"| {loss} | {' | '.join(texts)} |")
    lines += ["", "Rank correlation, over the 12 cells of a loss, of accuracy with", ""]
    lines += ["| | age | learning rate | age x learning rate |", "|---|---|---|---|"]
    keys = [(lag, name) for lag in LAGS for name in RATES]
    columns = [
        [lag for lag, _ in keys],
        [RATES[name] for _, name in keys],
        [lag * RATES[name] for lag, name in keys],
    ]
    for loss in AGED_SCRIPTS:
        cells = [load(f"aged_{loss}_{lag}_{name}").values() for lag, name in keys]
        values = [np.mean([final(rows) for rows in cell]) for cell in cells]
        found = [f"{stats.spearmanr(column, values).statistic:.2f}" for column in columns]
        lines.append(f"| {loss} | {' | '.join(found)} |")
    return lines


def votes():
    """Lines of results.md: how many of a group have to be right for its vote to be right."""
    lines = ["", "## How many of 16 have to be right for the vote to be right?", ""]
    lines.append(
        "Groups of ttrl.py in steps 1-3, all seeds, where the policy is still near the base: ttrl "
        "on the default problems, hard_voted on numbers to 20 and targets to 99."
    )
    lines += ["", "| right of 16 | ttrl: groups | label right | hard_voted: groups | label right |"]
    lines.append("|---|---|---|---|---|")
    pairs = {
        arm: [
            pair
            for rows in load(arm).values()
            for row in rows
            if 1 <= row["step"] <= 3
            for pair in row.get("label_by_right", [])
        ]
        for arm in ("ttrl", "hard_voted")
    }
    for first, last in ((0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 7), (8, 16)):
        cells = [f"{first}" if first == last else f"{first}-{last}"]
        for found in pairs.values():
            labels = [label for right, label in found if first <= right <= last]
            cells += [str(len(labels)), f"{np.mean(labels):.0%}" if labels else "-"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


PLANTED = {  # arm: the symptom that it was made to show
    "only_verbose": "length grows without accuracy",
    "only_orderly": "entropy collapses",
    "stale_symmetric": "token ratios are noisy",
    "pooled_two": "reward components collide",
    "stale_higher": "uncertain tokens are clipped",
    "kl_0": "groups without signal",
    "seam": "reward rises, accuracy does not",
    "mixture_token": "policy far from the start",
    "hot_token": "training breaks",
}


def diagnoses():
    """Lines of results.md: what diagnose.py says of planted and of healthy runs."""
    found = {
        arm: [
            [finding.symptom for finding in findings(run.script, *run.log) if finding.shown]
            for run in committed(arm)
        ]
        for arm in (*PLANTED, *SCRIPTS)
    }
    lines = ["", "## Diagnosis: hits and false alarms", ""]
    lines += [
        "`tools/diagnose.py` on runs that were made to show a symptom, and on the default runs of "
        "the six scripts. A planted run may show other symptoms too; what a default run shows is "
        "either a false alarm or a finding. Thresholds were set on seeds 1 to 3.",
        "",
        "| planted in | symptom | shown in | also shown |",
        "|---|---|---|---|",
    ]
    for arm, symptom in PLANTED.items():
        runs = found[arm]
        others = Counter(name for shown in runs for name in shown if name != symptom)
        also = ", ".join(f"{name} ({count})" for name, count in others.most_common())
        hits = sum(symptom in shown for shown in runs)
        lines.append(f"| {arm} | {symptom} | {hits} of {len(runs)} | {also or '-'} |")
    lines += ["", "| default run | symptoms shown |", "|---|---|"]
    for arm in SCRIPTS:
        counts = Counter(name for shown in found[arm] for name in shown)
        text = ", ".join(f"{name} ({count} of {len(found[arm])})" for name, count in counts.items())
        lines.append(f"| {arm}.py | {text or 'none'} |")
    return [*lines, *named_anew()]


def named_anew():
    """Lines of results.md: what diagnose.py says of twenty runs that set no threshold."""
    right = Counter()
    lines = ["", "| run | planted | named | symptoms planted | missed | also shown |"]
    lines.append("|---|---|---|---|---|---|")
    for arm, plant in PLANTS.items():
        (seed,) = plant.arm.seeds
        run = read(f"{arm}-seed{seed}", or_fatal=True)
        named = state(run.script, *run.log).word
        long_enough = len(run.training) >= SHORTEST
        found = findings(run.script, *run.log) if long_enough else []
        shown = [finding.symptom for finding in found if finding.shown]
        missed = [name for name in plant.symptoms if name not in shown]
        others = [name for name in shown if name not in plant.symptoms]
        cells = [f"{arm}-seed{seed}", plant.state, named]
        cells += [", ".join(names) or "-" for names in (plant.symptoms, missed, others)]
        lines.append(f"| {' | '.join(cells)} |")
        right["states"] += named == plant.state
        right["planted"] += len(plant.symptoms)
        right["shown"] += len(plant.symptoms) - len(missed)
    text = (
        "Twenty runs on none of which a threshold was set, five of each state. What each is "
        "planted to be was written down before it was run "
        f"([planted_anew.py](catalogue/planted_anew.py)). {right['states']} are named as planted, "
        f"and {right['shown']} of {right['planted']} planted symptoms are shown."
    )
    return ["", text, *lines]


def transcripts():
    """The text of transcripts.md: the first three held-out problems, before and after, seed 1."""
    lines = [
        "# Transcripts",
        "",
        "Chosen by rule: seed 1, the first three held-out problems, at the first evaluation (the "
        "base) and at the last. Written by `python -m experiments.reports` from the logs.",
    ]

    def show(title, samples):
        lines.extend(["", f"## {title}"])
        for sample in samples:
            verdict = "right" if sample["right"] else "wrong"
            if "</answer>" not in sample["completion"]:
                verdict += ", cut off by the budget"
            numbers = " ".join(map(str, sample["numbers"]))
            shown = "\n".join(map(printable, sample["completion"].split("\n")))
            # A fence longer than any in the text: nothing that a model writes gets out of it.
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
            lines.extend(["", f"{numbers} -> {sample['target']}, {verdict}:", ""])
            lines.extend([fence, shown, fence])

    titles = {arm: f"{arm}.py" for arm in SCRIPTS} | {
        "hot_token": "A failed run: grpo.py, 16 updates per rollout at 1e-3 (hot_token)",
        "seam": "An exploitable reward, which believes the claim (seam)",
        "first_grpo": "Only the first line is paid, under 1/|o| (first_grpo)",
        "first_dr_grpo": "Only the first line is paid, under a constant (first_dr_grpo)",
        "aha_020": "A base that seldom tries again (aha_020)",
        "gigpo": "With a calculator, which writes what follows each = (gigpo)",
        "real_grpo": "A real language model, SmolLM2-135M, under grpo.py (real_grpo)",
    }
    both_ends = ("aha_020", "gigpo", "real_grpo")
    for arm, title in titles.items():
        samples = [row for row in load(arm).get(1, []) if "completion" in row]
        steps = sorted({row["step"] for row in samples})
        if arm == SCRIPTS[0]:
            show("The base", [row for row in samples if row["step"] == 0][:3])
        for step in steps if arm in both_ends else steps[-1:]:
            after = [row for row in samples if row["step"] == step][:3]
            show(f"{title}, after {step} steps", after)
    return "\n".join(lines) + "\n"


# In docs/solutions.md: a comment that says which arms, metrics and steps the table below it has.
RANGES = re.compile(
    r"<!-- ranges of (?P<arms>[^:]+): (?P<metrics>[^;]+); steps (?P<steps>[\d-]+) -->\n\n"
    r"((\|.*\n)+\n)?"
)


def solutions(text):
    """The text of solutions.md with its tables as the logs have them."""
    return RANGES.sub(ranges, text)


def ranges(asked):
    """A comment with the table that it asks for: lowest and highest seed of each arm."""
    comment, _, _ = asked[0].partition("\n")
    first, _, last = asked["steps"].partition("-")
    arms = asked["arms"].split()
    runs = {arm: committed(arm) for arm in arms}
    lines = [f"| steps {asked['steps']} | {' | '.join(arms)} |", "|---" * (len(arms) + 1) + "|"]
    for metric in asked["metrics"].split():
        cells = []
        for seeds in runs.values():
            found = [run.over(metric, int(first), int(last)) for run in seeds]
            means = [np.mean(values) for values in found if values]
            cells.append(f"{number(min(means))} to {number(max(means))}" if means else "-")
        lines.append(f"| `{metric}` | {' | '.join(cells)} |")
    return "\n".join([comment, "", *lines, "", ""])


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    folder = HERE / "experiments"
    page = HERE / "docs/solutions.md"
    page.write_text(solutions(page.read_text(encoding="utf-8")), encoding="utf-8")
    (folder / "results.md").write_text(results(), encoding="utf-8")
    (folder / "transcripts.md").write_text(transcripts(), encoding="utf-8")
    for row in all_measured():
        low, high = map(number, row.interval)
        print(
            f"{row.effect.experiment}: {row.effect.what}: {number(row.base)} -> "
            f"{number(row.moved)}, difference {number(row.difference)} "
            f"[{low}, {high}], {row.agree} of {row.seeds} seeds: {row.verdict}"
        )


if __name__ == "__main__":
    main()

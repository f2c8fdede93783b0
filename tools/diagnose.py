"""Reads a run and says what it is, which symptoms it shows, and what to try, as a command.

    python -m tools.diagnose runs/grpo-seed1    # a run of any script
    python -m tools.diagnose hot_token-seed1    # a committed run, in experiments/logs/

A run is one of these, the first that holds:

    broken     training broke: it stopped, left the policy that sampled, or lost its accuracy
    hacked     the reward rises, accuracy does not
    starved    groups give no signal: all is wrong, or right, or cut, or without the format
    healthy    none of these; it may show symptoms all the same

Every state and symptom is a number with a threshold, both printed. The first quarter of the run is
compared with the last. The panels go to diagnosis.png in the run directory (--figure to put them
elsewhere). How often this is right on runs with planted symptoms and on healthy ones:
experiments/results.md.
"""

if __package__ != "tools":
    raise SystemExit("run it from the repository's folder: python -m tools.diagnose RUN")

import argparse
import contextlib
from pathlib import Path

from compose import composition
from compose.reader import refuse_unfinished
from experiments.curves import curve
from experiments.runs import read
from experiments.symptoms import SHORTEST, SYMPTOMS, Quarters, component_names, findings, state
from plots.style import COLOURS, STYLES, check_picture, legend, plt
from tasks import InputError, printable
from tools import levers


def composed(script, found, made_of=()):
    """The run's script and every lever for what it shows that goes with it, as parts.

    A lever that contradicts the parts before it is left out; so is one that the script has. A run
    that breaks has none: its other symptoms may be those of the break. made_of: the parts of a
    script that is a composition.
    """
    if any(finding.shown and finding.symptom == "training breaks" for finding in found):
        return []
    parts = levers.parts_of(script, made_of)
    for finding in found:
        part = SYMPTOMS[finding.symptom].part
        if finding.shown and part not in (None, *parts) and not part.startswith(f"{script}:"):
            with contextlib.suppress(InputError):
                composition.compose([*parts, part])
                parts.append(part)
    return parts


def draw(title, run, found, path):
    """One panel for each symptom with its threshold, those that are shown in an orange frame."""
    quarters = Quarters(run.training)
    figure, grid = plt.subplots(3, 5, figsize=(16, 9), layout="constrained")
    for axes in grid.flat[len(found) :]:
        axes.set_axis_off()
    for axes, finding in zip(grid.flat, found, strict=False):
        symptom = SYMPTOMS[finding.symptom]
        for index, metric in enumerate(symptom.metrics or component_names(run.training)):
            steps, values = curve(run.rows, metric)
            look = {"color": COLOURS[index % len(COLOURS)], "ls": STYLES[index % len(STYLES)]}
            axes.plot(steps, values, **look, label=metric.replace("$", r"\$"))  # no formula
        if not any(len(line.get_xdata()) for line in axes.lines):
            axes.clear()
            axes.set(xticks=[], yticks=[])
            axes.text(0.5, 0.5, "not logged", ha="center", transform=axes.transAxes)
        elif symptom.threshold:
            look = {"color": "#666666", "lw": 1, "ls": ":", "label": "threshold"}
            axes.axhline(symptom.threshold(quarters), **look)
        axes.set(title=symptom.panel, xlabel="step")
        if finding.shown:
            axes.set_title(f"{symptom.panel}\nSHOWN: {finding.symptom}", color=COLOURS[1])
            axes.spines[:].set(visible=True, color=COLOURS[1], linewidth=2)
        legend(axes)
    figure.suptitle(title.replace("$", r"\$"), fontsize=12, fontweight="bold")
    figure.savefig(path)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run directory, or a committed run: ARM-seedN")
    parser.add_argument("--figure", type=Path, help="where the panels go")
    args = parser.parse_args()
    figure = args.figure
    if figure is None:
        figure = args.run / "diagnosis.png" if args.run.is_dir() else Path("diagnosis.png")
    try:
        run = read(args.run, SHORTEST, or_fatal=True)
        refuse_unfinished(run.script)
        check_picture(figure)
    except InputError as error:
        parser.exit(2, f"error: {printable(error)}\n")
    quarters = Quarters(*run.log)
    what = state(run.script, *run.log)
    steps = len(run.training)
    found = findings(run.script, *run.log) if steps >= SHORTEST else []
    # One thing at a time: other symptoms may be those of the break, the reward or the silence.
    shaky = any(one.shown and one.symptom == "training breaks" for one in found)
    word = "healthy, but its accuracy falls" if what.word == "healthy" and shaky else what.word
    print(f"{run.name} ({run.script}.py, {steps} steps) is {word}: {what.evidence}")
    if steps < SHORTEST:
        advise(run, what.symptom, quarters)
        print(f"no symptoms: {steps} training steps logged, at least {SHORTEST} are needed")
        return
    first = what.symptom or ("training breaks" if shaky else None)
    tried = []  # commands
    for finding in sorted(found, key=lambda one: (not one.shown, one.symptom != first)):
        print(f"{'SHOWN' if finding.shown else '  -  '}  {finding.symptom}: {finding.evidence}")
        if finding.shown:
            alone = first not in (None, finding.symptom)
            tried.append(advise(run, finding.symptom, quarters, with_command=not alone))
    draw(f"{printable(args.run.name)} ({run.script}.py): {what.word}", run, found, figure)
    print(f"panels: {figure}")
    parts = composed(run.script, found, run.parts)
    if first is None and parts != levers.parts_of(run.script, run.parts):
        together = levers.with_parts(run, parts)
        if together not in tried:
            print(f"all levers as one script: {together}")


def advise(run, symptom, quarters, with_command=True):
    """Prints the lever of a symptom, and the command to try if it has one; returns that."""
    print(f"         move {SYMPTOMS[symptom].lever}")
    found = levers.command(run, SYMPTOMS[symptom], quarters) if with_command else None
    if found:
        print(f"         try  {found}")
    return found


if __name__ == "__main__":
    main()

"""Reads a run and says which symptoms it shows, how sure that is, and which axis to move.

    python -m tools.diagnose runs/grpo-seed1    # a run of any script
    python -m tools.diagnose hot_token-seed1    # a committed run, in experiments/logs/

Every symptom is a number with a threshold, both printed. The first quarter of the run is compared
with the last. The panels go to diagnosis.png in the run directory (--figure to put them elsewhere).
How often this is right on runs with planted symptoms and on healthy ones:
experiments/results.md.
"""

if __package__ != "tools":
    raise SystemExit("run it from the repository's folder: python -m tools.diagnose RUN")

import argparse
import contextlib
from pathlib import Path

from compose import composition
from experiments.curves import curve
from experiments.runs import read
from experiments.symptoms import SHORTEST, SYMPTOMS, Quarters, component_names, findings
from plots.style import COLOURS, STYLES, check_picture, legend, plt
from tasks import InputError, printable


def composed(script, found):
    """The run's script and every lever for what it shows that goes with it, as parts.

    A lever that contradicts the parts before it is left out; so is one that the script has. A run
    that breaks has none: its other symptoms may be those of the break.
    """
    if any(finding.shown and finding.symptom == "training breaks" for finding in found):
        return []
    known = {composition.short(name): name for name in composition.composable()}
    parts = [script] if f"{script}.py" in known else []
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
    figure, grid = plt.subplots(2, 5, figsize=(16, 6), layout="constrained")
    for axes, finding in zip(grid.flat, found, strict=True):
        symptom = SYMPTOMS[finding.symptom]
        for index, metric in enumerate(symptom.metrics or component_names(run.training)):
            steps, values = curve(run.rows, metric)
            look = {"color": COLOURS[index % len(COLOURS)], "ls": STYLES[index % len(STYLES)]}
            axes.plot(steps, values, **look, label=metric.replace("$", r"\$"))  # no formula
        if symptom.threshold and len(axes.lines) and len(axes.lines[0].get_xdata()):
            axes.axhline(
                symptom.threshold(quarters), color="#666666", lw=1, ls=":", label="threshold"
            )
        axes.set(title=symptom.panel, xlabel="step")
        if finding.shown:
            axes.set_title(f"{symptom.panel}\nSHOWN: {finding.symptom}", color=COLOURS[1])
            axes.spines[:].set(visible=True, color=COLOURS[1], linewidth=2)
        legend(axes)
    figure.suptitle(title.replace("$", r"\$"))
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
        run = read(args.run, SHORTEST)
        check_picture(figure)
    except InputError as error:
        parser.exit(2, f"error: {printable(error)}\n")
    found = findings(run.script, run.training)
    print(f"{run.name}: {run.script}.py, {len(run.training)} steps")
    for finding in sorted(found, key=lambda finding: not finding.shown):
        print(f"{'SHOWN' if finding.shown else '  -  '}  {finding.symptom}: {finding.evidence}")
        if finding.shown:
            print(f"         move {SYMPTOMS[finding.symptom].lever}")
    draw(f"{printable(args.run.name)}: {run.script}.py", run, found, figure)
    print(f"panels: {figure}")
    parts = composed(run.script, found)
    if parts not in ([], [run.script]):
        made = f"python -m compose {' '.join(parts)} -o mine.py"
        print(f"all levers as one script: {made} && python mine.py")


if __name__ == "__main__":
    main()

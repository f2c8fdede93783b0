"""Writes what docs/reference/atlas.csv says into the pages: python -m plots.atlas

The atlas itself (docs/reference/atlas.md), its figure, and the maps of README.md and of
docs/reference/map.md are one source.
"""

if __package__ != "plots":
    raise SystemExit("run it from the repository's folder: python -m plots.atlas")

import argparse
import csv
from dataclasses import dataclass

from compose.edits import MOVES, changed_lines
from compose.reader import AXES, EXTRAS, HERE, parent, source_of
from plots.style import COLOURS, plt, save

TABLE = HERE / "docs/reference/atlas.csv"
PAGE = HERE / "docs/reference/atlas.md"
MAP = "docs/reference/map.md"
MAPS = {  # (page, the heading above its map): the scripts of the map
    ("README.md", "The map"): ("grpo", "dr_grpo", "dapo", "gspo", "gdpo", "cispo"),
    (MAP, "The ladder"): (
        "zoo.rloo",
        "zoo.reinforce_pp",
        "zoo.reinforce_pp_baseline",
        "zoo.gmpo",
        "zoo.spo",
        "zoo.ttrl",
        "zoo.ppo",
        "zoo.vapo",
        "zoo.prime",
        "zoo.gigpo",
    ),
    (MAP, "The frontier"): (
        "zoo.tis",
        "zoo.deepseek_v32",
        "zoo.sapo",
        "zoo.dppo",
        "zoo.maxrl",
        "zoo.dro",
    ),
}


@dataclass(frozen=True)
class Row:
    """A published method: which moves it makes, where to, and what runs it here."""

    name: str
    year: str
    arxiv: str
    title: str
    moves: dict[str, str]  # a move, as compose names it: where to
    words: str
    here: str
    trl: str
    verl: str
    checked: str
    source: str

    @property
    def is_script(self):
        return self.here in SCRIPTS


SCRIPTS = {script for scripts in MAPS.values() for script in scripts}


def rows():
    """The rows of the table, in its order."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        for cells in csv.DictReader(file):
            moves = [part.strip() for part in cells.pop("axes").split(";")]
            places = [part.strip() for part in cells.pop("moved_to").split(";")]
            pairs = zip(moves, places, strict=True) if moves != ["-"] else ()
            yield Row(moves=dict(pairs), **cells)


def cell(row, axis, hub):
    """Where a row lies on an axis or extra: "=" is where grpo.py lies."""
    here = [row.moves[move] for move, name in MOVES.items() if name == axis and move in row.moves]
    return ", ".join(here) if here else hub


def escaped(text):
    return text.replace("|", "\\|")


def map_table(page, heading):
    """Lines of a map: a row for each script, the last column counts its diff."""
    by_script = {row.here: row for row in reversed(list(rows()))}  # the first that it runs
    extras = any(set(by_script[name].moves) & set(EXTRAS) for name in MAPS[page, heading])
    head = ["script", *AXES, *(["beside"] if extras else []), "diff"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in MAPS[page, heading]:
        row = by_script[name]
        cells = [cell(row, axis, "=") for axis in AXES]
        if page == "README.md":
            moved = [axis for axis in AXES if cell(row, axis, "=") != "=" and name != "grpo"]
            cells = [
                f"**{text}**" if axis in moved else text
                for axis, text in zip(AXES, cells, strict=True)
            ]
        file = f"{name.rpartition('.')[2]}.py"
        shown = f"[{file}]({file})" if page == "README.md" else file
        beside = [", ".join(extra for extra in EXTRAS if extra in row.moves)] if extras else []
        source = source_of(name)
        diff = "" if name == "grpo" else changed_lines(source_of(parent(source)), source)
        line = f"| {' | '.join(map(escaped, [shown, *cells, *beside, diff]))} |"
        lines.append(line.replace("|  |", "| |").replace("|  |", "| |"))
    return lines


def with_map(text, heading, lines):
    """A page's text with the first table below a heading replaced."""
    before, mark, after = text.partition(f"\n## {heading}\n")
    body = after.splitlines()
    first = next(i for i, line in enumerate(body) if line.startswith("|"))
    last = first
    while last < len(body) and body[last].startswith("|"):
        last += 1
    return before + mark + "\n".join([*body[:first], *lines, *body[last:]]) + "\n"


def link(row):
    """The name, linked to its paper where that has an arXiv id."""
    return f"[{row.name}](https://arxiv.org/abs/{row.arxiv})" if row.arxiv else row.name


def runs_it(row):
    """What runs a row here, as code; or why nothing does."""
    if row.is_script:
        path = f"{row.here.replace('.', '/')}.py"
        return f"[{path}](../../{path})"
    if row.here.startswith("python "):
        return f"`{row.here}`"
    if row.here.startswith("exercise "):
        return f"[{row.here}](../exercises.md)"
    if row.here.startswith("page "):
        page = f"{row.here.removeprefix('page ')}.md"
        return f"its lines are in [{page}]({page})"
    return row.here


def moved(row):
    """What a row moves and where to, in a cell."""
    return "; ".join(f"*{move.replace('_', ' ')}*: {to}" for move, to in row.moves.items())


def atlas():
    """The text of docs/reference/atlas.md."""
    found = sorted(rows(), key=lambda row: row.year)
    scripts = [row for row in found if row.is_script]
    commands = [row for row in found if not row.is_script and not row.here.startswith("not here")]
    absent = [row for row in found if row.here.startswith("not here")]
    lines = [INTRODUCTION.format(count=len(found))]
    for title, part in (
        (f"A script: {len(scripts)}", scripts),
        (f"A command, an exercise or a page: {len(commands)}", commands),
        (f"Not here, and why: {len(absent)}", absent),
    ):
        lines += ["", f"## {title}", ""]
        lines.append("| method | year | what it does | moves | run it | TRL | verl | checked |")
        lines.append("|---|---|---|---|---|---|---|---|")
        for row in part:
            cells = [link(row), row.year, row.words, moved(row) or "nothing", runs_it(row)]
            cells += [code(row.trl), code(row.verl), row.checked]
            lines.append(f"| {' | '.join(map(escaped, cells))} |")
    return "\n".join(lines) + "\n"


def code(flags):
    """Flags as code; "-" stays."""
    return "-" if flags == "-" else f"`{flags}`"


INTRODUCTION = """# The atlas

This page answers: I read about X. Where is it on the map, and what do I run?

{count} published methods and settings of the GRPO family and its kin, from the year in which each
appeared. *Moves* are the seven axes, with *length* and *std* apart, and what lies beside them. A
row says how far it was checked: whether we saw the authors' or a framework's code, only the paper,
or only what others write of it. What we saw is in [atlas.csv](atlas.csv), from which
`python -m plots.atlas` writes this page and the maps of the others. A paper that is not here takes
ten minutes: [place your own](place_your_own.md).

![Methods over time, and the axes that they move](../../plots/figures/atlas.png)"""


def draw():
    """A row for each method over time, a column for each axis; a dot where it moves."""
    found = sorted(rows(), key=lambda row: row.year)
    half = (len(found) + 1) // 2
    figure, halves = plt.subplots(1, 2, figsize=(13, 0.19 * half + 1.2), layout="constrained")
    for axes, part in zip(halves, (found[:half], found[half:]), strict=True):
        draw_rows(axes, part)
        axes.set_ylim(half - 0.3, -0.7)  # the oldest on top
    save(figure, "atlas", "Filled: runs here, as a script or a command. python -m plots.atlas")


def draw_rows(axes, part):
    """Some rows of the table, one below the other."""
    columns = [*MOVES]
    for y, row in enumerate(part):
        axes.axhline(y, color="#e4e4e4", lw=0.7, zorder=0)
        colour = "#777777" if row.here.startswith("not here") else COLOURS[0]
        style = {"color": "white" if colour == "#777777" else colour, "edgecolors": colour}
        places = [columns.index(move) for move in row.moves]
        axes.scatter(places, [y] * len(places), s=34, linewidths=1.1, **style)
    axes.set_yticks(range(len(part)), [f"{row.name}  {row.year}" for row in part], fontsize=8)
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(columns)), [move.replace("_", " ") for move in columns], fontsize=9)
    axes.tick_params(length=0)
    plt.setp(axes.get_xticklabels(), rotation=40, ha="left")
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.spines[:].set_visible(False)


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(atlas(), encoding="utf-8")
    for page, heading in MAPS:
        path = HERE / page
        text = with_map(path.read_text(encoding="utf-8"), heading, map_table(page, heading))
        path.write_text(text, encoding="utf-8")
    draw()


if __name__ == "__main__":
    main()

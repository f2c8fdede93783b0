"""Writes one self-contained page on which any two scripts stand side by side.

    python -m plots.side_by_side                     # writes docs/index.html
    python -m plots.side_by_side --screenshot a.png  # and takes a picture of it, with Chromium

Changed lines and words are marked. A hunk is labelled with the axis that its markers name; one
without a marker is part of a move that is marked elsewhere. Above stands the map, with each
script's story; below are equations and the lines that are the method, each of which leads to its
place in the code, coordinates and measured curves. Between them any position of the axes can be
chosen, and a group of completions shows what a position makes of it. The page needs no network.
Its address holds all that is chosen: #gspo..cispo&axes=dapo+gspo:granularity&group=long_wrong
"""

if __package__ != "plots":
    raise SystemExit("run it from the repository's folder: python -m plots.side_by_side")

import argparse
import ast
import difflib
import itertools
import json
import operator
import re
import shutil
from pathlib import Path

from pygments.lexers import PythonLexer
from pygments.token import Comment, Keyword, Number, Operator, String

import common
from compose.reader import (
    AXES,
    EXTRAS,
    coordinates,
    equations,
    marker,
    moved_axes,
    scripts,
    source_of,
)
from experiments.catalogue import ARMS, CRITICS, FRONTIER, SCRIPTS, ZOO
from experiments.curves import curve, load
from plots import moves, stories
from plots.critics import CRITIC_PANELS
from plots.handout import QUESTIONS
from plots.make_figures import PANELS, ZOO_PANELS, thousand_tokens
from plots.markdown import quiz
from plots.turns import TURN_PANELS

PAGE = common.HERE / "docs/index.html"
TEMPLATE = Path(__file__).with_name("side_by_side.template.html")
SCRIPT = Path(__file__).with_name("page")  # the page's own script, in this order
PARTS = ("elements", "map", "code", "curves", "compose", "group", "axes", "group_view", "start")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NAMES = tuple(dict.fromkeys((*SCRIPTS, *scripts())))  # the six first, in the order of the docs
# Classes in the page, by kind of token.
COLOURS = {Keyword: "k", Operator.Word: "k", String: "s", Comment: "c", Number: "n"}
# The run with a script's defaults.
ARM = {ARMS[name].script: name for name in (*SCRIPTS, *ZOO, *CRITICS, "gigpo", *FRONTIER)}
# What the arm is known for.
PANEL = {
    "gspo": PANELS[0],
    "cispo": PANELS[1],
    "dr_grpo": PANELS[2],
    "gdpo": PANELS[4],
    "dapo": PANELS[5],
    "gmpo": ZOO_PANELS[1],
    "rloo": ZOO_PANELS[2],
    "spo": ZOO_PANELS[4],
    "ttrl": ZOO_PANELS[5],
    "ppo": CRITIC_PANELS[0],
    "vapo": CRITIC_PANELS[1],
    "prime": CRITIC_PANELS[2],
    "gigpo": TURN_PANELS[0],
}


# ---- Source, coordinates, differences -----------------------------------------------------------


def coloured_lines(source):
    """[[(class, text), ...] for each line]; classes are those of COLOURS, '' for anything else."""
    tokens = (
        (next((name for kind, name in COLOURS.items() if token in kind), ""), text)
        for token, text in PythonLexer().get_tokens(source)
    )
    lines = [[]]
    for name, run in itertools.groupby(tokens, operator.itemgetter(0)):
        first, *others = "".join(text for _, text in run).split("\n")
        lines[-1].append((name, first))
        lines += [[(name, text)] for text in others]
    return [[part for part in line if part[1]] for line in lines[:-1]]


def word_marks(old, new):
    """Changed spans [(begin, end)] in each of two lines, whole words at a time."""
    a, b = (re.findall(r"\w+|\s+|\W", line) for line in (old, new))
    places = [list(itertools.accumulate(map(len, words), initial=0)) for words in (a, b)]
    marks = [], []
    for tag, *bounds in difflib.SequenceMatcher(None, a, b, False).get_opcodes():
        for side, (first, last) in enumerate((bounds[:2], bounds[2:])):
            if tag != "equal" and "".join((a, b)[side][first:last]).strip():
                marks[side].append((places[side][first], places[side][last]))
    return marks


def align(old, new):
    """Pairs (i, j) of two runs of changed lines, None for a line without a partner.

    The pairing with the greatest sum of similarities, of lines that are at least half alike.
    """
    best = {(len(old), j): (0, []) for j in range(len(new) + 1)}
    best |= {(i, len(new)): (0, []) for i in range(len(old) + 1)}
    for i in reversed(range(len(old))):
        for j in reversed(range(len(new))):
            ratio = difflib.SequenceMatcher(None, old[i].strip(), new[j].strip(), False).ratio()
            score, pairs = best[i + 1, j + 1]
            options = [(best[i + 1, j]), (best[i, j + 1])]
            if ratio > 0.5 and old[i].strip():
                options.append((score + ratio, [(i, j), *pairs]))
            best[i, j] = max(options, key=lambda option: option[0])
    rows = []
    i = 0
    j = 0
    for a, b in [*best[0, 0][1], (len(old), len(new))]:
        rows += [(x, None) for x in range(i, a)] + [(None, y) for y in range(j, b)]
        rows += [(a, b)] if a < len(old) else []
        i, j = a + 1, b + 1
    return rows


def hunk_label(lines, in_docstring):
    """The axes and extras that the hunk's lines are marked with, or what else it is."""
    if in_docstring:
        return "docstring"
    found = set(map(marker, lines))
    return ", ".join(filter(found.__contains__, AXES + EXTRAS)) or "part of the same move"


def differences(old, new):
    """Blocks of two sources: {equal: [i, j, count]} or {label, rows: [[i, j, marks, marks]]}.

    Line numbers count from 0; i or j is -1 where that side has no line. Blocks of the docstrings
    say so: {docstring: True}.
    """
    a, b = old.splitlines(), new.splitlines()
    heads = [ast.parse(source).body[0].end_lineno for source in (old, new)]
    blocks = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, a, b, False).get_opcodes():
        if tag == "equal":
            inside = max(0, min(heads[0] - i1, heads[1] - j1, i2 - i1))  # lines of the docstrings
            if inside:
                blocks.append({"equal": [i1, j1, inside], "docstring": True})
            if inside < i2 - i1:
                blocks.append({"equal": [i1 + inside, j1 + inside, i2 - i1 - inside]})
            continue
        rows = []
        for i, j in align(a[i1:i2], b[j1:j2]):
            paired = i is not None and j is not None
            marks = word_marks(a[i1 + i], b[j1 + j]) if paired else ([], [])
            rows.append([-1 if i is None else i1 + i, -1 if j is None else j1 + j, *marks])
        in_docstring = i1 < heads[0] and j1 < heads[1]
        label = hunk_label(a[i1:i2] + b[j1:j2], in_docstring)
        blocks.append({"label": label, "rows": rows})
        if in_docstring:
            blocks[-1]["docstring"] = True
    return blocks


# ---- Curves -------------------------------------------------------------------------------------


def rounded(line):
    """[[x, ...], [y, ...]] with four digits: the same on every machine, and short."""
    return [[float(f"{value:.4g}") for value in part] for part in line]


def curves(arm):
    """Numbers to draw, by seed: accuracy by tokens, length by steps, what the arm is known for.

    None without logs of the arm.
    """
    runs = load(arm).values()
    if not runs:
        return None
    accuracy = []
    for rows in runs:
        steps, values = curve(rows, "eval_accuracy")
        accuracy.append(rounded([[thousand_tokens(rows, step) for step in steps], values]))
    found = {"accuracy": accuracy, "length": seeds_of(arm, "length")}
    if arm in PANEL:
        title, unit, lines = PANEL[arm]
        drawn = [{"label": label, "seeds": seeds_of(a, metric)} for a, metric, label in lines]
        found["known"] = {"title": title, "unit": unit, "lines": drawn}
    return found


def seeds_of(arm, metric):
    """[[steps, values] of each seed], up to step 30; without seeds that have none."""
    found = [curve(rows, metric) for rows in load(arm).values()]
    return [rounded([x[x <= 30], y[x <= 30]]) for x, y in found if len(x)]


# ---- The page -----------------------------------------------------------------------------------


def page(names=NAMES):
    """The text of the page: the template with everything that it shows as JSON."""
    sources = {name: source_of(name) for name in names}
    lines = {}  # each line once, as scripts share most of theirs: {its JSON: its index}

    def index_of(line):
        return lines.setdefault(json.dumps(line), len(lines))

    described = {
        name: {
            "file": f"{name.replace('.', '/')}.py",
            "title": source.partition("\n")[0].strip('".'),
            "lines": [index_of(line) for line in coloured_lines(source)],
            "coordinates": coordinates(source),
            "equations": equations(source),
            "moved": [axis for axis in AXES if axis in moved_axes(source, sources["grpo"])],
            **stories.described(name),
        }
        for name, source in sources.items()
    }
    pairs = {  # the page turns them round for the other order
        f"{a}..{b}": differences(sources[a], sources[b])
        for a, b in itertools.combinations(names, 2)
    }
    data = {
        "axes": AXES,
        "extras": EXTRAS,
        "questions": QUESTIONS,
        "places": stories.places(names),
        "lines": [json.loads(line) for line in lines],
        "scripts": described,
        "pairs": pairs,
        "curves": {name: curves(ARM[name]) for name in names if name in ARM},
        "compose": moves.described(names),
    }
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # no tag, no comment
    script = "\n".join((SCRIPT / f"{part}.js").read_text(encoding="utf-8") for part in PARTS)
    template = TEMPLATE.read_text(encoding="utf-8").replace("SCRIPT", script, 1)
    return template.replace("QUIZ", quiz(), 1).replace("DATA", text, 1)


def chromium():
    """Path of an installed Chromium, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def take_screenshot(path, picture):
    """The page at GRPO against GSPO, scrolled to the last change; needs Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000}, color_scheme="light")
        page.goto(f"{path.resolve().as_uri()}#grpo..gspo")
        page.keyboard.press("p")
        page.screenshot(path=picture)
        browser.close()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=PAGE)
    parser.add_argument("--screenshot", type=Path, help="a picture of the page, for the README")
    args = parser.parse_args()
    if args.screenshot and not chromium():
        parser.error(f"--screenshot: install Chromium, none of {', '.join(BROWSERS)} is here")
    args.output.write_text(page(), encoding="utf-8")
    if args.screenshot:
        take_screenshot(args.output, args.screenshot)
    print(f"open {args.output} in a browser ({args.output.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()

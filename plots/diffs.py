"""Writes docs/reference/diffs.md, each script's diff against its parent: python -m plots.diffs"""

if __package__ != "plots":
    raise SystemExit("run it from the repository's folder: python -m plots.diffs")

import argparse
import re

from compose.edits import changed_lines, matched
from compose.reader import (
    AXES,
    EXTRAS,
    HERE,
    code_lines,
    docstring_length,
    docstring_of,
    moved_axes,
    parent,
    short,
    source_of,
)
from plots.atlas import MAPS

PAGE = HERE / "docs/reference/diffs.md"
CONTEXT = 3  # unchanged lines around a change, as in git diff
INTRODUCTION = """# The diffs

This page answers: which lines of code turn one method into another?

Each diff is a whole method, because every line that it does not show is, word for word, a line of
the script that it is compared with. Only the docstring, which states the equation, is left out. A
comment `# <- AXIS` in a changed block names the axis that it moves on. [The methods](../methods.md)
say why one would move there, and [the map](map.md) says where each script lies.
"""
NEXT = """
**Run next:** `git diff --no-index grpo.py gspo.py` prints one of these diffs in a clone, docstring
included, and [the page](../index.html) puts any two scripts side by side.
"""


def compared():
    """The scripts of the maps, in their order, each with the script that it is compared with."""
    shown = [script for scripts in MAPS.values() for script in scripts if script != "grpo"]
    return [(script, parent(source_of(script))) for script in shown]


def moves(script, hub):
    """What a script moves against another, in the order of the map."""
    found = moved_axes(source_of(script), source_of(hub))
    return ", ".join(name for name in AXES + EXTRAS if name in found)


def link(script):
    return f"[{short(script)}](../../{script.replace('.', '/')}.py)"


def hunks(old_source, new_source):
    """Lines of a diff of two scripts' code, as `git diff` prints them."""
    old, new = code_lines(old_source), code_lines(new_source)
    skipped = [docstring_length(source) for source in (old_source, new_source)]
    lines = []
    for hunk in matched(old, new).get_grouped_opcodes(CONTEXT):
        ranges = []
        for first, (start, end) in zip(skipped, bounds(hunk), strict=True):
            ranges.append(f"{first + start + 1},{end - start}")
        change = next(part for part in hunk if part[0] != "equal")
        place = (old[change[1] : change[2]] or new[change[3] : change[4]])[0][1]
        head = re.search(rf"^(?:def|class) {place}\b.*", old_source, re.MULTILINE)
        lines.append(f"@@ -{ranges[0]} +{ranges[1]} @@ {head[0] if head else ''}")
        for tag, a, b, c, d in hunk:
            lines += [f"{' ' if tag == 'equal' else '-'}{line}" for line, _ in old[a:b]]
            lines += [f"+{line}" for line, _ in new[c:d] if tag != "equal"]
    return [line.rstrip() for line in lines]


def bounds(hunk):
    """[(first, last + 1)] of a hunk's lines, in the old code and in the new."""
    first, last = hunk[0], hunk[-1]
    return [(first[1], last[2]), (first[3], last[4])]


def page():
    """The text of docs/reference/diffs.md."""
    index = ["| script | against | moves | diff |", "|---|---|---|---|"]
    body = []
    for script, hub in compared():
        sources = source_of(hub), source_of(script)
        count, name = changed_lines(*sources), short(script)
        moved, anchor = moves(script, hub), name.replace(".", "")
        index.append(f"| [{name}](#{anchor}) | {link(hub)} | {moved} | {count} |")
        title = docstring_of(sources[1]).partition("\n")[0]
        body += ["", f"## {name}", "", title, ""]
        body += [f"Moves {moved}:", f"{count} lines against {link(hub)}."]
        body += ["", "```diff", *hunks(*sources), "```"]
    return "\n".join([INTRODUCTION, *index, *body]) + "\n" + NEXT


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()

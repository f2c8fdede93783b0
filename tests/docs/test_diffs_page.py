"""docs/reference/diffs.md: of the scripts as they are, each line where the page says it is."""

import re

import pytest

from compose.contract import CONTRACT
from compose.edits import changed_lines
from compose.reader import source_of
from plots import diffs

COMPARED = pytest.mark.parametrize(("script", "hub"), diffs.compared())


def test_the_page_is_current():
    assert diffs.PAGE.read_text(encoding="utf-8") == diffs.page(), "run python -m plots.diffs"


def test_every_script_is_shown():
    assert {script for script, _ in diffs.compared()} >= set(CONTRACT) - {"grpo"}


@COMPARED
def test_lines_stand_where_their_hunk_says(script, hub):
    """`@@ -56,7 +57,6 @@` counts from the top of both files, docstrings included."""
    files = {"-": source_of(hub).splitlines(), "+": source_of(script).splitlines()}
    at = {}
    for line in diffs.hunks(source_of(hub), source_of(script)):
        found = re.match(r"@@ -(\d+),\d+ \+(\d+),\d+ @@", line)
        if found:
            at = {"-": int(found[1]), "+": int(found[2])}
            continue
        for side in line[0] if line[:1] in ("-", "+") else "-+":
            assert files[side][at[side] - 1].rstrip() == line[1:]
            at[side] += 1


@COMPARED
def test_no_change_is_left_out(script, hub):
    lines = diffs.hunks(source_of(hub), source_of(script))
    added, removed = (sum(line[:1] == sign for line in lines) for sign in "+-")
    assert f"+{added} -{removed}" == changed_lines(source_of(hub), source_of(script))

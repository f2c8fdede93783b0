"""docs/reference/atlas.csv: rows have sources, commands compose, the pages are of the table."""

import re
import shlex

import pytest

from common import HERE
from compose import composition
from compose.edits import MOVES, edits_of
from compose.reader import parent, source_of
from compose.rules import PRESETS
from plots import atlas

ROWS = list(atlas.rows())
COMMANDS = [row for row in ROWS if row.here.startswith("python ")]


def test_the_atlas_is_large_and_every_row_says_where_it_comes_from():
    assert len(ROWS) >= 40 and len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row.source.strip() and row.words.strip() and len(row.words) <= 100, row.name
        assert row.checked in ("code seen", "paper seen", "secondary"), row.name
        assert re.fullmatch(r"20\d\d(-(0[1-9]|1[0-2]))?", row.year), row.name
        assert re.fullmatch(r"(\d{4}\.\d{4,5})?", row.arxiv), row.name
        assert set(row.moves) <= set(MOVES), row.name
        assert all(row.moves.values()), row.name


def test_what_runs_a_row_is_there():
    exercises = (HERE / "docs/exercises.md").read_text(encoding="utf-8")
    for row in ROWS:
        if row.here.startswith("exercise "):
            assert f"\n## {row.here.removeprefix('exercise ')}. " in exercises, row.name
        elif row.here.startswith("page "):
            page = HERE / f"docs/reference/{row.here.removeprefix('page ')}.md"
            assert row.arxiv in page.read_text(encoding="utf-8"), row.name
        elif row.here.startswith("not here: "):
            assert 0 < len(row.here.removeprefix("not here: ")) <= 60, row.name
        else:
            assert row.is_script or row in COMMANDS, row.name


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row.name)
def test_every_command_composes(row):
    """As it stands in the table, but that nothing is written."""
    words = shlex.split(row.here)
    assert words[:3] == ["python", "-m", "compose"] and words[-2] == "-o", row.here
    parts = words[3:-2]
    if parts[0] == "--preset":
        preset = PRESETS[parts[1]]
        composition.compose(preset.parts.split(), preset)
    else:
        composition.compose(parts)


@pytest.mark.parametrize("script", sorted(atlas.SCRIPTS))
def test_a_script_moves_what_its_row_says(script):
    row = next(row for row in ROWS if row.here == script)
    if script == "grpo":
        assert len(row.moves) == 8  # its own places
        return
    moved = {edit.move for edit in edits_of(script)}
    if parent(source_of(script)) != "grpo":  # its row compares it with grpo.py too
        moved |= {edit.move for edit in edits_of(parent(source_of(script)))}
        assert set(row.moves) <= moved
        return
    assert set(row.moves) == moved


def test_the_pages_are_of_the_table():
    """README's map, the ladder's, the frontier's and the atlas: python -m plots.atlas"""
    assert atlas.PAGE.read_text(encoding="utf-8") == atlas.atlas()
    for page, heading in atlas.MAPS:
        text = (HERE / page).read_text(encoding="utf-8")
        assert text == atlas.with_map(text, heading, atlas.map_table(page, heading)), page

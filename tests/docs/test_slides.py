"""The slides: few, with notes, what they show is the code's and the book's, and the PDF is theirs.

Links, pictures and commands of slides.md are checked with those of all pages, in test_docs.py.
"""

import re

import pypdf

from common import HERE
from compose.reader import source_of

TEXT = (HERE / "docs/class/slides.md").read_text(encoding="utf-8")
_, STYLE, BODY = re.split(r"^---$", TEXT, maxsplit=2, flags=re.MULTILINE)
SLIDES = re.split(r"^---$", BODY, flags=re.MULTILINE)
SOLUTIONS = (HERE / "docs/solutions.md").read_text(encoding="utf-8")


def title(slide):
    """Its one heading."""
    (found,) = re.findall(r"^# (.+)$", slide, re.MULTILINE)
    return found


def notes(slide):
    """What the teacher says: comments that are no directive."""
    return "".join(re.findall(r"<!--\n(.+?)-->", slide, re.DOTALL))


def test_there_are_few_and_each_has_notes():
    assert "marp: true" in STYLE and 15 <= len(SLIDES) <= 20
    assert [title(slide) for slide in SLIDES if len(notes(slide).split()) < 15] == []
    exercises = [title(slide) for slide in SLIDES if "_class: exercise" in slide]
    assert [name.partition(":")[0] for name in exercises[1:]] == [
        f"Exercise {number}" for number in (4, 1, 16)
    ]


def test_the_pdf_is_theirs():
    """One page a slide, in their order; else write it anew, as room.md says."""
    path = HERE / "docs/class/slides.pdf"
    assert path.stat().st_size < 2_000_000
    pages = pypdf.PdfReader(path).pages
    assert len(pages) == len(SLIDES)

    def letters(text):
        return re.sub(r"[\W_]", "", re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL))

    for number, (page, slide) in enumerate(zip(pages, SLIDES, strict=True), 1):
        shown = re.sub(r"!?\[(.*?)\]\(.*?\)|^```\w*$", r"\1", slide, flags=re.MULTILINE)
        shown = re.sub(r"^\|[-|]+\|$|^\d\. |^h:\d+|^w:\d+", "", shown, flags=re.MULTILINE)
        printed = re.sub(r"^\d\.", "", page.extract_text(), flags=re.MULTILINE)
        assert sorted(letters(printed)) == sorted(letters(shown) + str(number)), title(slide)


def test_numbers_are_the_books():
    """A row of a table of ranges, or of what gives a fault away, is solutions.md's."""
    rows = [line for line in TEXT.splitlines() if line.startswith("| `") and " to " in line]
    assert len(rows) == 6 and all(row in SOLUTIONS for row in rows)
    (faults,) = [slide for slide in SLIDES if title(slide).endswith("what gives each away")]
    found = re.findall(r"^\| ([a-e]) \| (.+) \|$", faults, re.MULTILINE)
    assert len(found) == 5
    for patch, number in found:
        assert re.search(rf"^\| {patch} \| .+ \| {re.escape(number)} \|", SOLUTIONS, re.M)


def test_the_diff_is_of_the_scripts():
    """Where a line leaves something out it says so with three dots."""
    sources = {"-": source_of("grpo"), "+": source_of("gspo")}
    (block,) = re.findall(r"^```diff\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    lines = [line for line in block.splitlines() if line]
    assert len(lines) == 7
    for line in lines:
        pattern = ".*".join(re.escape(part.strip()) for part in line[1:].split("..."))
        assert re.search(re.sub(r"(\\ )+", r"\\s+", pattern), sources[line[0]]), line


def test_what_a_token_weighs_is_the_notebooks():
    notebook = (HERE / "docs/lesson.ipynb").read_text(encoding="utf-8")
    for script in ("grpo", "dr_grpo", "dapo"):
        (row,) = re.findall(rf"^\| .+: {script}\.py \| (.+) \|$", TEXT, re.MULTILINE)
        for weight in row.split(" | "):
            assert f"tokens: one {weight} " in notebook

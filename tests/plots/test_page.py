"""The side-by-side page: what it says of the scripts is true, and it works in a browser."""

import html
import re

import pytest

from common import HERE
from compose import reader
from compose.contract import CONTRACT, violations
from compose.reader import equations, method_in_code, source_of, without_comment
from experiments.catalogue import FRONTIER
from plots import handout, make_figures, side_by_side, stories
from plots.markdown import section
from plots.side_by_side import NAMES
from tests.plots.conftest import SCREENS, opened

DOCUMENTED = tuple(filter(stories.is_documented, NAMES))
QUESTIONS = (HERE / "docs/questions.md").read_text(encoding="utf-8")


@pytest.fixture
def documented(name):
    """A script that a student writes in exercise 7 is in no document, and need not be."""
    if name not in CONTRACT or not stories.is_documented(name):  # a copy has another's title
        pytest.skip(f"{name} has no section in docs/methods.md")


def shown_rows(*names):
    """How many rows two scripts take side by side."""
    left, right = sorted(names, key=NAMES.index)  # the order in which the page holds them
    blocks = side_by_side.differences(source_of(left), source_of(right))
    return sum(block["equal"][2] if "equal" in block else len(block["rows"]) for block in blocks)


@pytest.mark.parametrize("name", NAMES)
def test_colours_lose_no_character(name):
    """A page of code that is not the code is worse than none."""
    source = source_of(name)
    lines = side_by_side.coloured_lines(source)
    assert ["".join(text for _, text in line) for line in lines] == source.splitlines()
    assert [("k", "import"), ("", " torch")] in lines
    kinds = {text: kind for line in lines for kind, text in line}
    assert kinds["def"] == "k" and kinds["0.0"] == "n" and kinds["# Model"] == "c"


def skip_if_broken(name):
    """A script that is being written: what it lacks is said once, by the contract's own test."""
    if violations(name, source_of(name)):
        pytest.skip("it breaks the diff contract: tests/core/test_diffs.py says where")


@pytest.mark.parametrize("name", NAMES[1:])
def test_blocks_hold_both_sources(name):
    """Every line once and in order, marks inside their line; labels name the axes that move."""
    skip_if_broken(name)
    source = source_of(name)
    parent = source_of(reader.parent(source))
    old, new = parent.splitlines(), source.splitlines()
    left, right, labels = [], [], set()
    for block in side_by_side.differences(parent, source):
        if "equal" in block:
            i, j, count = block["equal"]
            assert old[i : i + count] == new[j : j + count]
            left += range(i, i + count)
            right += range(j, j + count)
            continue
        labels |= set(block["label"].split(", "))
        for i, j, *marks in block["rows"]:
            left += [i] if i >= 0 else []
            right += [j] if j >= 0 else []
            for line, spans in zip((old[i], new[j]), marks, strict=True):
                assert all(0 <= begin < end <= len(line) for begin, end in spans)
    assert left == list(range(len(old))) and right == list(range(len(new)))
    moved = reader.moved_axes(source, parent)
    assert labels - {"docstring", "part of the same move"} == moved


def test_words_are_marked():
    """Whole words, or a reader sees a changed letter and not the change."""
    old, new = "    return ratio * mask, low", "    return ratios * mask, low + high"
    first, second = side_by_side.word_marks(old, new)
    assert [old[a:b] for a, b in first] == ["ratio"]
    assert [new[a:b].strip() for a, b in second] == ["ratios", "+ high"]


def test_alignment_pairs_what_is_alike():
    """Two versions of a line stand side by side, also where a line was added above."""
    rows = side_by_side.align(["import os", "b = two(y)"], ["# note", "b = two(y, z)"])
    assert (1, 1) in rows and (0, None) in rows and (None, 0) in rows


@pytest.mark.parametrize("name", NAMES)
def test_equations(name):
    """All of the docstring's and nothing else."""
    lines, source = side_by_side.equations(source_of(name)), source_of(name)
    assert all(f"    {line}\n" in source for line in lines)
    assert any(line.startswith("A_i") for line in lines)
    assert any(line.startswith("L    = ") for line in lines)
    before, after = source.split(f"    {lines[0]}\n")[0], source.split(f"    {lines[-1]}\n")[1]
    assert before.endswith("baseline:\n\n") and after.startswith("\nCoordinates")


@pytest.mark.parametrize(
    ("phrase", "there", "missing"),
    [
        ("beta", "grpo gspo gdpo zoo.gmpo zoo.rloo", "dr_grpo dapo cispo"),
        ("clip(", "grpo dr_grpo dapo gspo gdpo zoo.rloo", "cispo zoo.gmpo"),
        ("exp(", "gspo zoo.gmpo", "grpo dr_grpo dapo gdpo cispo zoo.rloo"),
        ("std", "grpo dapo gspo gdpo cispo zoo.spo", "dr_grpo zoo.rloo"),
    ],
)
def test_equations_show_what_sets_a_script_apart(phrase, there, missing):
    for name in f"{there} {missing}".split():
        text = "\n".join(side_by_side.equations(source_of(name)))
        assert (phrase in text) == (name in there.split()), name


def test_curves_of_a_script_without_logs(monkeypatch):
    """A script that has not run yet is on the page; only its curves are missing."""
    with monkeypatch.context() as patch:
        patch.setattr(side_by_side, "load", lambda arm: {})
        assert side_by_side.curves("gspo") is None
    found = side_by_side.curves("gspo")
    assert len(found["accuracy"]) == 10 and found["accuracy"][0][0][0] == 0
    assert found["length"][0][0] == list(range(1, 31)) and len(found["known"]["lines"]) == 2
    assert side_by_side.ARM["zoo.rloo"] == "rloo" and side_by_side.ARM["gspo"] == "gspo"


# ---- The map and the stories --------------------------------------------------------------------


def test_what_ran_is_documented():
    """Or tests of documents would skip a method whose section has gone."""
    assert set(side_by_side.ARM) <= set(DOCUMENTED)


@pytest.mark.usefixtures("documented")
@pytest.mark.parametrize("name", NAMES)
def test_map_coordinates_and_tracks_are_one(name):
    """A script moves an axis in the tables, in the figures and by its coordinates, or in none."""
    source = source_of(name)
    moved = reader.moved_axes(source, source_of("grpo"))
    tracks = make_figures.ZOO_TRACKS if "." in name else make_figures.AXIS_TRACKS
    if name.removeprefix("zoo.") in FRONTIER:
        tracks = make_figures.FRONTIER_TRACKS
    for axis, cell in zip(reader.AXES, stories.places([name])[name], strict=False):
        track = list(tracks[axis])
        assert (track.index(reader.coordinates(source)[axis]) != 0) == (axis in moved), axis
        if name != "grpo":
            assert (cell == "=") == (axis not in moved), axis
        if "." not in name:
            assert cell.startswith("<strong>") == (axis in moved), axis


@pytest.mark.slow
@pytest.mark.usefixtures("documented")
@pytest.mark.parametrize("name", NAMES)
def test_every_script_has_a_story(name):
    """From problem to trap; its equations lead to lines that compute them."""
    found = stories.described(name)
    assert [title for title, _ in found["story"]] == [
        "Problem",
        "Change",
        "Reach for it when",
        "Trap",
    ]
    assert all(len(text) > 30 for _, text in found["story"])
    assert found["effects"] and all(len(row) == 6 for row in found["effects"])
    lines = source_of(name).splitlines()
    loss = next(i for i, text in enumerate(equations(source_of(name))) if text.startswith("L "))
    assert ".sum() / num_" in lines[found["computed"][loss] - 1]  # of aggregate_loss
    assert sum(map(bool, found["computed"])) >= 3
    used = {symbol for symbol, _ in found["symbols"]}
    assert {"pi", "L"} <= used and ("beta" in used) == (
        "beta" in " ".join(equations(source_of(name)))
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_method_leads_to_code(name):
    """Line numbers of the page are those of the file."""
    skip_if_broken(name)
    lines = source_of(name).splitlines()
    found = [without_comment(lines[at - 1]) for at in stories.quoted_at(name)]
    assert found == method_in_code(source_of(name))
    assert found or not stories.is_documented(name)


def test_flags_and_questions():
    """As docs/reference/map.md has them; a method that a library lacks has none."""
    assert (
        stories.flags("gspo")["TRL"][0]
        == "<code>importance_sampling_level=&quot;sequence&quot;</code>"
    )
    assert stories.flags("zoo.ttrl") == {"TRL": [], "verl": []}
    assert len(stories.flags("zoo.gmpo")["verl"]) == 2
    asked = dict(stories.questions("gspo"))
    assert asked["Token or sequence ratio?"] == "questions.md#the-loss"
    headings = [line for line in QUESTIONS.splitlines() if line.startswith("## ")]
    anchors = {"#" + heading[3:].lower().replace(" ", "-") for heading in headings}
    linked = {address for name in NAMES for _, address in stories.questions(name)}
    assert {address.removeprefix("questions.md") for address in linked} <= anchors


# ---- In a browser -------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_committed_page_is_up_to_date():
    """After a change to a script, a log or a page of docs: python -m plots.side_by_side"""
    assert side_by_side.PAGE.read_text(encoding="utf-8") == side_by_side.page(DOCUMENTED)
    assert side_by_side.PAGE.stat().st_size < 1.5e6  # it opens at once, from a mail too


@pytest.mark.slow
@SCREENS
def test_nothing_is_wider_than_the_screen(page):
    """But what says with a shadow that it scrolls in its own box."""
    width = page.viewport_size["width"]
    for name in DOCUMENTED:
        page.locator("#map").get_by_role(
            "button", name=f"{name.partition('zoo.')[2] or name}.py", exact=True
        ).click()
        page.select_option("#left", name)
        page.select_option("#right", "cispo")
        assert page.locator("#code .row").count() == shown_rows(name, "cispo")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        too_wide = page.evaluate(
            """() => [...document.querySelectorAll("pre, #code .cell, #story p, figure")].filter(
                box => box.scrollWidth > box.clientWidth + 1 && box.offsetParent).length"""
        )
        assert too_wide == 0


@pytest.mark.slow
@SCREENS
def test_code_comes_first(page):
    """The docstring is folded, and `next` goes from code to code."""
    blocks = side_by_side.differences(source_of("grpo"), source_of("gspo"))
    changes = sum("rows" in block and "docstring" not in block for block in blocks)
    assert changes == 2 < sum("rows" in block for block in blocks)
    assert not page.locator("#code .docstring .hunk").first.is_visible()
    for step, axis in ((1, "clip width"), (2, "granularity"), (1, "clip width")):
        page.keyboard.press("n")
        assert page.inner_text("#where") == f"change {step} of {changes}: {axis}"
        label = page.evaluate("document.activeElement.getAttribute('aria-label')")
        assert label == page.inner_text("#where")
    page.keyboard.press("p")
    assert page.inner_text("#where").startswith(f"change {changes} of {changes}")
    page.locator("#code .docstring > summary").click()
    assert page.locator("#code .docstring .hunk").first.is_visible()


@pytest.mark.slow
def test_pairs(page):
    """Both orders, any two, by key, by address and by menu."""
    page.keyboard.press("s")
    assert page.evaluate("location.hash") == "#gspo..grpo"
    page.evaluate("location.hash = '#grpo..rloo'")
    page.wait_for_function("document.getElementById('right').value === 'zoo.rloo'")
    assert page.inner_text("#about-right h3").endswith("(zoo/rloo.py)")
    page.select_option("#right", "zoo.ttrl")
    assert page.locator("#about-right tr.differs").all_inner_texts() == [
        "reward\tagreement with the group's majority: no axis, and no label"
    ]
    page.select_option("#right", "zoo.rloo")
    assert page.locator("#charts figcaption").first.inner_text().split() == ["grpo.py", "rloo.py"]
    assert page.locator("#charts figure").count() == 3


@pytest.mark.slow
def test_equations_lead_to_code(page):
    """What differs is marked; a click unfolds the line that computes it."""
    old, new = (equations(source_of(script)) for script in ("grpo", "gspo"))
    shown = page.locator("#about-right pre:not(.method) button")
    assert [line.rstrip() for line in shown.all_text_contents()] == new
    marked = page.locator("#about-right pre:not(.method) .differs").all_text_contents()
    assert marked == [line for line in new if line not in old]
    shown.nth(0).click()
    line = stories.computed_at("gspo")[0]
    focused = page.evaluate("document.activeElement.id")
    assert focused == f"right-{line}" and page.locator(f"#{focused}").is_visible()
    assert "centred / (pooled.std(1" in page.inner_text(f"#{focused}")


@pytest.mark.slow
@SCREENS
@pytest.mark.parametrize("pair", ["grpo..gspo", "gspo..grpo"])  # a changed line, and a folded one
def test_the_method_is_a_key_away(page, pair):
    """By its key, by the button in the head and by the quoted lines: the keyboard is enough."""
    script = pair.partition("..")[2]
    quoted = method_in_code(source_of(script))
    places = stories.quoted_at(script)
    line = page.locator(":focus .text")
    page.evaluate(f"location.hash = '#{pair}'")
    page.wait_for_function(f"document.getElementById('right').value === '{script}'")
    page.keyboard.press("m")
    assert line.is_visible() and without_comment(line.inner_text()) == quoted[0]
    assert page.inner_text("#where") == f"the method: line {places[0]} of {script}.py"
    for text, at in zip(quoted, places, strict=True):
        button = page.get_by_role("button", name=f"{text}, line {at} of {script}.py", exact=True)
        page.locator("#about-right").locator(button).press("Enter")
        assert line.is_visible() and without_comment(line.inner_text()) == text
    page.get_by_role("button", name="the method", exact=True).press("Enter")
    assert line.is_visible() and without_comment(line.inner_text()) == quoted[0]


@pytest.mark.slow
def test_a_script_without_documents(browser, tmp_path, monkeypatch):
    """As in exercise 7: the page has its code, its coordinates and its method, and no story."""
    (tmp_path / "zoo").mkdir()
    source = source_of("grpo")
    moved = source.replace("GRPO: Group", "MINE: Soft", 1).replace("symmetric, 0.2", "soft", 1)
    (tmp_path / "grpo.py").write_text(source, encoding="utf-8")
    (tmp_path / "zoo/mine.py").write_text(moved, encoding="utf-8")
    monkeypatch.setattr(reader, "HERE", tmp_path)
    path = tmp_path / "page.html"
    path.write_text(side_by_side.page(["grpo", "zoo.mine"]), encoding="utf-8")
    with opened(browser, path, "grpo..mine") as page:
        page.locator("#map").get_by_role("button", name="mine.py").press("Enter")
        told = page.locator("#story > *").all_inner_texts()
        leads = ["move the axes from here", "its code against grpo.py"]
        assert told == ["MINE (zoo/mine.py)", *leads]
        row = page.locator("#map tr.chosen").inner_text().split("\t")
        assert row == ["mine.py", "=", "soft", "=", "=", "=", "=", "=", ""]
        page.keyboard.press("m")
        assert page.inner_text("#where").endswith("of zoo/mine.py")
        assert page.locator("#charts figcaption").first.inner_text() == "grpo.py"


@pytest.mark.slow
@SCREENS
def test_the_map_answers(page):
    """An axis lists who moves it, a script tells its story; the keyboard is enough."""
    page.get_by_role("button", name="KL", exact=True).focus()
    page.keyboard.press("Enter")
    movers = page.locator("#story li button").all_inner_texts()
    wanted = [n for n in DOCUMENTED if "KL" in reader.moved_axes(source_of(n), source_of("grpo"))]
    assert movers == [f"{name.rpartition('.')[2]}.py" for name in wanted]
    assert page.evaluate("document.activeElement.textContent") == "KL"
    page.locator("#story li button").first.focus()
    page.keyboard.press("Enter")
    assert page.inner_text("#story h3 >> nth=0") == "Dr. GRPO (dr_grpo.py)"
    assert "scale_rewards" in page.inner_text("#story")
    page.get_by_role("button", name="its code against grpo.py").press("Enter")
    assert page.evaluate("location.hash") == "#grpo..dr_grpo"
    assert page.inner_text("#title") == "grpo.py and dr_grpo.py"
    page.keyboard.press("Enter")  # the focus is on `next`
    assert page.inner_text("#where").startswith("change 1 of")


# ---- The handout --------------------------------------------------------------------------------


def test_the_handout_is_up_to_date():
    """Its equations and tables are those of grpo.py and of the README."""
    assert handout.PAGE.read_text(encoding="utf-8") == handout.handout()
    assert tuple(handout.QUESTIONS) == reader.AXES
    text = handout.handout()
    assert "<td>gspo.py<td><strong>sequence ratio</strong>" in text and "none: the budget" in text
    assert "L    = 1/G sum_i" in text and "](" not in text and "**" not in text


@pytest.mark.parametrize("heading", handout.EXERCISES)
def test_the_handout_has_the_exercises_of_a_lesson(heading):
    """Those that lesson.md times, with their commands, and not what there is to learn."""
    lesson = (HERE / "docs/lesson.md").read_text(encoding="utf-8")
    assert f"| **exercise {heading.partition('.')[0]}**" in lesson
    text = html.unescape(handout.exercise(heading))
    blocks = re.findall(r"^```bash\n(.*?)^```", section("docs/exercises.md", heading), re.M | re.S)
    assert len(blocks) >= 2 and all(block in text for block in blocks)
    assert text.count("I predict:") == 2 and "Learnt" not in text


@pytest.mark.slow
def test_the_handout_prints_on_two_sides(browser):
    """A4, margins included; the exercises begin the second."""
    page = browser.new_page()
    page.goto(handout.PAGE.as_uri())
    printed = page.pdf(prefer_css_page_size=True)
    page.close()
    assert printed.count(b"/Type /Page\n") == 2


@pytest.mark.slow
@SCREENS
def test_the_quiz_keeps_its_answers_closed(page):
    questions = page.locator("#quiz > details")
    assert questions.count() == 10
    for number in range(10):
        question = questions.nth(number)
        answer = question.locator("details > p").first
        assert not answer.is_visible()
        question.locator("> summary").press("Enter")
        question.locator("> details > summary").press("Enter")
        assert re.match("[A-D]\\.", answer.inner_text())

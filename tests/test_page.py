"""The side-by-side page: what it says of the scripts is true, and it works in a browser."""

import pytest

from plots import axes, handout, side_by_side
from plots.axes import source_of
from plots.side_by_side import NAMES


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


@pytest.mark.parametrize("name", NAMES[1:])
def test_blocks_hold_both_sources(name):
    """Every line once and in order, marks inside their line; labels name the axes that move."""
    source = source_of(name)
    parent = source_of(axes.parent(source))
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
    moved = axes.moved_axes(source, parent)
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


def test_charts_of_a_script_without_logs():
    """A script that has not run yet is on the page; only its curves are missing."""
    assert side_by_side.charts("never run") == []
    assert all(chart.startswith("<svg") for chart in side_by_side.charts("gspo"))
    assert side_by_side.ARM["zoo.rloo"] == "rloo" and side_by_side.ARM["gspo"] == "gspo"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(side_by_side.page(), encoding="utf-8")
    assert path.stat().st_size < 2e6  # it opens at once, from a mail too
    return path


@pytest.mark.skipif(not side_by_side.chromium(), reason="no Chromium on this machine")
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_page_in_a_browser(width, scheme, page_file):
    """No error, no sideways scrolling, pairs open in both orders, keys move between changes."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=side_by_side.chromium(), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        problems = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        requested = []
        page.on("request", lambda request: requested.append(request.url.partition("#")[0]))
        page.goto(f"{page_file.as_uri()}#grpo..gspo")
        changes = page.locator(".hunk").count()
        assert changes == sum(
            "rows" in block
            for block in side_by_side.differences(source_of("grpo"), source_of("gspo"))
        )
        old, new = (side_by_side.equations(source_of(script)) for script in ("grpo", "gspo"))
        assert page.inner_text("#about-right pre").rstrip() == "\n".join(new)
        marked = page.locator("#about-right pre .differs").all_inner_texts()
        assert [line.rstrip() for line in marked] == [line for line in new if line not in old]
        page.keyboard.press("n")
        assert page.inner_text("#where").startswith(f"change 1 of {changes}")
        page.keyboard.press("p")
        assert page.inner_text("#where").startswith(f"change {changes} of {changes}")
        label = page.evaluate("document.activeElement.getAttribute('aria-label')")
        assert label.endswith("granularity")
        page.keyboard.press("s")
        assert page.evaluate("location.hash") == "#gspo..grpo"
        page.evaluate("location.hash = '#grpo..rloo'")
        page.wait_for_function("document.getElementById('right').value === 'zoo.rloo'")
        assert page.inner_text("#about-right h2").endswith("(zoo/rloo.py)")
        page.select_option("#right", "zoo.ttrl")
        assert page.locator("#about-right tr.differs").all_inner_texts() == [
            "reward\tagreement with the group's majority: no axis, and no label"
        ]
        for name in NAMES:
            page.select_option("#left", name)
            page.select_option("#right", "cispo")
            assert page.locator("#code .row").count() == shown_rows(name, "cispo")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
    assert not problems
    assert requested == [page_file.as_uri()]  # nothing from a network


# ---- The handout --------------------------------------------------------------------------------


def test_the_handout_is_up_to_date():
    """Its equations and tables are those of grpo.py and of the README."""
    assert handout.PAGE.read_text(encoding="utf-8") == handout.handout()
    assert tuple(handout.QUESTIONS) == axes.AXES
    text = handout.handout()
    assert "<td>gspo.py<td><b>sequence ratio</b>" in text and "none of these" in text
    assert "L    = 1/G sum_i" in text and "](" not in text and "**" not in text


@pytest.mark.skipif(not side_by_side.chromium(), reason="no Chromium on this machine")
def test_the_handout_prints_on_one_page(tmp_path):
    """A4, margins included."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=side_by_side.chromium(), args=["--no-sandbox"]
        )
        page = browser.new_page()
        page.goto(handout.PAGE.as_uri())
        printed = page.pdf(path=tmp_path / "handout.pdf", prefer_css_page_size=True)
        browser.close()
    assert printed.count(b"/Type /Page\n") == 1

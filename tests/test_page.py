"""The side-by-side page: what it says of the scripts is true, and it works in a browser."""

import pytest

import common
from experiments.arms import SCRIPTS
from plots import axes, side_by_side


def source(name):
    return (common.HERE / f"{name}.py").read_text(encoding="utf-8")


def shown_rows(left, right):
    """How many rows the two scripts take side by side."""
    blocks = side_by_side.differences(source(left), source(right))
    return sum(block["equal"][2] if "equal" in block else len(block["rows"]) for block in blocks)


@pytest.mark.parametrize("name", SCRIPTS)
def test_colours_lose_no_character(name):
    """A page of code that is not the code is worse than none."""
    lines = side_by_side.coloured_lines(source(name))
    assert ["".join(text for _, text in line) for line in lines] == source(name).splitlines()
    assert [("k", "import"), ("", " torch")] in lines
    kinds = {text: kind for line in lines for kind, text in line}
    assert kinds["def"] == "k" and kinds["0.0"] == "n" and kinds["# Model"] == "c"


@pytest.mark.parametrize("name", SCRIPTS[1:])
def test_blocks_hold_both_sources(name):
    """Every line once and in order, marks inside their line; labels name the axes that move."""
    old, new = source("grpo").splitlines(), source(name).splitlines()
    left, right, labels = [], [], set()
    for block in side_by_side.differences(source("grpo"), source(name)):
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
    moved = axes.moved_axes(source(name), source("grpo"))
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


@pytest.mark.parametrize("name", SCRIPTS)
def test_equations(name):
    """All of the docstring's, nothing else, with what sets this script apart."""
    lines = side_by_side.equations(source(name))
    text = "\n".join(lines)
    assert lines[0].startswith("Z_ik = (R_ik" if name == "gdpo" else "A_i  = ")
    assert all(f"    {line}\n" in source(name) for line in lines) and "Coordinates" not in text
    assert ("beta" in text) == (name in ("grpo", "gspo", "gdpo"))
    assert ("clip(" in text) == (name != "cispo")
    assert ("exp(" in text) == (name == "gspo")
    assert ("std" in text) == (name != "dr_grpo")


@pytest.mark.skipif(not side_by_side.chromium(), reason="no Chromium on this machine")
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_page_in_a_browser(width, scheme, tmp_path):
    """No error, no sideways scrolling, every pair opens, keys move from change to change."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = tmp_path / "page.html"
    path.write_text(side_by_side.page(), encoding="utf-8")
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
        page.goto(f"{path.as_uri()}#grpo..gspo")
        changes = page.locator(".hunk").count()
        assert changes == sum(
            "rows" in block for block in side_by_side.differences(source("grpo"), source("gspo"))
        )
        old, new = (side_by_side.equations(source(script)) for script in ("grpo", "gspo"))
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
        for name in SCRIPTS:
            page.select_option("#left", name)
            page.select_option("#right", "cispo")
            assert page.locator("#code .row").count() == shown_rows(name, "cispo")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
    assert not problems
    assert requested == [path.as_uri()]  # nothing from a network

"""The side-by-side page: what it says of the scripts is true, and it works in a browser."""

from xml.etree import ElementTree

import pytest

from plots import side_by_side
from plots.effects import SCRIPTS


def source(name):
    return (side_by_side.ROOT / f"{name}.py").read_text(encoding="utf-8")


def shown_rows(left, right):
    """How many rows the two scripts take side by side."""
    blocks = side_by_side.differences(source(left), source(right))
    return sum(block["equal"][2] if "equal" in block else len(block["rows"]) for block in blocks)


@pytest.mark.parametrize("name", SCRIPTS)
def test_colours_lose_no_character(name):
    lines = side_by_side.coloured_lines(source(name))
    assert ["".join(text for _, text in line) for line in lines] == source(name).splitlines()
    assert [("k", "import"), ("", " torch")] in lines
    kinds = {text: kind for line in lines for kind, text in line}
    assert kinds["def"] == "k" and kinds["0.5" if "0.5" in kinds else "0.0"] == "n"


@pytest.mark.parametrize("name", SCRIPTS[1:])
def test_blocks_hold_both_sources(name):
    """Every line once and in order on its side, equal lines equal, marks inside their line."""
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
    assert labels <= {*side_by_side.AXES, "docstring", "part of the same move"}


def test_hunks_carry_their_axes():
    labels = {
        block["label"]
        for block in side_by_side.differences(source("grpo"), source("gspo"))
        if "rows" in block
    }
    assert labels == {"docstring", "clip width", "granularity"}


def test_words_are_marked():
    old, new = "    return ratio * mask, low", "    return ratios * mask, low + high"
    first, second = side_by_side.word_marks(old, new)
    assert [old[a:b] for a, b in first] == ["ratio"]
    assert [new[a:b].strip() for a, b in second] == ["ratios", "+ high"]


def test_alignment_pairs_what_is_alike():
    rows = side_by_side.align(["import os", "b = two(y)"], ["# note", "b = two(y, z)"])
    assert (1, 1) in rows and (0, None) in rows and (None, 0) in rows


@pytest.mark.parametrize("name", SCRIPTS)
def test_equations_and_coordinates(name):
    """Well-formed, with the letters that set this script apart; all six axes are found."""
    text = [
        "".join(ElementTree.fromstring(part).itertext()) for part in side_by_side.equations(name)
    ]
    assert ("β" in text[2]) == (name in ("grpo", "gspo", "gdpo"))
    assert ("clip" in text[2]) == (name != "cispo")
    assert ("log" in text[1]) == (name == "gspo")
    assert ("std" in text[0]) == (name != "dr_grpo")
    found = side_by_side.coordinates(source(name))
    assert list(found) == list(side_by_side.AXES) and all(found.values())


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

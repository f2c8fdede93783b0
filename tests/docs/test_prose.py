"""Prose that can be read aloud: no misspelling, no coinage, neither choppy nor endless sentences.

codespell finds misspellings. Of the style checkers on PyPI proselint was tried: what it found on
these pages was typography and numbers that repeat. So what had crept in here is listed here.
"""

import re
import subprocess
import sys

import pytest
from markdown_it import MarkdownIt

from common import HERE

BOOK = [HERE / "README.md", *sorted(HERE.glob("docs/*.md"))]
OTHERS = [*sorted(HERE.glob("docs/lab/*.md")), *sorted(HERE.glob("docs/reference/*.md"))]
OTHERS.remove(HERE / "docs/reference/diffs.md")  # code, and the titles of papers
OTHERS += [HERE / "CONTRIBUTING.md", HERE / "base_model/README.md"]
ROOMS = "docs base_model compose experiments plots runtime tasks tests tools zoo"

INSTEAD = {  # a coinage or calque, as a pattern: what to write instead
    "coins?(?! flips?)": "random reward",
    "seams?": "exploitable reward",
    r"silent (\w+ )?(group|minibatch|problem|batch)(e?s)?": "group without signal",
    "pooled": "summed before they are normalised",
    "siblings?": "the other completions of its group; the other scripts",
    "refill(s|ed|ing)?": "dynamic sampling: groups without signal are replaced by new draws",
    "off-policy in secret": "off-policy without notice",
    "contradicts? itself": "contradictory",
    "(take|takes|taking|took) the gradient (from|of)": "zeroes the gradient of",
    "(stands?|stood) in(?! for)": "is in",
    "as said": "nothing: leave it out",
    "the whole of": "all of",
    "at hand": "available, current; or name it",
    "to be had": "available",
    "bites?": "limits",
    "argues? about": "differ in",
    "undisturbed": "uninterrupted",
    "worth noting": "nothing: leave it out",
}
SHORT, LONG = 6, 45  # words of a sentence
SHARE = 0.15  # of a page's sentences may be short
COMMAND = re.compile(r"`(python|pip|git|grep|uv|accelerate|--\w+) ")


def plain(text):
    """Inline Markdown as it is read, with its line breaks; code is one word, a label is none."""
    text = re.sub(r"^\*+[^*]+[.:?]\*+", "", text)
    text = re.sub(r"(`+).+?\1", lambda code: re.sub(r"[^\w\n]", "_", code[0]), text, flags=re.S)
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", lambda link: link[1] * (link[0][0] != "!"), text)
    return re.sub(r"\b(Dr|Eq|Fig|vs|e\.g|i\.e|et al)\.", r"\1", text)


def sentences(page):
    """[(line, number of words, sentence)] without headings, tables, code and lists of commands."""
    tokens = MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))
    within = []
    for token in tokens:
        if token.nesting:
            within = [*within, token.tag] if token.nesting > 0 else within[:-1]
        if token.type != "inline" or {"table", "h1", "h2", "h3", "h4"} & {*within}:
            continue
        if "li" in within and COMMAND.search(token.content):
            continue
        text = plain(token.content)
        for found in re.finditer(r"\S.*?([.!?][\"')*]*(?=\s)|\Z)", text, re.DOTALL):
            line = token.map[0] + 1 + text[: found.start()].count("\n")
            words = [word for word in found[0].split() if re.search(r"\w", word)]
            if words:
                yield line, len(words), " ".join(found[0].split())


def prose(text):
    """A page's text, its lines kept, without code, tables, links' targets, comments and italics.

    A table may quote a docstring, and a word in italics is one that is being explained.
    """
    apart = (r"^```.*?^```", r"(`+)[^`]+\1", r"^\|.*?$", r"\]\([^)]*\)", r"<!--.*?-->", r"\*\w+\*")
    for code in apart:
        text = re.sub(code, lambda found: "\n" * found[0].count("\n"), text, flags=re.M | re.S)
    return text


def report(complaints):
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


def named(page):
    return str(page.relative_to(HERE))


def test_spelling():
    """pyproject.toml has codespell's word lists, and the words of the field that it lacks."""
    paths = [*HERE.glob("*.md"), *HERE.glob("*.py"), *ROOMS.split()]
    command = [sys.executable, "-m", "codespell_lib", *map(str, paths)]
    found = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    report((found.stdout + found.stderr).splitlines() if found.returncode else [])


@pytest.mark.parametrize("page", BOOK + OTHERS, ids=named)
def test_no_coinages(page):
    text = prose(page.read_text(encoding="utf-8"))
    complaints = []
    for pattern, instead in INSTEAD.items():
        pattern = rf"\b({pattern})\b".replace(" ", r"\s+")
        for found in re.finditer(pattern, text, re.IGNORECASE):
            line = text[: found.start()].count("\n") + 1
            written = " ".join(found[0].split())
            complaints.append(f"{named(page)}:{line}: '{written}': write {instead}")
    report(complaints)


@pytest.mark.parametrize("page", BOOK, ids=named)
def test_sentences_are_neither_choppy_nor_endless(page):
    found = list(sentences(page))
    complaints = [
        f"{named(page)}:{line}: {words} words, at most {LONG}: make two sentences of '{text}'"
        for line, words, text in found
        if words > LONG
    ]
    ended = [sentence for sentence in found if re.search(r"[.!?]\W*$", sentence[2])]
    short = [(line, words, text) for line, words, text in ended if words <= SHORT]
    if len(short) > max(1, SHARE * len(found)):
        complaints.append(
            f"{named(page)}: {len(short)} of {len(found)} sentences have {SHORT} words or fewer, "
            f"at most {SHARE:.0%}: join them with because, so, although, while, which"
        )
        complaints += [f"{named(page)}:{line}: {words}: '{text}'" for line, words, text in short]
    report(complaints)


def test_sentences_are_counted_as_they_are_read(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A title. Two.\n\n**Why.** Dr. GRPO's mean in\n[one `a b. c` link](x.md) is 0.5. It is.\n"
        "\n| a table. |\n|---|\n| x. |\n\n```\ncode. code.\n```\n\n* try `python grpo.py`. Good.\n"
    )
    assert [found[:2] for found in sentences(page)] == [(3, 9), (4, 2)]
    assert prose("a `coin`\n```\ncoin\n```\n[b](coin.md)\n| coin |") == "a \n\n\n\n[b\n"

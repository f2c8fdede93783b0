"""Tables and words of the docs, for pages that show them again."""

import html
import re

import common


def table_of(page, heading):
    """Cells (rows, columns), as HTML, of the first table below a heading; no heading row's rule."""
    text = section(page, heading)
    lines = re.search(r"(^\|.*\n)+", text, re.MULTILINE)[0].splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [list(map(inline, row)) for row in rows[:1] + rows[2:]]


def section(page, heading):
    """The Markdown below a heading of the second level, up to the next."""
    text = (common.HERE / page).read_text(encoding="utf-8")
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0] + "\n"


def inline(markdown):
    """HTML of a cell or sentence: code, bold and italics as such, links as their text."""
    text = html.escape(markdown.strip().replace(r"\|", "|"), quote=False)
    text = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", text)
    return re.sub(r"\*([^*]+)\*", r"<i>\1</i>", text)

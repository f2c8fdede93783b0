"""Sections of the documents that programs write: a heading, prose, then one table."""

import re


def section_of(text, title):
    return re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", text, re.M | re.S)[0]


def read_section(page, title):
    """The rows of the table under a heading, lists of cells, without its head."""
    lines = re.findall(r"^\| (.*) \|$", section_of(page.read_text(encoding="utf-8"), title), re.M)
    return [line.split(" | ") for line in lines[1:]]


def write_section(page, title, lines):
    """Replace the table that a page has under a heading by these lines; the text above it stays."""
    text = page.read_text(encoding="utf-8")
    section = section_of(text, title)
    prose = re.sub(r"\n(\|.*\n)+\s*", "\n", section).rstrip()
    changed = text.replace(section, f"{prose}\n\n" + "\n".join(lines) + "\n\n")
    page.write_text(changed, encoding="utf-8")

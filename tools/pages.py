"""Sections of the documents that programs write."""

import re


def write_section(page, title, lines):
    """Replace the table that a page has under a heading by these lines; the text above it stays."""
    text = page.read_text(encoding="utf-8")
    section = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", text, re.M | re.S)
    prose = re.sub(r"\n(\|.*\n)+\s*", "\n", section[0])
    page.write_text(text.replace(section[0], f"{prose.rstrip()}\n\n" + "\n".join(lines) + "\n\n"))

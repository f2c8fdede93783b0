"""Tables and words of the docs, for pages that show them again."""

from markdown_it import MarkdownIt

import common

MARKDOWN = MarkdownIt("js-default")  # tables too
for rule in ("link_open", "link_close"):  # a link is shown as its text
    MARKDOWN.add_render_rule(rule, lambda *_: "")
inline = MARKDOWN.renderInline  # a cell or sentence as HTML


def table_of(page, heading):
    """Cells (rows, columns), as HTML, of the first table below a heading."""
    rows = []
    for token in MARKDOWN.parse(section(page, heading)):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and rows:
            rows[-1].append(inline(token.content))
        elif token.type == "table_close":
            break
    return rows


def section(page, heading):
    """The Markdown below a heading of the second level, up to the next; "" without it."""
    text = (common.HERE / page).read_text(encoding="utf-8")
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]

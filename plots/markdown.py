"""Tables and words of the docs, for pages that show them again."""

import re

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


def quiz():
    """docs/class/quiz.md as HTML: each question closed, and closed in it what is right and why."""
    text = (common.HERE / "docs/class/quiz.md").read_text(encoding="utf-8")
    found = []
    for question in text.split("\n## ")[1:]:
        title, _, body = question.partition("\n")
        asked, answer = body.split("<details><summary>Answer</summary>\n")
        answer = re.sub("<!--.*?-->", "", answer.partition("</details>")[0], flags=re.DOTALL)
        found.append(
            f"<details><summary>{inline(title)}</summary>{MARKDOWN.render(asked)}"
            f"<details><summary>Answer</summary>{MARKDOWN.render(answer)}</details></details>"
        )
    return "\n".join(found)


def section(page, heading):
    """The Markdown below a heading of the second level, up to the next; "" without it."""
    text = (common.HERE / page).read_text(encoding="utf-8")
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]

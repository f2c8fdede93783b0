"""The six axes, and where each script says it lies on them."""

import ast
import re

AXES = ("granularity", "clip width", "length + std", "KL", "advantage", "sampling")
EXTRAS = ("reward", "critic", "tracker", "turns")  # no axis, but to be seen in a diff


def coordinates(source):
    """{axis or extra: where a script's docstring says that it is}; only those that it names."""
    doc = ast.get_docstring(ast.parse(source)) or ""
    found = {
        name: re.search(rf"^    {re.escape(name)}  +(\S.*)", doc, re.MULTILINE)
        for name in AXES + EXTRAS
    }
    return {name: match[1] for name, match in found.items() if match}


def moved_axes(source, hub):
    """The axes and extras on which a script's coordinates differ from those of its hub."""
    here, there = coordinates(source), coordinates(hub)
    return {name for name in AXES + EXTRAS if here.get(name) != there.get(name)}


def parent(source):
    """The script that a script is compared with, as its docstring says: vs grpo.py, or another."""
    return re.search(r"^vs (\S+)\.py:", source, re.MULTILINE)[1].replace("/", ".")

"""The six axes, and where each script says it lies on them."""

import ast
import re

AXES = ("granularity", "clip width", "length + std", "KL", "advantage", "sampling")


def coordinates(source):
    """{axis: where a script's docstring says that it is}; only axes that it names."""
    doc = ast.get_docstring(ast.parse(source)) or ""
    found = {
        axis: re.search(rf"^    {re.escape(axis)}  +(\S.*)", doc, re.MULTILINE) for axis in AXES
    }
    return {axis: match[1] for axis, match in found.items() if match}


def moved_axes(source, hub):
    """The axes on which a script's coordinates differ from those of its hub."""
    here, there = coordinates(source), coordinates(hub)
    return {axis for axis in AXES if here.get(axis) != there[axis]}

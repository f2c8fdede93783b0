"""The folders keep their promises: no circle of imports, and commands that say how to call them."""

import ast
import graphlib
import subprocess
import sys

import pytest

from common import HERE
from compose.reader import scripts

FOLDERS = ("base_model", "composing", "experiments", "plots", "tools", "zoo")
FILES = [*HERE.glob("*.py"), *(file for folder in FOLDERS for file in (HERE / folder).glob("*.py"))]
MODULES = {".".join(file.relative_to(HERE).with_suffix("").parts): file for file in FILES}
COMMANDS = [
    name
    for name, file in MODULES.items()
    if "." in name and '__name__ == "__main__"' in file.read_text(encoding="utf-8")
]


def imports(file):
    """Modules of this repository that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & MODULES.keys()


def test_no_import_runs_in_a_circle():
    graph = {name: imports(file) for name, file in MODULES.items()}
    assert graph["grpo"] == {"common", "countdown_task", "engine", "run_log"}
    assert not graph["countdown_task"] and graph["engine"] == {"countdown_task"}
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle


@pytest.mark.parametrize("script", scripts())
def test_a_script_is_read_alone(script):
    """It imports no other script, and zoo/ no module that grpo.py does without, but for a tool."""
    helpers = imports(MODULES["grpo"]) | {"zoo.calculator"}
    assert imports(MODULES[script]) <= helpers


def test_the_minimal_helper_is_minimal():
    assert len((HERE / "common.py").read_text(encoding="utf-8").splitlines()) <= 120


def test_there_are_commands():
    some = {"base_model.warm_start", "experiments.run", "plots.side_by_side", "zoo.rloo"}
    assert some < set(COMMANDS)


@pytest.mark.parametrize("module", COMMANDS)
def test_called_as_a_file_it_says_how_to_call_it(module):
    command = [sys.executable, str(MODULES[module])]
    called = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    assert called.returncode == 1 and f"python -m {module}" in called.stderr
    assert called.stderr.count("\n") == 1

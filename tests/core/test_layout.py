"""The rooms keep their promises: no import climbs, and commands say how to call them."""

import ast
import graphlib
import re
import subprocess
import sys

import pytest

from common import HERE
from compose.reader import scripts

# From the ground up: a module imports from its own room and from those before it. Of runtime, six
# lie below common: they find the models that common loads, look at their files, ask them, give them
# adapters, and say where they compute.
BELOW = ("hub", "model_files", "chat", "lora", "loading", "devices")
FOLDERS = ("runtime", "scripts", "compose", "base_model", "experiments", "plots", "tools", "tests")
ROOMS = ("tasks", "countdown_task", *[f"runtime.{name}" for name in BELOW], "common", *FOLDERS)
TOP_LEVEL = {"grpo", "dr_grpo", "dapo", "gspo", "gdpo", "cispo", "countdown_task", "common"}
FILES = [*HERE.glob("*.py")]
FILES += [file for room in ("tasks", *FOLDERS, "zoo") for file in (HERE / room).rglob("*.py")]
FILES = [file for file in FILES if not file.name.startswith(".")]


def name_of(file):
    """experiments/run.py -> experiments.run; a package's __init__.py is the package."""
    return ".".join(file.relative_to(HERE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(file): file for file in FILES}
COMMANDS = [
    name.removesuffix(".__main__")
    for name, file in MODULES.items()
    if re.search(r"^if __package__ != ", file.read_text(encoding="utf-8"), re.MULTILINE)
]


def room_of(module):
    first = module if module in ROOMS else module.partition(".")[0]
    return "scripts" if first == "zoo" or first in TOP_LEVEL - set(ROOMS) else first


def imports(file):
    """Modules of this repository that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            parts = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= parts or {node.module}
    return found & MODULES.keys()


def test_the_top_level_is_the_plan():
    """Eight Python files, and nothing made by hand beside them."""
    made = {name for name in scripts() if "." not in name} - TOP_LEVEL  # by compose, by a reader
    assert {file.stem for file in HERE.glob("*.py")} - made == TOP_LEVEL


@pytest.mark.parametrize("module", MODULES)
def test_no_import_climbs(module):
    level = ROOMS.index(room_of(module))
    for other in imports(MODULES[module]):
        assert ROOMS.index(room_of(other)) <= level, f"{module} imports {other}, from above"


def test_no_import_runs_in_a_circle():
    graph = {name: imports(file) - {name} for name, file in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle


@pytest.mark.parametrize("script", scripts())
def test_a_script_is_read_alone(script):
    """It imports no other script, and zoo/ no module that grpo.py does without, but for a tool."""
    helpers = {"common", "tasks", "runtime.engine", "runtime.measures", "runtime.session"}
    helpers |= {"runtime.options"}
    assert imports(MODULES["grpo"]) == helpers
    assert imports(MODULES[script]) <= helpers | {"zoo.calculator"}


def test_the_minimal_helper_is_minimal():
    assert len((HERE / "common.py").read_text(encoding="utf-8").splitlines()) <= 120
    helpers = {"runtime.chat", "runtime.devices", "runtime.loading"}
    assert imports(HERE / "common.py") == {"tasks"} | helpers


def test_there_are_commands():
    some = {"base_model.warm_start", "compose", "experiments.run", "plots.side_by_side"}
    assert some < set(COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("module", COMMANDS)
def test_called_as_a_file_it_says_how_to_call_it(module):
    file = MODULES.get(f"{module}.__main__", MODULES[module])
    called = subprocess.run([sys.executable, file], cwd=HERE, capture_output=True, text=True)
    assert called.returncode == 1 and f"python -m {module}" in called.stderr
    assert called.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(HERE.glob("zoo/*.py")), ids=lambda file: file.stem)
def test_a_script_of_the_zoo_called_as_a_file_says_so_too(file):
    """zoo/runtime.py is what it finds then in place of runtime/."""
    if "session.launch" not in file.read_text(encoding="utf-8"):
        pytest.skip("no script")
    called = subprocess.run([sys.executable, file], cwd=HERE, capture_output=True, text=True)
    assert called.returncode == 1 and f"python -m zoo.{file.stem}" in called.stderr
    assert called.stderr.count("\n") == 1

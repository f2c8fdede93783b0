"""The notebook runs and shows what the scripts do now; every planted fault has its test."""

import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from common import HERE
from compose.reader import scripts, source_of
from experiments.catalogue.exercises import patch

PATH = HERE / "docs/lesson.ipynb"
TRAINING = 'grpo.Config(steps=20, seed=7, output_dir="runs/lesson"'


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell):
    """What the cell wrote to its standard output."""
    return "".join(part.text for part in cell.outputs if part.get("name") == "stdout")


def run(notebook, folder):
    """The notebook, executed by a kernel that starts in this folder."""
    where = {"metadata": {"path": str(folder)}}
    return NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(PATH, as_version=4)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook, run here with 2 steps of training instead of 20."""
    notebook = nbformat.read(PATH, as_version=4)
    folder = tmp_path_factory.mktemp("lesson") / "run"
    (training,) = [cell for cell in code_cells(notebook) if TRAINING in cell.source]
    short = f'grpo.Config(steps=2, seed=7, eval_problems=8, output_dir="{folder.as_posix()}"'
    training.source = training.source.replace(TRAINING, short)
    return run(notebook, PATH.parent)


def test_it_is_committed_executed(committed):
    """A reader sees its tables and curves without running it."""
    cells = code_cells(committed)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    pictures = [
        part for cell in cells for part in cell.outputs if "image/png" in part.get("data", {})
    ]
    assert len(pictures) == 2 and not any(
        p.output_type == "error" for c in cells for p in c.outputs
    )
    assert "at step 20 (95% interval)" in printed(cells[-2])
    assert PATH.stat().st_size < 200_000


@pytest.mark.slow
def test_its_numbers_are_of_the_code_as_it_stands(committed, executed):
    """All but the run's; that one trains."""
    before, now = code_cells(committed), code_cells(executed)
    assert len(before) == len(now) == 7
    for old, new in zip(before[:5], now[:5], strict=True):
        assert printed(old) == printed(new)
    assert "at step 2 (95% interval)" in printed(now[5])


@pytest.mark.slow
def test_it_opens_in_the_repositorys_folder_too():
    """Some editors start there, whatever folder the notebook lies in."""
    notebook = nbformat.read(PATH, as_version=4)
    notebook.cells = code_cells(notebook)[:1]
    run(notebook, HERE)  # raises if a cell does


def test_its_links_resolve(committed):
    """From where it lies."""
    text = "\n".join(cell.source for cell in committed.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\((?!http)([^)#]+)", text)
    assert len(links) > 2
    assert [link for link in links if not (PATH.parent / link).exists()] == []


def test_it_repeats_no_code_of_the_scripts(committed):
    """It calls their functions; what is shown is what trains."""
    shown = {line.strip() for cell in code_cells(committed) for line in cell.source.splitlines()}
    written = {line.strip() for name in scripts() for line in source_of(name).splitlines()}
    shared = {line for line in shown & written if not line.startswith("import ") and len(line) > 3}
    assert not shared


CAUGHT = dict(
    re.findall(
        r"^\| ([a-e]) \|.*\| `(tests/[\w/]+\.py::\w+)` \|$",
        (HERE / "docs/solutions.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
)


def test_every_fault_has_a_test():
    assert list(CAUGHT) == [path.stem for path in sorted(HERE.glob("docs/bugs/*.patch"))]


@pytest.mark.slow
@pytest.mark.parametrize("fault", CAUGHT)
def test_a_planted_fault_is_caught(fault, tmp_path):
    """By the test that solutions.md names, which passes without the fault."""
    copy = tmp_path / "copy"
    left_out = (".*", "runs", "logs", "figures", "__pycache__", "wip")
    shutil.copytree(HERE, copy, ignore=shutil.ignore_patterns(*left_out))
    source = (copy / "grpo.py").read_text(encoding="utf-8")
    for old, new in patch(fault).items():
        assert source.count(old) == 1
        source = source.replace(old, new)
    (copy / "grpo.py").write_text(source, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-x", CAUGHT[fault]]
    ran = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert ran.returncode == 1 and "1 failed" in ran.stdout, ran.stdout

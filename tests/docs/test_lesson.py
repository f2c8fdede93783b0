"""The notebook runs and shows what the scripts do now; every planted fault has its test."""

import base64
import re
import shutil
import struct
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

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


def png_size(data):
    """(width, height) in pixels, from a PNG's header."""
    return struct.unpack(">II", data[16:24])


def run(notebook, folder):
    """The notebook, executed by a kernel that starts in this folder."""
    where = {"metadata": {"path": str(folder)}}
    return NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(PATH, as_version=4)


def shortened(folder):
    """The notebook with 2 steps of training, into this folder, instead of 20."""
    notebook = nbformat.read(PATH, as_version=4)
    (training,) = [cell for cell in code_cells(notebook) if TRAINING in cell.source]
    short = f'grpo.Config(steps=2, seed=7, eval_problems=8, output_dir="{folder.as_posix()}"'
    training.source = training.source.replace(TRAINING, short)
    return notebook


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Run where it lies."""
    return run(shortened(tmp_path_factory.mktemp("lesson") / "run"), PATH.parent)


def test_it_is_committed_executed(committed):
    """A reader sees its tables and curves without running it."""
    cells = code_cells(committed)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    pictures = [
        part for cell in cells for part in cell.outputs if "image/png" in part.get("data", {})
    ]
    assert not any(part.output_type == "error" for cell in cells for part in cell.outputs)
    assert "at step 20 (95% interval)" in printed(cells[-2])
    sizes = [png_size(base64.b64decode(part.data["image/png"])) for part in pictures]
    assert len(sizes) == 2 and min(width for width, _ in sizes) >= 1200  # for a projector
    assert PATH.stat().st_size < 400_000


@pytest.mark.slow
def test_its_numbers_are_of_the_code_as_it_stands(committed, executed):
    """All but the run's; that one trains."""
    before, now = code_cells(committed), code_cells(executed)
    assert len(before) == len(now) == 8
    for old, new in zip(before[:6], now[:6], strict=True):
        assert printed(old) == printed(new)
    assert "at step 2 (95% interval)" in printed(now[6])


@pytest.mark.slow
def test_it_opens_in_the_repositorys_folder_too():
    """Some editors start there, whatever folder the notebook lies in."""
    notebook = nbformat.read(PATH, as_version=4)
    notebook.cells = code_cells(notebook)[:2]
    run(notebook, HERE)  # raises if a cell does


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """What is here as a repository that can be cloned, so that changes need no commit first."""
    copy = tmp_path_factory.mktemp("origin") / "repository"
    left_out = (".*", "runs", "__pycache__", "wip", "wheels")
    shutil.copytree(HERE, copy, ignore=shutil.ignore_patterns(*left_out))
    who = ["-c", "user.name=a", "-c", "user.email=a@localhost"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=copy, check=True)
    return copy


def addressed(notebook, address):
    """The notebook with the repository's address in its first cell."""
    cell = code_cells(notebook)[0]
    assert cell.source.count('REPOSITORY = ""') == 1
    cell.source = cell.source.replace('REPOSITORY = ""', f'REPOSITORY = "{address}"')
    return notebook


@pytest.mark.slow
def test_it_runs_from_an_empty_folder(repository, tmp_path):
    """As in Colab: it fetches the repository, and installs nothing that is there."""
    empty = tmp_path / "empty"
    empty.mkdir()
    ran = code_cells(run(addressed(shortened(tmp_path / "run"), repository.as_posix()), empty))
    assert [path.name for path in empty.iterdir()] == ["grpo_family"]
    assert printed(ran[0]) == ""
    assert "at step 2 (95% interval)" in printed(ran[6])


@pytest.mark.slow
def test_it_installs_what_is_missing(repository, tmp_path, monkeypatch):
    """That alone: a package that is not there, and one that is too old."""
    with open(repository / "requirements.txt", "a", encoding="utf-8") as file:
        file.write("no-such-package==1.0\nipykernel>=99,<100\nnumpy==0.1\n")
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "-qam", "more"],
        cwd=repository,
        check=True,
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # pip finds none of them
    notebook = addressed(nbformat.read(PATH, as_version=4), repository.as_posix())
    notebook.cells = code_cells(notebook)[:1]
    with pytest.raises(CellExecutionError):
        run(notebook, tmp_path)
    said, restart = printed(notebook.cells[0]).splitlines()
    assert said == "installing no-such-package==1.0 ipykernel>=99,<100"
    assert "restart the kernel" in restart


@pytest.mark.slow
def test_it_asks_for_the_address(tmp_path):
    notebook = nbformat.read(PATH, as_version=4)
    notebook.cells = code_cells(notebook)[:1]
    with pytest.raises(CellExecutionError, match="write the repository's address into REPOSITORY"):
        run(notebook, tmp_path)


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

"""What the documents promise: links resolve, commands parse, exercises can be done as written."""

import importlib
import itertools
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from dataclasses import fields

import pytest

from common import HERE
from compose.reader import scripts
from experiments import real_model, threads
from experiments.catalogue import ARMS

PAGES = sorted(HERE.glob("docs/**/*.md"))
PAGES += [HERE / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += [HERE / name for name in ("base_model/README.md", "experiments/results.md")]
DOCUMENTS = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(HERE)))
# By the reader, from what the pages say.
MADE = ("exercise", "mine", "zoo.lite_ppo", "zoo.two_sided", "tests.test_mine")


def anchors(page):
    """Of a page's headings, as a Markdown renderer makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}


@DOCUMENTS
def test_links_resolve(page):
    text = page.read_text(encoding="utf-8")
    for link, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", text):
        target = page.parent / link if link else page
        assert target.exists(), link
        state = link.endswith("index.html")  # of the page: tests/plots/test_instrument.py opens it
        assert not anchor or state or anchor in anchors(target), f"{link}#{anchor}"
    rooms = "runtime|compose|zoo|base_model|experiments|plots|tests|tools|docs"
    for path in re.findall(rf"[`[]((?:{rooms})/[\w/]+\.\w+)[]`:]", text):
        assert (HERE / path).exists() or path[:-3].replace("/", ".") in MADE, path


def test_every_page_has_its_place():
    """docs/README.md says who reads what: no page of the book or the lab is left out."""
    text = (HERE / "docs/README.md").read_text(encoding="utf-8")
    linked = {(HERE / "docs" / link).resolve() for link in re.findall(r"\]\(([^)#]+)\)", text)}
    pages = {page for page in PAGES if page.is_relative_to(HERE / "docs")}
    assert pages - {HERE / "docs/README.md"} <= linked


# In place of 'fork', which meant three things, docs/metrics.md has three names; a clipped share
# has another name than the option that says how wide the clip is.
OLD_WORDS = r"\bforks?\b|clip_forks|entropy_fork|entropy_rest|zeroed_fork"


@DOCUMENTS
def test_one_word_has_one_meaning(page):
    if page.name == "CHANGELOG.md":
        pytest.skip("it says what the old words were")
    text = page.read_text(encoding="utf-8").replace("*fork tokens*", "")  # the literature's name
    assert re.findall(OLD_WORDS, text, re.IGNORECASE) == []
    assert not re.findall(r"^\| `clip_(?:low|high)`", text, re.MULTILINE)


@DOCUMENTS
def test_prose_fits(page):
    """100 columns, tables, comments and commands apart; results.md is written by a program."""
    if page.name == "results.md":
        return
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    assert [line for line in text.splitlines() if len(line) > 100 and line[0] not in "|<"] == []


def test_the_front_door_is_short():
    """A student reads it in ten minutes."""
    text = (HERE / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 1400
    assert max(map(len, text.splitlines())) <= 120


BOOK = set(HERE.glob("docs/*.md"))


def test_the_book_is_short():
    """A student reads it on a train; tables and code count as words too."""
    words = {page.name: len(page.read_text(encoding="utf-8").split()) for page in BOOK}
    assert sum(words.values()) <= 12_000, words
    looked_up = ("exercises.md", "solutions.md")
    long = {name: count for name, count in words.items() if count > 2000 and name not in looked_up}
    assert not long


@pytest.mark.parametrize(
    "page", sorted(BOOK - {HERE / "docs/README.md"}), ids=lambda page: page.name
)
def test_a_page_begins_with_its_question_and_ends_with_what_to_run(page):
    title, *lines = page.read_text(encoding="utf-8").splitlines()
    assert title.startswith("# ")
    assert any("This page answers:" in line for line in lines[:3])
    assert any("Run next" in line for line in lines[-12:]), "its end says no **Run next:**"


def commands():
    """(module, its arguments) of every command line in a bash block."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                modules = [b for a, b in itertools.pairwise(words) if a == "-m"]
                called = next((name for name in modules if "." in name or name == "compose"), None)
                if not called:
                    scripts_called = [word for word in words if re.fullmatch(r"[\w/]+\.py", word)]
                    called = next(iter(scripts_called), None)
                if called and words[0] != "cp":
                    rest = words[words.index(called) + 1 :]
                    yield pytest.param(called.removesuffix(".py"), rest, id=f"{page.name}:{line}")


def test_the_readme_counts_the_lines_of_grpo():
    lines = len((HERE / "grpo.py").read_text(encoding="utf-8").splitlines())
    assert f"| {lines} (grpo.py) |" in (HERE / "README.md").read_text(encoding="utf-8")


def test_the_readme_installs_the_torch_that_is_required():
    """Its first pip takes PyTorch from another index; the next must not take it again."""
    required = (HERE / "requirements.txt").read_text(encoding="utf-8")
    (bound,) = re.findall(r"^torch>=.*(<[\d.]+)$", required, re.MULTILINE)
    assert (HERE / "README.md").read_text(encoding="utf-8").count(f'"torch{bound}"') == 2


def test_speed_quotes_what_was_measured():
    text = (HERE / "docs/lab/speed.md").read_text(encoding="utf-8")
    for lines in threads.tables().values():
        assert "\n".join(lines) in text


def test_the_real_models_pages_quote_what_was_measured():
    tables = real_model.tables()
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    assert "\n".join(tables.pop("summary")) in readme
    text = (HERE / "docs/lab/real_model.md").read_text(encoding="utf-8")
    for lines in tables.values():
        assert "\n".join(lines) in text


def test_commands_are_found():
    modules = [command.values[0] for command in commands()]
    assert len(modules) > 20 and any(module.startswith("zoo.") for module in modules)
    assert {"grpo", "compose", "mine"} <= set(modules)


@pytest.mark.parametrize(("module", "arguments"), list(commands()))
def test_commands_parse(module, arguments):
    """The module exists and knows every option that the line gives it."""
    module = "grpo" if module in MADE else module
    path = HERE / module.replace(".", "/")
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    source = path.read_text(encoding="utf-8")
    options = set(re.findall(r'add_argument\(\s*"--(\w+)"', source))
    if module == "tools.train_with_trl":
        module = arguments[arguments.index("--script") + 1]
    if module == "tools.verl_command":
        module = arguments[0]
    if module in scripts():
        options |= {field.name for field in fields(importlib.import_module(module).Config)}
    given = {word.removeprefix("--") for word in arguments if word.startswith("--")}
    assert given <= options | {"help"}, given - options
    if "committed" in given:
        after = arguments[arguments.index("--committed") + 1 :]
        arms = set(itertools.takewhile(lambda word: not word.startswith("--"), after))
        assert arms <= set(ARMS) or arms == {"ARM"}, arms - set(ARMS)
    if module in ("tools.compare", "tools.diagnose"):
        by_name = [re.fullmatch(r"([^/]+)-seed\d+", word) for word in arguments]
        assert {found[1] for found in by_name if found} <= set(ARMS)


CHANGES = {  # exercise: the line of grpo.py that its code block stands for
    "1. Granularity": "    ratio = torch.exp(logprobs - old_logprobs)  # (B, T)\n",
    "3. Length": "    return per_sequence.sum() / num_sequences\n",
    "5. Advantage": (
        "    pooled = (rewards * torch.tensor(config.reward_weights)).sum(-1)  # (P, G)\n"
    ),
}


@pytest.mark.parametrize("title", CHANGES)
def test_exercises_train(title, llama_folder, tmp_path, monkeypatch):
    """The change as printed, put where the exercise says, trains for two steps."""
    text = (HERE / "docs/exercises.md").read_text(encoding="utf-8")
    section = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
    change = re.search(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[1]
    change = textwrap.indent(change, "    ")
    if "add a line below" in section:
        change = CHANGES[title] + change
    source = (HERE / "grpo.py").read_text(encoding="utf-8")
    assert source.count(CHANGES[title]) == 1
    (tmp_path / "exercise.py").write_text(source.replace(CHANGES[title], change))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "exercise", raising=False)
    exercise = importlib.import_module("exercise")
    exercise.train(
        exercise.Config(
            model=llama_folder,
            steps=2,
            prompts_per_step=4,
            group_size=4,
            max_new_tokens=32,
            eval_problems=2,
            reward_components=["brevity", "format"],
            reward_weights=[1.0, 1.0],
            output_dir=str(tmp_path / "run"),
        )
    )
    rows = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert len(rows) >= 3


def test_exercise_8_is_what_was_run():
    """Its two changes are the edits of the arm that solutions.md has the numbers of."""
    text = (HERE / "docs/exercises.md").read_text(encoding="utf-8")
    section = text.partition("\n## 8. ")[2].partition("\n## ")[0]
    printed = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    edits = list(ARMS["certainty"].edits.values())
    assert printed == edits[:2] and edits[2].startswith("import math\n")


@pytest.mark.skipif(not shutil.which("git"), reason="no git on this machine")
@pytest.mark.parametrize("bug", sorted(HERE.glob("docs/bugs/*.patch")), ids=lambda path: path.stem)
def test_patches_apply(bug, tmp_path):
    """To a fresh copy of grpo.py, as exercise 16 has its reader do it; each in one line."""
    source = (HERE / "grpo.py").read_text(encoding="utf-8")
    (tmp_path / "exercise.py").write_text(source, encoding="utf-8")
    subprocess.run(["git", "apply", str(bug)], cwd=tmp_path, check=True)
    patched = (tmp_path / "exercise.py").read_text(encoding="utf-8").splitlines()
    changed = [a != b for a, b in zip(source.splitlines(), patched, strict=True)]
    assert sum(changed) == 1

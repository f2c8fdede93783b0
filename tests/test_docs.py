"""What the documents promise: links resolve, commands parse, exercises can be done as written."""

import importlib
import re
import shlex
import sys
import textwrap
from dataclasses import fields
from pathlib import Path

import pytest

from plots.effects import SCRIPTS

HERE = Path(__file__).resolve().parent.parent
DOCUMENTS = ["README.md", "EXERCISES.md", "base_model/README.md", "plots/results.md"]
STANDS_FOR = {"exercise.py": "grpo.py", "rloo.py": "grpo.py"}  # made by the reader


def blocks(name, language):
    text = (HERE / name).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_resolve(name):
    text = (HERE / name).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if not link.startswith("http"):
            assert (HERE / name).parent.joinpath(link).exists(), link
    for path in re.findall(r"`((?:plots|tests)/[\w/]+\.(?:py|md))`", text):
        assert (HERE / path).exists(), path


def commands():
    for name in DOCUMENTS:
        for block in blocks(name, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                script = next((word for word in words if word.endswith(".py")), None)
                if script:
                    yield pytest.param(
                        script, words[words.index(script) + 1 :], id=f"{name}:{line}"
                    )


@pytest.mark.parametrize(("script", "arguments"), list(commands()))
def test_commands_parse(script, arguments):
    """The script exists and knows every option that the line gives it."""
    script = STANDS_FOR.get(script, script)
    source = (HERE / script).read_text(encoding="utf-8")
    module = script.removesuffix(".py")
    options = set(re.findall(r'add_argument\(\s*"--(\w+)"', source))
    if "train_with_trl" in script:
        module = arguments[arguments.index("--script") + 1]
    if module in SCRIPTS:
        options |= {field.name for field in fields(importlib.import_module(module).Config)}
    given = {word.removeprefix("--") for word in arguments if word.startswith("--")}
    assert given <= options, given - options


CHANGES = {  # exercise: what its code block replaces in grpo.py
    "1. Granularity": "    ratio = torch.exp(logprobs - old_logprobs)  # (B, T)\n",
    "3. Length": (
        "    per_sequence = (token_loss * mask).sum(1) / mask.sum(1)  # (b,) 1/|o|\n"
        "    return per_sequence.sum() / num_sequences\n"
    ),
    "5. Advantage": (
        "    pooled = (rewards * torch.tensor(config.reward_weights)).sum(-1)  # (P, G)\n"
    ),
}


@pytest.mark.parametrize("title", CHANGES)
def test_exercises_train(title, llama_folder, tmp_path, monkeypatch):
    """The change as printed, put where the exercise says, trains for two steps."""
    text = (HERE / "EXERCISES.md").read_text(encoding="utf-8")
    section = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
    change = re.search(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[1]
    change = textwrap.indent(change, "    ")
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

"""docs/reference/own_task.md, done as written: its blocks make a reward, data, and a task."""

import importlib
import json
import re
import sys

import pytest

import grpo
import tasks
from common import HERE
from experiments import questions
from tasks import question_task
from tests.core import test_tasks

PAGE = (HERE / "docs/reference/own_task.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


REWARD, REWARD_TEST, TASK = blocks("python")


@pytest.fixture
def save(tmp_path, monkeypatch):
    """A function that saves a block of the page as tasks/<name>.py, beside the repository's."""
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    monkeypatch.setattr(
        "countdown_task.REWARDS", dict(importlib.import_module("countdown_task").REWARDS)
    )

    def save(name, block):
        assert f"`tasks/{name}.py`" in PAGE
        (tmp_path / f"{name}.py").write_text(block, encoding="utf-8")
        monkeypatch.delitem(sys.modules, f"tasks.{name}", raising=False)
        importlib.invalidate_caches()
        return f"tasks.{name}"

    return save


def trained(tmp_path, **options):
    """The first training row of a short run."""
    tiny = {"steps": 1, "prompts_per_step": 4, "group_size": 4, "max_new_tokens": 16}
    grpo.train(grpo.Config(**tiny, **options, eval_problems=2, output_dir=str(tmp_path / "run")))
    rows = (tmp_path / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return next(row for row in map(json.loads, rows) if row["kind"] == "step")


def test_the_reward_trains_after_its_own_test(save, llama_folder, tmp_path):
    name = save("mine", REWARD)
    exec(f"{REWARD_TEST}\ntest_short()", {})
    command = re.search(r"python grpo.py (--task tasks.mine.*)", PAGE)[1].split()
    assert command[:5] == ["--task", name, "--reward_components", "answer", "short"]
    row = trained(
        tmp_path,
        model=llama_folder,
        task=name,
        reward_components=command[3:5],
        reward_weights=[float(word) for word in command[6:]],
    )
    assert "reward_short" in row


def test_the_rewards_test_catches_the_exploit_that_the_page_names(save):
    """'Without problem.is_correct in the reward, the third line would have earned it.'"""
    save("mine", REWARD.replace("problem.is_correct(completion) and ", ""))
    checks = re.findall("    assert .*\n", REWARD_TEST)
    third = REWARD_TEST.partition(checks[0])[0] + checks[2]
    with pytest.raises(AssertionError):
        exec(f"{third}\ntest_short()", {})


def test_the_row_of_data_is_a_problem():
    (row,) = blocks("json")
    problem = question_task.problem_of(json.loads(row))
    assert problem.result == "21" and problem.is_correct("</think>\n<answer>21</answer>")


def test_the_task_keeps_the_protocol_and_trains(save, llama_folder, tmp_path):
    name = save("largest_task", TASK)
    test_tasks.test_a_task_is_what_the_protocol_says(name)
    test_tasks.test_any_text_has_a_verdict(name)
    test_tasks.test_no_held_out_problem_is_trained_on(name)
    trained(tmp_path, model=llama_folder, task=name)
    problem = importlib.import_module(name).Problem((3, 12, 7))
    assert problem.is_correct("12 is the largest</think>\n<answer>12</answer>")
    assert not problem.is_correct("</think>\n<answer>7</answer>")


def test_the_page_has_what_was_measured():
    assert "\n".join(questions.table()) in PAGE
    assert questions.WARM_START.partition(" --steps")[0] in " ".join(PAGE.split())

"""How many threads a run takes, and what it says when its steps get slow."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

from runtime import threads

import pytest
import torch

import common
import grpo
from compose.reader import scripts

CONFIG = grpo.Config(prompts_per_step=2, group_size=2)


@pytest.fixture(autouse=True)
def one_thread_afterwards():
    yield
    torch.set_num_threads(1)


@pytest.fixture
def unset(monkeypatch):
    """As on a user's laptop of two cores, where nobody has set a number."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "ALL", 2)
    monkeypatch.setattr(threads, "SECONDS", 0)


@pytest.fixture
def model():
    return common.load_model("base_model")[0]


def clock(monkeypatch, seconds):
    """Timings that find `seconds`, {number of threads: seconds}; it may be changed later."""
    monkeypatch.setattr(
        threads, "timings", lambda work, numbers: {number: seconds[number] for number in numbers}
    )
    return seconds


def test_numbers_to_try():
    assert threads.doublings(1) == [1]
    assert threads.doublings(2) == [1, 2]
    assert threads.doublings(12) == [1, 2, 4, 8, 12]
    assert threads.doublings(16) == [1, 2, 4, 8, 16]


def test_more_threads_must_be_clearly_faster():
    assert threads.best({1: 1.0, 2: 0.95}) == 1
    assert threads.best({1: 1.0, 2: 0.8}) == 2
    assert threads.best({1: 1.0, 2: 0.6, 4: 0.55, 8: 0.4, 16: 3.0}) == 8
    assert threads.best({1: 1.0, 2: 1.1, 4: 0.5}) == 4


def test_timing_leaves_the_model_as_it_was(unset, model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    chosen = threads.Threads(model, CONFIG)
    assert sorted(chosen.timed) == [1, 2]
    assert torch.get_num_threads() == threads.best(chosen.timed)
    assert torch.equal(torch.rand(3), expected)  # no random stream was touched
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training


def test_what_is_timed_is_real_work(model):
    """Of forty times the rows it takes longer."""

    def seconds(rows):
        config = grpo.Config(prompts_per_step=rows, group_size=1)
        return threads.timings(threads.work_of_a_step(model, config, 0.6e6), [1])[1]

    assert seconds(320) > 1.5 * seconds(8)


@pytest.mark.parametrize(
    "config, environment, kept, number, why",
    [
        (grpo.Config(threads=3), {"OMP_NUM_THREADS": "1"}, 2, 3, "--threads"),
        (grpo.Config(), {"OMP_NUM_THREADS": "2"}, 1, 2, "OMP_NUM_THREADS"),
        (grpo.Config(), {}, 4, 4, "as before"),
        (grpo.Config(), {}, None, 2, "1: 100 ms, 2: 60 ms"),
    ],
)
def test_who_decides(unset, model, monkeypatch, config, environment, kept, number, why):
    clock(monkeypatch, {1: 0.1, 2: 0.06, 4: 0.05})
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
        torch.set_num_threads(int(value))  # as torch does when it is loaded
    chosen = threads.Threads(model, config, kept)
    assert torch.get_num_threads() == number
    assert chosen.why == why


def test_a_large_model_gets_all(unset, monkeypatch):
    clock(monkeypatch, {})
    large = SimpleNamespace(parameters=lambda: [torch.empty(60_000_000, device="meta")])
    assert threads.Threads(large, CONFIG).why == "all, for a large model"
    assert torch.get_num_threads() == 2


def test_slow_steps_are_timed_again(unset, model, monkeypatch):
    now = clock(monkeypatch, {1: 0.1, 2: 0.06})
    chosen = threads.Threads(model, CONFIG)
    assert torch.get_num_threads() == 2
    assert chosen.after_step(1, 2.0, 1000) is None
    assert chosen.after_step(2, 3.9, 1000) is None  # not yet twice as slow
    assert chosen.after_step(3, 6.0, 3000) is None  # three times as long for three times as much
    now[2] = 1.2  # another program has come
    line = "step 4 took 3.0 times as long for each token as the fastest: 1 instead of 2"
    assert chosen.after_step(4, 6.0, 1000).startswith(line)
    assert torch.get_num_threads() == 1
    assert chosen.after_step(5, 6.1, 1000) is None
    assert chosen.after_step(6, 12.5, 1000) is None  # the machine is as fast as it was
    now[1] = 0.3  # and a second program: no number helps, which is said once
    assert chosen.after_step(7, 26.0, 1000).endswith(
        "close what else uses the cores, or plug in the charger"
    )
    now[1] = 0.9
    assert chosen.after_step(8, 60.0, 1000) is None


def test_a_long_step_is_explained_once(unset, model, monkeypatch):
    clock(monkeypatch, {1: 0.1, 2: 0.06})
    chosen = threads.Threads(model, CONFIG)
    assert chosen.after_step(1, 1.0, 1000) is None
    assert "it wrote 4.0 times as many tokens; --max_new_tokens" in chosen.after_step(2, 5, 4000)
    assert chosen.after_step(3, 6, 5000) is None


def test_steps_of_less_than_a_second_are_never_slow(model):
    chosen = threads.Threads(model, CONFIG)
    assert chosen.after_step(1, 0.01, 1000) is None
    assert chosen.after_step(2, 0.9, 1000) is None


TINY = {"steps": 2, "prompts_per_step": 2, "group_size": 2, "max_new_tokens": 8, "minibatches": 1}
TINY |= {"eval_problems": 2, "eval_every": 0, "checkpoint_every": 1}


def test_a_resumed_run_keeps_its_number(unset, monkeypatch, tmp_path, capsys):
    seconds = clock(monkeypatch, {1: 0.1, 2: 0.06})
    options = TINY | {"output_dir": str(tmp_path / "run")}
    grpo.train(grpo.Config(**options))
    assert "2 threads (1: 100 ms, 2: 60 ms)" in capsys.readouterr().out
    seconds[2] = 0.5  # the machine is busy today
    grpo.train(grpo.Config(**options | {"steps": 3, "resume": True}))
    assert "2 threads (as before)" in capsys.readouterr().out
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line).get("threads") for line in lines if "reward" in line] == [2, 2, 2]
    grpo.train(grpo.Config(**options | {"steps": 4, "resume": True, "threads": 1}))
    assert "1 thread (--threads)" in capsys.readouterr().out


def test_the_remark_is_printed_under_its_step(unset, monkeypatch, tmp_path, capsys):
    clock(monkeypatch, {1: 0.1, 2: 0.06})
    monkeypatch.setattr(threads.Threads, "after_step", lambda self, step, *_: f"remark {step}")
    grpo.train(grpo.Config(**TINY | {"output_dir": str(tmp_path / "run")}))
    lines = capsys.readouterr().out.splitlines()
    assert [lines[lines.index(f"remark {step}") - 1].split()[0] for step in (1, 2)] == ["1", "2"]


WATCHED = """
import os, sys
class Watch:
    def find_spec(name, *_):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"))
sys.meta_path.insert(0, Watch)
import grpo
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "user, expected",
    [
        ({}, "PASSIVE 1000"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"),
        ({"GOMP_SPINCOUNT": "300000"}, "None 300000"),
    ],
)
def test_how_threads_wait_is_set_before_torch_is_loaded(user, expected):
    """What torch reads at the moment when grpo.py loads it; a user's own word is left alone."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {k: v for k, v in os.environ.items() if k not in names} | user
    shown = subprocess.run(
        [sys.executable, "-c", WATCHED],
        cwd=common.HERE,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.splitlines()[0] == expected


def test_every_script_imports_runtime_before_torch():
    for name in scripts():
        text = (common.HERE / (name.replace(".", "/") + ".py")).read_text(encoding="utf-8")
        assert text.index("\nfrom runtime import") < text.index("\nimport torch"), name

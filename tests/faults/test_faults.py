"""What a run survives: two starters, a full disk, damaged files, broken updates, signals."""

import builtins
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from runtime import run_folder, session
from runtime.measures import repeatable

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

import common
import dapo
import grpo
from countdown_task import CountdownTask
from tasks import InputError
from tests.faults import faults, micro, soak
from tools import tiny_runs

pytestmark = pytest.mark.slow
MICRO = tiny_runs.options_of("grpo")
PROBLEMS = CountdownTask().held_out(2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return micro.make_model(tmp_path_factory.mktemp("micro"))


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    """A finished run of two steps."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    train(model, folder)
    return folder


def train(model, folder, **changes):
    grpo.train(grpo.Config(**MICRO | {"model": model, "output_dir": str(folder)} | changes))


def refused(model, folder, **changes):
    """The one line, without a line break, with which a run is refused or stops."""
    with pytest.raises(InputError) as refusal:
        train(model, folder, **changes)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def rows(folder):
    return repeatable(run_folder.read_jsonl(folder / "metrics.jsonl"))


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(model, folder, *words):
    options = tiny_runs.words_of(MICRO | {"model": model, "output_dir": str(folder)})
    return [sys.executable, "grpo.py", *options, *words]


# ---- The folder belongs to one process ----------------------------------------------------------


def test_a_second_starter_is_refused_until_the_first_is_dead(model, finished, tmp_path):
    """By `kill -9` too, and whatever the second one asks for; it changes nothing."""
    folder = tmp_path / "run"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command(model, folder, "--steps", "100000"),
        cwd=common.HERE,
        env=environment,
        stdout=pipe,
        text=True,
    ) as first:
        assert any(line.startswith("   1  ") for line in first.stdout)
        first.send_signal(signal.SIGSTOP)  # alive, and silent
        try:
            before = contents(folder)
            for how in ({}, {"resume": True}, {"overwrite": True}):
                assert "another process" in refused(model, folder, steps=100000, **how)
            assert contents(folder) == before
        finally:
            first.kill()
    train(model, folder, resume=True, steps=len(rows(folder)))
    assert rows(folder)[: len(rows(finished))] == rows(finished)


def test_who_starts_while_another_loads_is_refused(model, tmp_path):
    """Both have seen an empty folder; the second to write finds that it has a run now."""
    options = MICRO | {"model": model, "output_dir": str(tmp_path / "run")}
    late = session.Run(grpo.Config(**options), "grpo")
    loaded = late.load(PROBLEMS)
    train(model, tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match="holds a run"):
        next(late.steps(*loaded))
    resumed = session.Run(grpo.Config(**options | {"resume": True}), "grpo")
    train(model, tmp_path / "run", resume=True, steps=3)
    with pytest.raises(InputError, match="another process has gone on with it"):
        next(resumed.steps(*loaded))
    assert before != contents(tmp_path / "run")


# ---- Disks --------------------------------------------------------------------------------------


def test_no_room_for_a_checkpoint(model, finished, tmp_path, monkeypatch):
    """One line with the file and the space that it takes; what is saved stays and goes on."""
    folder = tmp_path / "run"
    train(model, folder, steps=1)
    before = (folder / "checkpoint/state.json").read_bytes()
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        line = refused(model, folder, resume=True)
    assert "checkpoint.new: no space left, 0.0" in line and "MB needed, 0.001 free" in line
    assert "--resume" in line and (folder / "checkpoint/state.json").read_bytes() == before
    assert not (folder / "checkpoint.new").exists()
    train(model, folder, resume=True)
    assert rows(folder) == rows(finished)


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_no_room_for_the_log(model, finished, tmp_path, monkeypatch, name):
    """/dev/full is the system's own full disk. The row is lost, the checkpoint is not."""
    folder, real = tmp_path / "run", builtins.open
    train(model, folder, steps=1)

    def full(path, mode="r", **options):
        return real("/dev/full" if str(path).endswith(name) and mode == "ab" else path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", full)
        line = refused(model, folder, resume=True)
    assert f"{name}: no space left, 0.0" in line and "MB needed" in line
    train(model, folder, resume=True)
    assert rows(folder) == rows(finished)


@pytest.mark.parametrize("broken", ["model.safetensors", "optimizer.pt"])
def test_the_last_checkpoint_is_kept_until_the_next_is_read_back(
    model, finished, tmp_path, monkeypatch, broken
):
    """A disk that gives back other bytes than it was given, and says nothing."""
    folder = tmp_path / "run"
    train(model, folder, steps=1)
    read_back = run_folder.RunFolder._read_back

    def after_damage(self, file, model):
        if file.name == broken:
            data = bytearray(file.read_bytes())
            data[-300 if broken.endswith(".safetensors") else len(data) // 3] ^= 4
            file.write_bytes(data)
        return read_back(self, file, model)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder.RunFolder, "_read_back", after_damage)
        line = refused(model, folder, resume=True)
    assert broken in line and "--resume" in line and not (folder / "checkpoint.new").exists()
    assert json.loads((folder / "checkpoint/state.json").read_text())["step"] == 1
    train(model, folder, resume=True)
    assert rows(folder) == rows(finished)


# ---- Damaged files ------------------------------------------------------------------------------

DAMAGE = {  # file: what is done to it
    "checkpoint/model.safetensors": lambda file: os.truncate(file, file.stat().st_size // 2),
    "checkpoint/optimizer.pt": lambda file: file.write_bytes(b"garbage"),
    "checkpoint/state.json": lambda file: file.unlink(),
    "checkpoint/tokenizer.json": lambda file: file.write_text("{}"),
    "metrics.jsonl": lambda file: file.write_text(file.read_text().replace("1", "2", 1)),
    "samples.jsonl": lambda file: file.unlink(),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_named_with_the_way_on(model, finished, tmp_path, name):
    """And the way works: --overwrite, or the checkpoint before it where there is one."""
    folder = shutil.copytree(finished, tmp_path / "run")
    DAMAGE[name](folder / name)
    before = contents(folder)
    line = refused(model, folder, resume=True)
    assert str(folder / name) in line and "--overwrite" in line
    assert contents(folder) == before
    train(model, folder, overwrite=True)
    assert rows(folder) == rows(finished)


def test_the_checkpoint_before_a_damaged_one(model, finished, tmp_path):
    """As a kill leaves them that comes between a save and the removal of the one before."""
    folder = tmp_path / "run"
    train(model, folder, steps=1)
    shutil.copytree(folder / "checkpoint", folder / "old")
    train(model, folder, resume=True)
    (folder / "old").rename(folder / "checkpoint.old")
    DAMAGE["checkpoint/model.safetensors"](folder / "checkpoint/model.safetensors")
    line = refused(model, folder, resume=True)
    assert f"remove {folder / 'checkpoint'} to go on from the one before it" in line
    shutil.rmtree(folder / "checkpoint")
    train(model, folder, resume=True)
    assert rows(folder) == rows(finished)
    assert not (folder / "checkpoint.old").exists()


def test_a_checkpoint_without_digests(model, finished, tmp_path):
    """Those of earlier versions have none."""
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "checkpoint/state.json").write_text('{"step": 2, "tokens": 96}')
    line = refused(model, folder, resume=True)
    assert "state.json" in line and "older version" in line and "--overwrite" in line


def test_a_state_that_was_edited_is_damaged(model, finished, tmp_path):
    """It says where a run goes on; the digest of what it says is in it."""
    folder = shutil.copytree(finished, tmp_path / "run")
    file = folder / "checkpoint/state.json"
    file.write_text(file.read_text().replace('"step": 2', '"step": 1', 1))
    line = refused(model, folder, resume=True)
    assert "state.json is damaged (its contents have changed)" in line


def test_death_while_a_run_is_overwritten(model, finished, tmp_path, monkeypatch):
    """What is left is a run's folder still, so that --overwrite is enough the next time too."""
    folder = shutil.copytree(finished, tmp_path / "run")

    unlink = Path.unlink

    def mortal(path, *rest, **options):
        if path.name == "samples.jsonl":
            raise KeyboardInterrupt
        unlink(path, *rest, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", mortal)
        train(model, folder, overwrite=True)
    train(model, folder, overwrite=True)
    assert rows(folder) == rows(finished)


def test_a_damaged_config_is_replaced_by_the_checkpoint_s(model, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "config.json").write_text('{"script": ')
    assert "--resume or --overwrite" in refused(model, folder)  # it is a run's folder still
    assert "has seed 1, not 2" in refused(model, folder, resume=True, seed=2)
    train(model, folder, resume=True)
    assert json.loads((folder / "config.json").read_text())["script"] == "grpo"
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()  # nothing can replace that, with a checkpoint or without
    before = contents(folder)
    assert "config.json is damaged" in refused(model, folder, resume=True)
    assert contents(folder) == before
    shutil.rmtree(folder / "checkpoint")
    assert "config.json is damaged" in refused(model, folder, resume=True)
    (folder / "config.json").rmdir()
    assert "config.json" in refused(model, folder, resume=True)
    train(model, folder, overwrite=True)
    assert rows(folder) == rows(finished)


# ---- Numbers that are not -----------------------------------------------------------------------


def test_a_broken_update_stops_the_run(model, tmp_path):
    """One line: step, update, norm, what to lower; the log says it; the checkpoint is good."""
    folder = tmp_path / "run"
    line = refused(model, folder, learning_rate=1000.0)
    assert "step 1: update 2 broke the model (gradient norm nan, before it " in line
    assert "lower --learning_rate 1000.0" in line
    assert "checkpoint of step 0 is kept" in line
    last = run_folder.read_jsonl(folder / "metrics.jsonl")[-1]
    assert last == {"step": 1, "kind": "stopped", "stopped": line}
    common.load_model(str(folder / "checkpoint"))
    assert refused(model, folder, learning_rate=1000.0, resume=True) == line  # the same again


def test_weights_can_break_without_a_broken_gradient(model, tmp_path, monkeypatch):
    """In the last update of a step no further gradient tells."""
    step = torch.optim.AdamW.step

    def overflow(optimizer):
        step(optimizer)
        optimizer.param_groups[0]["params"][0].data[0, 0] = float("inf")

    monkeypatch.setattr(torch.optim.AdamW, "step", overflow)
    line = refused(model, tmp_path / "run", minibatches=1)
    assert "broke the model (gradient norm" in line and "nan" not in line


def test_broken_weights_are_not_resumed(model, tmp_path, monkeypatch):
    """A checkpoint that was written with them, by an older version or another program."""
    folder = tmp_path / "run"
    train(model, folder, steps=1)
    options = MICRO | {"model": model, "output_dir": str(folder), "resume": True}
    run = session.Run(grpo.Config(**options), "grpo")
    broken, tokenizer = run.load(PROBLEMS)
    next(run.steps(broken, tokenizer))  # the log as it is
    broken.model.norm.weight.data[0] = float("nan")
    monkeypatch.setattr(torch, "equal", lambda *_: True)  # nan is not itself
    run._save(1, broken, tokenizer, {})
    assert "not finite" in refused(model, folder, resume=True)


def test_logits_that_are_not_finite_sample_nothing(model, monkeypatch):
    """On CUDA the index beyond the vocabulary would be a device-side assert."""
    loaded, tokenizer = common.load_model(model)
    loaded.model.norm.weight.data.fill_(1e38)
    config = grpo.Config(max_new_tokens=4)
    with pytest.raises(InputError, match="not finite"):
        grpo.sample_groups(loaded, tokenizer, PROBLEMS, config, torch.Generator())


def test_a_base_that_never_ends_gives_no_signal(model, tmp_path):
    """Every completion is cut off and equally wrong: dapo.py refills, gives up, updates nothing."""
    endless = soak.never_ending(model, tmp_path / "endless")
    options = tiny_runs.options_of("dapo", model=endless, output_dir=str(tmp_path / "run"))
    options |= {"reward_components": ["answer"], "reward_weights": [1.0]}
    dapo.train(dapo.Config(**options))
    found = [row for row in rows(tmp_path / "run") if "reward" in row]
    assert [row["truncated"] for row in found] == [1, 1]
    assert [row["updates"] for row in found] == [0, 0]
    before, after = (
        load_file(path / "model.safetensors")
        for path in (tmp_path / "endless", tmp_path / "run/checkpoint")
    )
    assert all(torch.equal(after[name], before[name]) for name in before)


# ---- Signals, clocks, consoles ------------------------------------------------------------------


def test_sigterm_is_ctrl_c(model, finished, tmp_path):
    """Schedulers send it: the step is finished and saved."""

    def signalled():
        log = session.Run.log

        def log_and_die(run, step, metrics):
            log(run, step, metrics)
            os.kill(os.getpid(), signal.SIGTERM)

        session.Run.log = log_and_die

    words = command(model, tmp_path / "run")[2:]
    ended = micro.run("grpo", words, signalled)
    assert ended.status == 1 and "finishing this step" in ended.output
    assert ended.errors == "stopped after step 1; add --resume to go on\n"
    train(model, tmp_path / "run", resume=True)
    assert rows(tmp_path / "run") == rows(finished)


def test_sigterm_before_the_first_step_is_one_line(model, tmp_path):
    def signalled():
        common.load_model = lambda *_: os.kill(os.getpid(), signal.SIGTERM)

    ended = micro.run("grpo", command(model, tmp_path / "run")[2:], signalled)
    assert (ended.status, ended.errors) == (1, "grpo.py: stopped\n")


def test_a_clock_that_stands_still(model, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "perf_counter", lambda: 1.0)
    train(model, tmp_path / "run")
    assert rows(tmp_path / "run") == rows(finished)


def test_any_terminal_and_any_path(model, finished, tmp_path):
    """A console that lacks ± and 算, and a folder with spaces."""
    folder = tmp_path / "a run in 算 with späces"
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        command(model, folder), cwd=common.HERE, env=environment, capture_output=True
    )
    assert ended.returncode == 0 and ended.stderr == b""
    assert rb"\u7b97" in ended.stdout and b"--model '" in ended.stdout
    assert rows(folder) == rows(finished)


def test_a_console_that_is_gone(model, finished, tmp_path):
    """`python grpo.py | head -1`"""
    folder = tmp_path / "run"
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command(model, folder), cwd=common.HERE, env=environment, stdout=pipe, stderr=pipe
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read().decode()
    assert errors.startswith("grpo.py: output stopped") and errors.count("\n") == 1
    train(model, folder, resume=True)
    assert rows(folder) == rows(finished)


def test_what_a_reward_raises_is_not_the_consoles(monkeypatch):
    """A judge that is not there: its own error, with its traceback, and no advice to resume."""
    monkeypatch.setattr(session, "parse_options", lambda *_: None)

    def judge(_):
        raise ConnectionRefusedError("no judge at 127.0.0.1")

    with pytest.raises(ConnectionRefusedError, match="no judge"):
        session.launch(judge, grpo.Config, "")


def test_a_run_does_not_write_over_its_reference(finished, tmp_path):
    """Its first model would be gone, and a resumed run would take its KL to another one."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    before = contents(folder)
    for place in (folder, folder / "checkpoint"):
        line = refused(str(place), folder, overwrite=True)
        assert line.startswith(f"--model {place}: lies in {folder}") and "--output_dir" in line
    assert contents(folder) == before
    train(str(folder), tmp_path / "next", steps=0)


def test_a_checkpoint_of_a_model_with_several_chat_templates(model, finished, tmp_path):
    """transformers writes them into a folder of their own, and a resumed run reads them there."""
    start = tmp_path / "templates"
    shutil.copytree(model, start)
    tokenizer = AutoTokenizer.from_pretrained(start)
    question = "{{ messages[0].content }}"
    tokenizer.chat_template = {"default": question, "tool_use": f"tools {question}"}
    tokenizer.save_pretrained(start)
    folder = tmp_path / "run"
    train(str(start), folder, steps=1)
    extra = folder / "checkpoint/additional_chat_templates/tool_use.jinja"
    assert extra.exists()
    train(str(start), folder, resume=True)
    extra.write_text("changed")
    assert "tool_use.jinja is damaged" in refused(str(start), folder, resume=True)


# ---- The harnesses ------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["tests.faults.faults", "tests.faults.bad_input"])
def test_short_form(module):
    """A few of every kind; the long forms write docs/lab/faults.md."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", module, "--short"],
        cwd=common.HERE,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    total = next(line for line in ended.stdout.splitlines() if line.startswith("| **all** |"))
    assert int(total.split("|")[2]) >= 50 and total.endswith("| 0 |")


def test_the_harness_sees_careless_code(model, tmp_path, monkeypatch):
    """Without digests a run goes on from what is left of its files."""

    def unchecked(folder):
        return json.loads((folder.latest() / "state.json").read_text())

    monkeypatch.setattr(run_folder, "write_text", lambda path, text: path.write_text(text))
    monkeypatch.setattr(run_folder.RunFolder, "_read_back", lambda *_: None)
    monkeypatch.setattr(run_folder.RunFolder, "_read_state", unchecked)
    world = faults.World("grpo", tmp_path, model)
    cut = faults.DAMAGE["file cut off"]
    for name in ("checkpoint/state.json", "metrics.jsonl", "checkpoint/model.safetensors"):
        verdict, _ = faults.damage(world, "finished", name, cut, random.Random(1))
        assert verdict == faults.OTHER, name

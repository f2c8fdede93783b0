"""What --report_to writes: each row of metrics.jsonl once, under its name, whatever happens."""

import csv
import errno
import importlib.util
import os
import re
import signal
import sys
import threading
import types
from pathlib import Path

from runtime import run_folder, session, trackers

import numpy as np
import pytest

import grpo
from common import HERE
from countdown_task import REWARDS
from tasks import InputError
from tests.faults import micro
from tools import tiny_runs

MICRO = tiny_runs.options_of("grpo", steps=5, checkpoint_every=2, eval_every=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return micro.make_model(tmp_path_factory.mktemp("micro"))


def train(model, folder, **changes):
    options = MICRO | {"model": model, "output_dir": str(folder)} | changes
    grpo.train(grpo.Config(**options))


def killed_after_step_3(model, folder, **changes):
    """The checkpoint is that of step 2."""

    def prepare():
        log = session.Run.log

        def log_and_die(run, step, metrics):
            log(run, step, metrics)
            if step == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        session.Run.log = log_and_die

    options = MICRO | {"model": model, "output_dir": str(folder)} | changes
    ended = micro.run("grpo", tiny_runs.words_of(options), prepare)
    assert ended.status == -signal.SIGKILL, ended.errors


def logged(folder):
    """{name: [(step, value)]} of metrics.jsonl, nulls left out, as a tracker should have it."""
    series = {}
    for row in run_folder.read_jsonl(folder / "metrics.jsonl"):
        for name, value in trackers.named(row, REWARDS).items():
            series.setdefault(name, []).append((row["step"], value))
    return series


def in_event_files(folder):
    """The same of TensorBoard's files, by TensorBoard's own reader; it rounds to float32."""
    reader = accumulator(folder)
    reader.Reload()
    names = reader.Tags()["scalars"]
    return {name: [(e.step, e.value) for e in reader.Scalars(name)] for name in names}


def accumulator(folder):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    return event_accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})


def in_csv(folder):
    series = {}
    with open(folder / "metrics.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            step = int(row.pop("step"))
            for name, text in row.items():
                if text:
                    series.setdefault(name, []).append((step, float(text)))
    return series


def rounded(series):
    return {name: [(s, float(np.float32(v))) for s, v in row] for name, row in series.items()}


READERS = {"tensorboard": in_event_files, "csv": in_csv}


def same(tracker, folder):
    """Each series of the log is in the tracker: the same steps, once each, the same values."""
    expected = logged(folder)
    assert {"train/reward", "eval/accuracy"} <= expected.keys()
    if tracker == "tensorboard":
        expected = rounded(expected)
    assert READERS[tracker](folder) == expected


def steps_of(tracker, folder):
    return [step for step, _ in READERS[tracker](folder)["train/reward"]]


# ---- Kills, --resume, --overwrite ---------------------------------------------------------------


@pytest.mark.parametrize("tracker", READERS)
def test_a_killed_run_shows_each_step_once(model, tmp_path, tracker):
    """Until the kill to the last step, after --resume all of them, after --overwrite no old one."""
    pytest.importorskip(tracker)
    folder = tmp_path / "run"
    killed_after_step_3(model, folder, report_to=tracker)
    same(tracker, folder)
    assert steps_of(tracker, folder) == [1, 2, 3]  # flushed, though nothing closed it
    train(model, folder, report_to=tracker, resume=True)
    same(tracker, folder)
    assert steps_of(tracker, folder) == [1, 2, 3, 4, 5]
    train(model, folder, report_to=tracker, overwrite=True, steps=1, seed=2)
    same(tracker, folder)
    assert steps_of(tracker, folder) == [1]


@pytest.mark.parametrize("tracker", READERS)
def test_a_run_gets_a_tracker_later(model, tmp_path, tracker):
    """From its first step on, although it is finished; and may go on without it, or do neither."""
    pytest.importorskip(tracker)
    folder = tmp_path / "run"
    train(model, folder)
    assert {path.name for path in folder.iterdir()} == {
        *("checkpoint", "config.json", "lock", "metrics.jsonl", "samples.jsonl"),
    }
    train(model, folder, report_to=tracker, resume=True)
    same(tracker, folder)
    train(model, folder, resume=True, steps=6)
    assert steps_of(tracker, folder) == [1, 2, 3, 4, 5]
    with pytest.raises(InputError, match="only --steps, --threads and --report_to may change"):
        train(model, folder, resume=True, steps=6, seed=2)
    with pytest.raises(InputError, match="holds a run"):
        train(model, folder, report_to=tracker)


@pytest.mark.parametrize("tracker", READERS)
def test_a_run_that_starts_over_shows_nothing_of_before(tmp_path, tracker):
    """As --resume does where there is no checkpoint yet."""
    pytest.importorskip(tracker)
    with trackers.Tracker(tracker, tmp_path, {}, [{"step": 1, "reward": 0.5}]):
        assert steps_of(tracker, tmp_path) == [1]
    with trackers.Tracker(tracker, tmp_path, {}, []):
        assert tracker == "csv" or in_event_files(tmp_path) == {}
        assert not (tmp_path / "metrics.csv").exists()


# ---- wandb and trackio, by their calls ----------------------------------------------------------


@pytest.fixture
def wandb(monkeypatch):
    """A wandb whose server keeps the rows of each id, as the real one does."""
    server = {}
    calls = types.SimpleNamespace(server=server, init=[], config=[], metrics=[], exit_codes=[])

    def init(**options):
        calls.init.append(options)
        rows = server.setdefault(options["id"], [])

        def log(values, step, commit):
            assert step == len(rows) and commit  # wandb ignores what comes again
            rows.append(values)

        return types.SimpleNamespace(
            starting_step=len(rows),
            config=types.SimpleNamespace(update=lambda *args, **_: calls.config.append(*args)),
            define_metric=lambda name, step_metric: calls.metrics.append((name, step_metric)),
            log=log,
            finish=lambda exit_code: calls.exit_codes.append(exit_code),
        )

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return calls


def test_wandb_goes_on_with_the_same_run(model, tmp_path, monkeypatch, wandb):
    """And sends it no row twice; --overwrite starts another one."""
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(run_folder.RunFolder, "save", dying_at(4))
        with pytest.raises(KeyboardInterrupt):
            train(model, folder, report_to="wandb")
    assert wandb.exit_codes == [1]
    train(model, folder, report_to="wandb", resume=True, steps=6)
    first, second = wandb.init
    assert first == second and first["resume"] == "allow" and first["project"] == "grpo-family"
    assert first["name"] == "run" and first["dir"] == folder
    assert wandb.config[1]["steps"] == 6 and wandb.metrics[0] == ("*", "step")
    rows = run_folder.read_jsonl(folder / "metrics.jsonl")
    sent = [{"step": row["step"], **trackers.named(row, REWARDS)} for row in rows]
    assert strip(wandb.server[first["id"]]) == strip(sent)
    train(model, folder, report_to="wandb", overwrite=True, steps=1)
    assert wandb.init[2]["id"] != first["id"] and len(wandb.server[wandb.init[2]["id"]]) == 3
    assert wandb.exit_codes == [1, 0, 0]


def strip(rows):
    """Without what a clock says: the killed process's seconds are those that wandb keeps."""
    timed = ("train/seconds", "train/tokens_per", "train/peak")
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows]


def dying_at(step):
    """RunFolder.save, but Ctrl-C comes when it saves this step."""
    save = run_folder.RunFolder.save

    def save_or_die(folder, state, *parts):
        if state["step"] == step:
            raise KeyboardInterrupt
        save(folder, state, *parts)

    return save_or_die


def test_trackio_has_one_run_for_a_folder(model, tmp_path, monkeypatch):
    """A resumed one takes the place of what the killed process wrote."""
    store = {}
    names = []

    class Api:
        def runs(self, project):
            if not store:
                raise ValueError(f"Project '{project}' does not exist")
            return [
                types.SimpleNamespace(name=name, delete=lambda name=name: store.pop(name))
                for name in list(store)
            ]

    def init(project, name, config):
        assert project == "grpo-family" and config["script"] == "grpo"
        assert name not in store
        names.append(name)
        store[name] = []

    module = types.SimpleNamespace(Api=Api, init=init, finish=lambda: names.append("end"))
    module.log = lambda values, step: store[names[-1]].append({"step": step, **values})
    monkeypatch.setitem(sys.modules, "trackio", module)
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(run_folder.RunFolder, "save", dying_at(4))
        with pytest.raises(KeyboardInterrupt):
            train(model, folder, report_to="trackio")
    train(model, folder, report_to="trackio", resume=True)
    rows = run_folder.read_jsonl(folder / "metrics.jsonl")
    sent = [{"step": row["step"], **trackers.named(row, REWARDS)} for row in rows]
    assert list(store.values()) == [sent]
    train(model, folder, report_to="trackio", overwrite=True, steps=1)
    assert len(store) == 2 and [name[:4] for name in names] == ["run-", "end"] * 3


# ---- What goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_refused_before_anything_is_written(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    config = grpo.Config(report_to=name, output_dir=str(tmp_path / "run"))
    with pytest.raises(InputError) as refusal:
        session.Run(config, "grpo")
    assert str(refusal.value) == f"--report_to {name}: pip install {name}"
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused(tmp_path):
    config = grpo.Config(report_to="mlflow", output_dir=str(tmp_path / "run"))
    with pytest.raises(InputError, match="choose from none, tensorboard, wandb, trackio, csv"):
        session.Run(config, "grpo")


class Fails:
    """A writer that takes two rows."""

    def __init__(self, folder, settings):
        self.rows = 0

    def log(self, step, values):
        self.rows += 1
        if self.rows > 2:
            raise ConnectionError("no network.\nTraceback and so on")

    def close(self, failed):
        raise AssertionError("it has failed already")


def test_a_tracker_that_fails_does_not_stop_the_run(model, tmp_path, monkeypatch, capsys):
    """One line, once; the log and the model are those of a run without it."""
    train(model, tmp_path / "without")
    plain = capsys.readouterr().out
    monkeypatch.setitem(trackers.WRITERS, "csv", Fails)
    train(model, tmp_path / "run", report_to="csv")
    output = capsys.readouterr().out
    assert output.count("--report_to csv: no network; going on without it\n") == 1
    assert output.count("\n") == plain.count("\n") + 1
    rows = [tiny_runs.training_rows(tmp_path / folder) for folder in ("without", "run")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("name", ["tensorboard", "csv"])
def test_a_tracker_that_cannot_start_is_one_line(tmp_path, capsys, name):
    pytest.importorskip(name)
    (tmp_path / "metrics.csv").mkdir()
    (tmp_path / "events.out.tfevents.1").mkdir()
    with trackers.Tracker(name, tmp_path, {}, [{"step": 1, "reward": 0.5}]) as tracker:
        tracker.log({"step": 2, "reward": 0.5})
    found = capsys.readouterr().out
    assert found.count("\n") == 1 and found.startswith(f"--report_to {name}: ")


def test_a_full_disk_under_tensorboard_is_one_line(tmp_path, capsys, monkeypatch):
    """Its files are written by a thread, whose traceback would be printed as well."""
    gfile = pytest.importorskip("tensorboard.compat.tensorflow_stub.io.gfile")
    dead = []
    monkeypatch.setattr(threading, "excepthook", dead.append)
    with trackers.Tracker("tensorboard", tmp_path, {}, [{"step": 1, "reward": 0.5}]) as tracker:

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(gfile.LocalFileSystem, "append", full)
        for step in (2, 3):
            tracker.log({"step": step, "reward": 0.5})
    line = "--report_to tensorboard: No space left on device; going on without it\n"
    assert capsys.readouterr().out == line and dead == []
    other = threading.Thread(target=lambda: 1 / 0)
    other.start()
    other.join()
    assert len(dead) == 1  # others are reported as before


# ---- Names --------------------------------------------------------------------------------------

OF_A_TASK = ("answer", "brevity")  # names that a task gives its rewards


def test_named_takes_numbers_and_leaves_out_nulls():
    row = {"step": 3, "kind": "step", "reward": 0.5, "clipped_low": None, "pairs": [[1, 2]]}
    row |= {"kl_ref": float("nan"), "updates": 4, "length": 7.5, "eval_length": 8.5, "stopped": "x"}
    assert trackers.named(row) == {
        "train/reward": 0.5,
        "train/updates": 4,
        "train/completions/mean_length": 7.5,
        "eval/completions/mean_length": 8.5,
    }


def test_the_page_has_the_names():
    """The table of docs/reference/log.md is what a tracker gets, and says all that is renamed."""
    page = (HERE / "docs/reference/log.md").read_text(encoding="utf-8")
    table = page.partition("| in `metrics.jsonl` |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines()[2:]]
    cells = [[re.findall("`(.*?)`", cell) for cell in row] for row in rows]
    pairs = [pair for ours, theirs in cells for pair in zip(ours, theirs, strict=True)]
    shown = {
        ours.replace("<component>", component): theirs.replace("<component>", component)
        for ours, theirs in pairs
        for component in OF_A_TASK
    }
    assert {ours: [theirs] for ours, theirs in shown.items()} == {
        ours: list(trackers.named({ours: 1}, OF_A_TASK)) for ours in shown
    }
    rewards = {f"reward_{component}" for component in OF_A_TASK}
    assert {ours.removeprefix("eval_") for ours in shown} == trackers.TRL_NAMES.keys() | rewards


def test_trl_logs_these_names():
    spec = importlib.util.find_spec("trl") or pytest.skip("trl is not installed")
    trainer = Path(spec.origin).parent / "trainer/grpo_trainer.py"
    source = trainer.read_text(encoding="utf-8")
    for written in [*trackers.TRL_NAMES.values(), "rewards/{reward_func_name}/mean"]:
        assert f'"{written}"' in source

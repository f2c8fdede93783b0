"""The real model's experiment: skipped without its folder, and its GPU script tried without one."""

import json
import subprocess
import sys

from runtime.run_folder import read_jsonl

import pytest

from common import HERE
from experiments import archive, real_model, real_model_gpu, run
from experiments.catalogue import EXPERIMENTS
from experiments.catalogue.real_model import ARMS


def test_without_its_model_it_is_skipped(tmp_path, monkeypatch, capsys):
    """In one line, by itself or among others; one run of it ends in one line too."""
    monkeypatch.setattr(run, "REAL_MODEL", tmp_path / "nowhere")
    monkeypatch.setattr(run, "lacks_its_model", lambda name: name in ARMS)
    monkeypatch.setattr(archive, "LOGS", tmp_path)
    started = []
    monkeypatch.setattr(run, "run_all", lambda todo, jobs: started.extend(todo))
    monkeypatch.setattr(sys, "argv", ["run", "--only", "real_model", "long"])
    assert run.main() is None
    assert started == [("long", 1), ("long", 2)]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "docs/lab/real_model.md" in lines[1]
    with pytest.raises(SystemExit, match="real_grpo: skipped, no model in"):
        run.run_one("real_grpo", 1)


def test_the_arms_are_one_run_but_for_their_script():
    assert len({json.dumps({**arm.flags, "overlong_cache": 0}) for arm in ARMS.values()}) == 1
    assert [arm.script for arm in ARMS.values()] == list(run.SCRIPTS)
    assert EXPERIMENTS["real_model"].arms == tuple(ARMS)


@pytest.mark.slow
def test_the_gpu_script_goes_on(tmp_path):
    """It warms up, runs an arm, stops when its time is over, and called again does the rest."""
    program = (
        "import sys; from experiments import real_model_gpu as it; it.ARMS = it.ARMS[:2]; "
        f"sys.argv = ['it', '--model', 'base_model', '--small', '--work', {str(tmp_path)!r}, "
        "'--minutes', MINUTES]; sys.exit(it.main())"
    )
    for minutes, status in (("0", 1), ("10", 0), ("10", 0)):
        call = [sys.executable, "-c", program.replace("MINUTES", repr(minutes))]
        ended = subprocess.run(call, cwd=HERE, capture_output=True, text=True)
        assert ended.returncode == status, ended.stderr
    rows = read_jsonl(tmp_path / "log.jsonl")
    steps = {
        name: [r["step"] for r in rows if r["run"] == name and "updates" in r]
        for name in {row["run"] for row in rows}
    }
    assert steps == {"warm": [], "grpo-seed1": [1, 2], "dr_grpo-seed1": [1, 2]}
    assert len({row["run"] for row in read_jsonl(tmp_path / "samples.jsonl")}) == 2
    assert (tmp_path / "console.txt").read_text().count("$ grpo.py") == 1  # not again


def test_an_interrupted_arm_is_stopped(tmp_path, monkeypatch):
    """When the time is over: Ctrl-C, and if that is not heard, a kill."""
    monkeypatch.setattr(real_model_gpu, "PATIENCE", 0.5)
    arguments = real_model_gpu.argparse.Namespace(
        minutes=0.02, work=tmp_path, output=tmp_path, model="base_model", small=True
    )
    work = real_model_gpu.Work(arguments)
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    processes = [
        work.start("a", ["-c", program]) for program in (deaf, "import time; time.sleep(60)")
    ]
    work.finish(processes)
    assert all(process.poll() is not None for process in processes)


def test_what_is_kept_is_what_was_logged(tmp_path, monkeypatch, capsys):
    """A warm start's rows; medians of a run's steps; one line where there is no log."""
    monkeypatch.setattr(real_model, "RESULT", tmp_path / "kept.json")
    figures = ("format", "arithmetic steps right", "verdicts right", "verdict yes right", "solved")
    figures += ("pass@4", "cut at the budget", "tokens per completion")
    row = {"step": 3, "tokens": 1234, **dict.fromkeys(figures, 0.25)}
    (tmp_path / "warm_start.jsonl").write_text(json.dumps(row))
    steps = [{"updates": 4, "peak_memory_mb": 5000, "threads": 2, "tokens_sampled": 900}] * 3
    steps = [
        {**one, "seconds_sampling": s, "seconds_updating": 9}
        for one, s in zip(steps, (1, 2, 9), strict=True)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, steps)))
    config = {"script": "grpo"} | dict.fromkeys(real_model.SETTINGS, 2)
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = ["real_model", "--warm_start", str(tmp_path), "--steps", str(tmp_path), "--name", "x"]
    monkeypatch.setattr(sys, "argv", words)
    real_model.main()
    printed = capsys.readouterr().out
    assert "| 1,234 | 25 % | 25 % | 25.0 % | 25 % | **25.0 %** | 25 % | 25 % | 0 |" in printed
    assert "| grpo.py | 4 | 900 | 2 s | 9 s | 11 | 5.0 GB | 2 |" in printed
    monkeypatch.setattr(sys, "argv", ["real_model", "--steps", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit):
        real_model.main()
    assert "no step is logged" in capsys.readouterr().err

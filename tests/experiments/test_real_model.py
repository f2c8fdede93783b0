"""The real model's experiment: skipped without its folder, and its GPU script tried without one."""

import json
import subprocess
import sys

from runtime.run_folder import read_jsonl

import pytest

from common import HERE
from experiments import real_model, real_model_gpu, run
from experiments.catalogue import EXPERIMENTS
from experiments.catalogue.real_model import ARMS


def test_the_model_is_made_first(tmp_path, monkeypatch):
    """For arms that ask for it alone; the pretrained one first; a killed warm start goes on."""
    calls = []
    codes = [0, 1, 0]  # the warm start is killed once

    def ran(command, cwd):
        calls.append(command[1:])
        folder = tmp_path / command[-1 if "--resume" not in command else -2]
        folder.mkdir(parents=True, exist_ok=True)
        code = codes[len(calls) - 1]
        (folder / ("warm_start.pt" if code else "tokenizer.json")).touch()
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run.subprocess, "run", ran)
    run.prepare_models(["grpo", "kl_0"])
    assert calls == []
    with pytest.raises(SystemExit, match="runs/smollm2-warm could not be made"):
        run.prepare_models(["grpo", "real_gspo"])
    run.prepare_models(["real_gspo"])
    run.prepare_models(["real_grpo"])
    assert [call[1] for call in calls] == ["tools.smollm2"] + 2 * ["base_model.warm_start"]
    assert calls[2] == [*calls[1], "--resume"]
    page = (HERE / "docs/lab/real_model.md").read_text(encoding="utf-8").replace("\\\n", " ")
    assert " ".join(calls[1]) in " ".join(page.split())


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
    processes = [work.start(["-c", program]) for program in (deaf, "import time; time.sleep(60)")]
    work.finish(processes)
    assert all(process.poll() is not None for process in processes)


def test_what_is_kept_is_what_was_logged(tmp_path, monkeypatch, capsys):
    """A warm start's rows, as a table with the runs'; one line where nothing was measured."""
    monkeypatch.setattr(real_model, "RESULT", tmp_path / "kept.json")
    figures = ("format", "arithmetic steps right", "verdicts right", "verdict yes right", "solved")
    figures += ("pass@4", "cut at the budget", "tokens per completion")
    row = {"step": 3, "tokens": 1234, **dict.fromkeys(figures, 0.25)}
    (tmp_path / "warm_start.jsonl").write_text(json.dumps(row))
    monkeypatch.setattr(sys, "argv", ["real_model", "--warm_start", str(tmp_path), "--name", "x"])
    real_model.main()
    printed = capsys.readouterr().out
    assert "| 1,234 | 25 % | 25 % | 25.0 % | 25 % | **25.0 %** | 25 % | 25 % | 0 |" in printed
    monkeypatch.setattr(sys, "argv", ["real_model", "--warm_start", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit):
        real_model.main()
    assert "no warm_start.jsonl" in capsys.readouterr().err


def test_the_runs_table_is_of_the_logs(monkeypatch):
    """Medians and shares by hand, from three made-up rows a run."""
    steps = [
        {"step": s, "seconds": 50 + s, "peak_memory_mb": 4e3, "tokens_total": 1000 * s}
        for s in (1, 2, 9)
    ]
    rows = [{"step": s, "eval_accuracy": s / 100} for s in real_model.EVALUATED] + steps
    monkeypatch.setattr(real_model, "load", lambda arm: {7: rows} if arm == "real_gdpo" else {})
    *_, line = real_model.runs()
    assert line == "| gdpo.py, seed 7 | 0 % | 10 % | 20 % | 30 % | 40 % | 9,000 | 52 s | 4.0 GB |"

"""plots/diagnose.py: each symptom shows when planted, and only then."""

import json
import subprocess
import sys

import pytest

from plots import diagnose

STEPS = 20


def rise(start, end):
    return [start + (end - start) * step / (STEPS - 1) for step in range(STEPS)]


def run(**changed):
    """Rows of a healthy run: accuracy up, length with it, the clip quiet."""
    columns = {
        "accuracy": rise(0.3, 0.8),
        "reward": rise(0.4, 0.9),
        "reward_answer": rise(0.3, 0.8),
        "reward_format": [1.0] * STEPS,
        "length": rise(50, 100),
        "length_right": rise(45, 80),
        "length_wrong": rise(50, 180),
        "entropy": rise(0.1, 0.085),
        "kl_old": [1e-4] * STEPS,
        "kl_ref": rise(0.0, 0.04),
        "ratio_max": [1.5] * STEPS,
        "clip_low": [1e-4] * STEPS,
        "clip_high": [1e-4] * STEPS,
        "clip_forks": [1e-3] * STEPS,
        "groups_without_signal": rise(0.0, 0.2),
        "truncated": rise(0.0, 0.1),
        "grad_norm": [0.1] * STEPS,
        **changed,
    }
    return [
        {"step": step + 1, **{name: values[step] for name, values in columns.items()}}
        for step in range(STEPS)
    ]


def shown(rows, script="grpo"):
    return {finding.symptom for finding in diagnose.findings(script, rows) if finding.shown}


PLANTED = {
    "length grows without accuracy": {"accuracy": rise(0.5, 0.51), "reward": rise(0.5, 0.51)},
    "entropy collapses": {"entropy": rise(0.1, 0.02)},
    "token ratios are noisy": {"kl_old": rise(1e-4, 1e-2)},
    "reward components collide": {"reward_brevity": rise(0.5, 0.4)},
    "fork tokens are clipped": {"clip_forks": rise(0.1, 0.01)},
    "groups without signal": {"groups_without_signal": rise(0.0, 0.6)},
    "reward rises, accuracy does not": {"accuracy": [0.3] * STEPS, "length": [50] * STEPS},
    "policy far from the start": {"kl_ref": rise(0.0, 2.0)},
    "training breaks": {"accuracy": [0.3] * 5 + [0.8] * 8 + [0.5] * 7},
}


def test_healthy_run():
    assert shown(run()) == set()
    assert list(PLANTED) == list(diagnose.SYMPTOMS) == list(diagnose.PANELS)


@pytest.mark.parametrize("symptom", PLANTED)
def test_planted_symptom(symptom):
    found = shown(run(**PLANTED[symptom]))
    # Length that grows while accuracy falls is both.
    assert found - {"length grows without accuracy"} == {symptom} - {
        "length grows without accuracy"
    }
    assert symptom in found


def test_what_the_script_cannot_show():
    """cispo.py's and gspo.py's clips stop no single tokens; without a reference there is no KL."""
    rows = run(clip_forks=rise(0.1, 0.01), kl_ref=[None] * STEPS)
    assert shown(rows, "cispo") == shown(rows, "gspo") == set()
    assert shown(run(clip_forks=[None] * STEPS)) == set()


def test_command_line(tmp_path):
    """A run directory, its panels, and one clear line where there is no run or a short one."""
    (tmp_path / "config.json").write_text(json.dumps({"script": "grpo"}))
    rows = [*run(**PLANTED["training breaks"]), {"step": 0, "eval_accuracy": 0.3}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "plots/diagnose.py"]
    done = subprocess.run([*command, tmp_path], cwd=diagnose.ROOT, capture_output=True, text=True)
    assert (
        done.returncode == 0 and "SHOWN  training breaks: accuracy 30 points below" in done.stdout
    )
    assert (tmp_path / "diagnosis.png").stat().st_size > 10_000
    (tmp_path / "metrics.jsonl").write_text(json.dumps(rows[0]) + "\n")
    for path, message in ((tmp_path, "at least 8 are needed"), ("nowhere", "no run here")):
        done = subprocess.run([*command, path], cwd=diagnose.ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr

"""tools/gpu_check.py on a CPU: its small part, and that it can say no. See docs/lab/gpu.md."""

import importlib
import json

from runtime import options

import pytest
import torch

import common
import grpo
from tools import gpu_check


def run(monkeypatch, tmp_path, *words):
    """(exit status, report) of the command line."""
    output = tmp_path / "report.json"
    monkeypatch.setattr("sys.argv", ["gpu_check", *words, "--output", str(output)])
    status = gpu_check.main()
    return status, json.loads(output.read_text())


@pytest.mark.slow
def test_small_part(monkeypatch, tmp_path, capsys):
    """All that needs no GPU is right; the rest is named as skipped, in the table too."""
    status, report = run(monkeypatch, tmp_path)
    assert status == 0
    assert all(report["resume"]["run"][what] for what in ("same", "right"))
    assert report["resume"]["run"]["killed_after_step"] < gpu_check.STEPS
    skipped = {name for name, found in report.items() if "skipped" in found}
    assert skipped == set(gpu_check.FOR_GPUS) - {"memory"}
    printed = capsys.readouterr().out
    assert all(f"{name:9s} skipped" in printed for name in skipped)


@pytest.mark.slow
def test_a_wrong_number_is_told(monkeypatch, tmp_path):
    """A sampler whose log-probs are off by 0.001 fails in float32."""
    sample = grpo.sample_groups

    def off(*arguments):
        rollout = sample(*arguments)
        rollout.logprobs += 1e-3 * rollout.mask
        return rollout

    monkeypatch.setattr(gpu_check.grpo, "sample_groups", off)
    status, report = run(monkeypatch, tmp_path, "--parts", "engine")
    assert status == 1
    assert not report["engine"]["base_model, float32"]["right"]


def test_a_part_that_fails_leaves_the_others(monkeypatch, tmp_path):
    monkeypatch.setitem(gpu_check.PARTS, "engine", lambda args: 1 / 0)
    monkeypatch.setitem(gpu_check.PARTS, "scripts", lambda args: {"grpo": {"right": True}})
    status, report = run(monkeypatch, tmp_path, "--parts", "engine", "scripts")
    assert status == 1
    assert "ZeroDivisionError" in report["engine"]["failed"]
    assert report["scripts"]["grpo"] == {"right": True}


@pytest.mark.parametrize("native", [True, False])
def test_bf16_only_where_the_card_has_it(native, monkeypatch):
    """A T4 emulates bfloat16, slowly: `auto` is float32 there; float16 is no choice at all."""
    assert not common.uses_bf16(grpo.Config(dtype="auto"))  # on a CPU
    monkeypatch.setattr(common, "MODEL_DEVICE", torch.device("cuda"))
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or native
    )
    assert common.uses_bf16(grpo.Config(dtype="auto")) == native
    assert common.uses_bf16(grpo.Config(dtype="bfloat16"))
    assert "float16" not in common.DTYPES


def test_commands_of_the_page():
    """docs/lab/gpu.md has six, for cards of different sizes, and a script accepts each."""
    commands = gpu_check.commands()
    assert [command["gb"] for command in commands] == ["24", "80", "15", "8", "12", "16"]
    assert ["--lora_rank" in command["options"] for command in commands] == [False] * 3 + [True] * 3
    for command in commands:
        module = importlib.import_module(command["script"])
        config = options.parse_options(module.Config, words=command["options"].split())
        assert config.steps == 500
        assert command["shape"] in gpu_check.benchmark.SHAPES


def test_committed_report_is_of_a_gpu_and_right():
    """The figures that docs/lab/gpu.md quotes."""
    report = json.loads((common.HERE / "experiments/gpu_h100.json").read_text())
    assert report["about"]["card"] and report["about"]["date"]
    checks = [one for found in report.values() for one in found.values() if isinstance(one, dict)]
    assert all(check.get("right", True) for check in checks)
    assert sum(found.get("seconds", 0) for found in report.values()) < 8 * 60
    for name, errors in report["engine"].items():
        if name != "seconds" and "right" in errors:
            assert errors["right"] == gpu_check.is_right(errors)

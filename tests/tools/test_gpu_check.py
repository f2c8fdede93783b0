"""tools/gpu_check.py on a CPU: its small part, and that it can say no. See docs/lab/gpu.md."""

import importlib
import json

from runtime import cuda_graphs, options

import pytest
import torch

import common
import grpo
from experiments import decoding
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
    assert skipped == set(gpu_check.FOR_GPUS) & set(gpu_check.USUAL)
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


@pytest.fixture
def no_graphs(monkeypatch):
    """Decoding steps as on a GPU, each computed again where its graph would be replayed."""
    monkeypatch.setattr(cuda_graphs.DecodingStep, "record", lambda self: lambda: self.logits())
    monkeypatch.setattr(decoding, "TIMES", 1)


@pytest.mark.parametrize("folder", ["llama_folder", "qwen_folder"])
def test_ways_to_decode(folder, request, no_graphs):
    """All compute the step's logits; in a graph of its own too the draw is the script's."""
    model, _ = common.load_model(request.getfixturevalue(folder))
    prompts = [[1, 2, 3, 4], [5, 6, 7], [5, 6, 7]]
    ways = {name: way for name, way in decoding.WAYS.items() if "compiled" not in name}
    found = decoding.compare_ways(model, prompts, ways)
    assert {*ways, "draw"} == {*found}
    assert all(found[name]["error"] < 1e-4 for name in ways), found
    with torch.no_grad():
        cache = cuda_graphs.GraphCache(model, prompts)
        cache.decode(model, torch.tensor([[4], [7], [7]]))
        uniform = torch.tensor([[0.1], [0.5], [0.9]], dtype=torch.float64)
        cache.step.write("uniform", uniform)
        step = decoding.FewerKernels(model, torch.float32)
        step.buffers, step.column = cache.step.buffers, cache.step.column
        logits, *drawn = step.run(3, cache.tokens)
        logp = logits.log_softmax(-1)
    token = grpo.sample_tokens(logp, uniform)
    entropy = torch.distributions.Categorical(logits=logp).entropy()[:, None]
    torch.testing.assert_close(drawn, [token, logp.gather(1, token), entropy])


@pytest.mark.slow
def test_a_decoding_step_is_compiled_once(llama_folder, no_graphs, monkeypatch):
    """In one piece, draw included, and not again when the graph is recorded."""
    model, _ = common.load_model(llama_folder)
    monkeypatch.setattr(decoding.Compiled, "backend", "eager")
    counters = torch._dynamo.utils.counters
    for name, way in decoding.WAYS.items():
        if "compiled" in name:
            counters.clear()
            found = decoding.compare_ways(model, [[1, 2, 3, 4], [5, 6, 7]], {name: way})
            assert found[name]["error"] < 1e-4, found
            assert counters["stats"]["unique_graphs"] == 1
            assert not counters["graph_break"]


@pytest.mark.slow
def test_memory_of_a_command(tmp_path, monkeypatch):
    """A step of a script with a command's options, as the part `memory` makes them."""
    small = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "head_dim": 32}
    chat_model = gpu_check.benchmark.random_chat_model
    monkeypatch.setattr(
        gpu_check.benchmark, "random_chat_model", lambda *args: chat_model(*args, **small)
    )
    monkeypatch.setitem(gpu_check.REWARDS, "coin", gpu_check.benchmark.coin)
    monkeypatch.setattr(gpu_check, "measured", lambda function: (1.0, 2.0, function()))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 3e9)
    words = "--prompts_per_step 1 --minibatches 1 --group_size 2 --max_new_tokens 4"
    found = gpu_check.memory_of("dr_grpo", "Qwen2.5-0.5B", words)
    assert found == {"enough": True, "seconds": 1.0, "peak_gb": 2.0, "held_gb": 3.0}


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

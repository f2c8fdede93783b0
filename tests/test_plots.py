"""Experiments, figures and benchmark: probes change nothing, numbers mean what they say."""

import importlib
import json
import math
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

import common
import grpo
import warm_start
from countdown_task import CountdownTask, Problem
from plots import benchmark, effects, experiments, make_figures, reports

TINY = {"steps": 2, "prompts_per_step": 4, "group_size": 8, "minibatches": 2, "max_new_tokens": 32}
TINY |= {"eval_problems": 4, "reward_components": ["brevity"], "reward_weights": [1.0]}
TINY |= {"learning_rate": 1e-2, "seed": 3}


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", experiments.ARMS)
def test_arms_are_possible(name):
    """Options exist, swapped functions exist on both sides, every arm belongs to an experiment."""
    arm = experiments.ARMS[name]
    module = importlib.import_module(arm.script)
    config = importlib.import_module(arm.swap.get("Config", arm.script)).Config
    assert arm.flags.keys() <= asdict(config()).keys()
    for function, source in arm.swap.items():
        assert hasattr(module, function) and hasattr(importlib.import_module(source), function)
    assert any(name in experiment.arms for experiment in experiments.EXPERIMENTS.values())
    assert len(arm.seeds) >= 5 or name == "long"


@pytest.mark.parametrize(
    ("script", "flags", "swap"),
    [
        ("grpo", {}, {}),
        ("gspo", {}, {}),
        ("cispo", {"max_new_tokens": 65}, {"policy_loss": "dapo", "Config": "dapo"}),
    ],
)
def test_probes_change_nothing(script, flags, swap, llama_folder, tmp_path):
    """A watched run logs the numbers of an unwatched one, and the probes' besides."""
    arm = experiments.Arm(script, swap=swap)
    flags = {**TINY, **flags, "model": llama_folder}
    watched = experiments.prepare(arm)
    plain = importlib.import_module(script)
    watched.train(watched.Config(**flags, output_dir=str(tmp_path / "watched")))
    if not swap:
        plain.train(plain.Config(**flags, output_dir=str(tmp_path / "plain")))
        clock = ("seconds", "tokens_per_second", "peak")
        for a, b in zip(rows(tmp_path / "plain"), rows(tmp_path / "watched"), strict=True):
            assert all(b[key] == value for key, value in a.items() if not key.startswith(clock))
    found = [row for row in rows(tmp_path / "watched") if "log_ratio_rms" in row]
    assert len(found) == 2
    for row in found:
        assert row["advantage_levels"] >= 2 and len(row["weight_by_right"]) == 4
        # With gspo.py every token of a row shares the ratio; the probe still sees the tokens'.
        assert row["log_ratio_rms"] >= row["sequence_log_ratio_rms"] > 0
    assert plain.policy_loss.__module__ == script  # nothing leaked into the script itself


def test_zeroed_tokens_are_counted_by_class():
    """Of the numbers one is clipped away below, of the forks one above; CISPO zeroes none."""
    module = SimpleNamespace(
        sample_batch=None, completion_logprobs=None, compute_advantages=None, policy_loss=None
    )
    probes = experiments.Probes(module)
    probes.classes = {"fork": [1], "number": [2, 3]}
    probes.ids, probes.switched = torch.tensor([[1, 2, 3, 1]]), None
    old = torch.zeros(1, 4)
    new, mask = torch.tensor([[0.5, -0.5, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    low, high = torch.tensor([[0, 1, 0, 0]]).bool(), torch.tensor([[1, 0, 0, 0]]).bool()
    metrics = {"clip_low": low, "clip_high": high}
    probes.see_policy_loss((None, metrics), new, old, None, mask, None)
    found = probes.summary()
    assert found["zeroed_fork"] == 1.0 and found["zeroed_number"] == 0.5
    assert found["log_ratio_rms"] == pytest.approx(math.sqrt(0.5 / 3))
    assert found["sequence_log_ratio_rms"] == pytest.approx(0, abs=1e-7)
    probes.see_policy_loss((None, {"clip_high": high}), new, old, None, mask, None)
    assert probes.summary()["zeroed_fork"] == 0


def test_switched_tokens_of_a_mixture(tmp_path):
    """No token changes experts before the first update; one does when its router is changed."""
    config = grpo.Config(group_size=4, max_new_tokens=12)
    tokenizer = warm_start.make_tokenizer()
    torch.manual_seed(0)
    model = warm_start.make_model(tokenizer, experts=4)
    problems = [Problem((3, 7, 12), 33), Problem((1, 2, 3, 4), 10), Problem((5, 6), 11)]  # ragged
    routing = experiments.Routing(model)
    rollout = grpo.sample_groups(model, tokenizer, problems, config, common.torch_stream(0))
    routing.remember(rollout, config)
    for row, n in enumerate(rollout.mask.sum(1).int().tolist()):  # against one row by itself
        prompt = rollout.prompts[row // 4]
        with torch.no_grad():
            model(torch.tensor([prompt + rollout.completion_ids[row, :n].tolist()]))
        alone = torch.stack(routing.routed[-routing.layers :])[:, len(prompt) - 1 : -1]
        assert torch.equal(routing.before[:, row, :n], alone.sort(-1).values)
    routing.routed = []
    rows = [5, 0, 7]  # others of their group, another order
    on = rollout.mask[rows] > 0

    def switched():
        T = grpo.completion_logprobs(model, rollout, rows, config).shape[1]
        return routing.switched(rollout, rows, config)[on[:, :T]]

    assert not switched().any()
    with torch.no_grad():
        model.model.layers[1].mlp.gate.weight.neg_()
    assert switched().float().mean() > 0.5
    dense, _ = common.load_model("base_model")
    assert experiments.Routing(dense).switched(rollout, rows, config) is None


def test_retries():
    texts = [
        "3-1=2: 2+4=6 vs 9 no, \nwait 3+1=4: 4+4=8 vs 9 no, </think>\n<answer>",  # 1 of 2
        "3-1=2: 2+4=6 vs 6 yes</think>",  # a hit is no fork
        "3-1=2: 2+4=6 vs 9 no, \nwait 3+1=4: 4+4",  # cut off: 1 of 1
    ]
    assert experiments.retries(texts) == (2, 3)


def test_pass_at_k_without_bias(monkeypatch):
    """With c of 16 right, pass@1 is c/16 and pass@16 is whether any is right."""
    right = torch.tensor([0] * 16 + [1] * 4 + [0] * 12)
    fake = SimpleNamespace(sample_groups=lambda *_: SimpleNamespace(correct=right))
    monkeypatch.setattr(experiments, "PASS_PROBLEMS", 2)
    found = experiments.pass_at_k(None, None, fake, grpo.Config())
    assert found[1] == pytest.approx(0.125) and found[16] == 0.5
    assert found[2] == pytest.approx((1 - (12 * 11) / (16 * 15)) / 2)


@pytest.mark.parametrize("name", experiments.ARMS)
def test_logs_are_of_the_arms_as_they_stand(name):
    """All seeds, each run whole, under the flags and swaps that experiments.py has now."""
    arm, module = experiments.ARMS[name], importlib.import_module(experiments.ARMS[name].script)
    steps = module.Config(**arm.flags).steps
    for seed in arm.seeds:
        log = experiments.LOGS / f"{name}-seed{seed}.jsonl"
        head, *logged = [json.loads(line) for line in log.read_text().splitlines()]
        assert head["flags"] == arm.flags and head["swap"] == arm.swap and head["seed"] == seed
        assert [row["step"] for row in logged if "updates" in row] == list(range(1, steps + 1))


def test_results_are_of_the_logs():
    """results.md and transcripts.md are what make_figures.py writes now."""
    measured = [(effect, effect.measured()) for effect in effects.EFFECTS]
    assert all(found for _, found in measured)
    for name, text in (
        ("results.md", reports.results(measured)),
        ("transcripts.md", reports.transcripts()),
    ):
        assert (make_figures.PLOTS / name).read_text(encoding="utf-8") == text


def test_effect_signs(monkeypatch):
    """A rise of 2 in every seed is seen, the reverse or a difference, as the hypothesis has it."""
    runs = {"a": {1: [5.0], 2: [6.0], 3: [7.0]}, "b": {1: [7.0], 2: [8.1], 3: [8.9], 4: [0.0]}}
    monkeypatch.setattr(effects, "load", runs.__getitem__)
    for expected, verdict in ((1, "seen"), (-1, "the reverse"), (0, "differs")):
        effect = effects.Effect("kl", "?", "a", "b", lambda rows: rows[0], expected)
        found = effect.measured()
        assert found["verdict"] == verdict and found["seeds"] == found["agree"] == 3
        assert found["difference"] == pytest.approx(2.0)
        assert found["interval"][0] >= 1.9 and found["interval"][1] <= 2.1
    runs["b"] |= {1: [3.0]}
    assert effects.Effect("kl", "?", "a", "b", lambda r: r[0], 1).measured()["verdict"] == (
        "not seen"
    )


def test_saturating_fit_finds_the_curve():
    tokens = [0, 50e3, 120e3, 200e3, 300e3, 400e3, 500e3]
    rows = [
        {
            "step": step,
            "tokens_total": t,
            "eval_accuracy": 0.75 - (0.75 - 0.28) * math.exp(-t / 150e3),
        }
        for step, t in enumerate(tokens)
    ]
    ceiling, tau = effects.saturating_fit(rows)
    assert ceiling == pytest.approx(0.75, abs=0.005) and tau == pytest.approx(150e3, rel=0.03)


def test_interval_covers_the_mean():
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(200):
        values = (torch.randn(20, generator=generator) + 3).numpy()
        low, high = effects.interval(values, draws=500)
        covered += low < 3 < high
    assert 0.86 <= covered / 200 <= 0.99  # the percentile interval is a little short


def test_places_on_the_map():
    """The map is read from the scripts: each leaves GRPO's place on exactly its axes."""
    found = make_figures.places()
    moved = {name: {axis for axis, at in where.items() if at} for name, where in found.items()}
    assert moved == {
        "grpo": set(),
        "dr_grpo": {"length + std", "KL"},
        "dapo": {"clip width", "length + std", "KL", "sampling"},
        "gspo": {"granularity", "clip width"},
        "gdpo": {"advantage"},
        "cispo": {"clip width", "length + std", "KL"},
    }


def test_flops():
    """Of rollout and update: products against PyTorch's counter, attention by hand."""
    model, tokenizer = common.load_model("base_model")
    config = grpo.Config(group_size=2, max_new_tokens=20, minibatches=1)
    problems = CountdownTask().sample(2, common.stream("flops"))
    end = benchmark.Endless(tokenizer)
    rollout = grpo.sample_groups(model, end, problems, config, common.torch_stream(0))
    assert rollout.mask.all()  # the end never comes
    from torch.utils.flop_counter import FlopCounterMode

    linear = lambda counter: counter.get_flop_counts()["Global"][torch.ops.aten.mm]  # noqa: E731
    p, n, pair = len(rollout.prompts[0]), 20, 4 * 3 * 128
    with FlopCounterMode(display=False) as counter:
        grpo.sample_groups(model, end, problems, config, common.torch_stream(0))
    # Four rows and two prompts; reading a prompt predicts a token too, and throws it away.
    pairs = 4 * sum(range(p, p + n)) + 2 * sum(range(1, p))
    found = benchmark.rollout_flops(model, rollout)
    assert found == linear(counter) - 2 * 2 * 128 * len(tokenizer) + pair * pairs

    rollout.ref_logprobs = rollout.logprobs
    nothing = SimpleNamespace(step=lambda: None, zero_grad=lambda: None)
    with FlopCounterMode(display=False) as counter:
        grpo.update_policy(model, nothing, rollout, torch.ones(2, 2), config)
    tree = common.PrefixTree(rollout, list(range(4)), config)
    assert tree.ids.numel() < 4 * (p + n - 1) - 2 * p + 1  # both prompts are shared
    found = benchmark.update_flops(model, rollout, config)
    assert found == linear(counter) + 3 * pair * (tree.positions + 1).sum()


def test_ratios_pair_neighbours():
    found = benchmark.compare([2.0, 4.0, 6.0], [1.0, 1.0, 2.0])
    assert found["ratio"] == 3 and found["ratio_range"] == [2, 4]

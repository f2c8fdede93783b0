"""Experiments: probes change nothing, effects mean what they say, reports are of the logs."""

import importlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

from runtime import measures
from runtime.intervals import interval
from runtime.measures import repeatable

import numpy as np
import pytest
import torch

import common
import grpo
from compose import reader
from countdown_task import Problem
from experiments import (
    archive,
    effects,
    lag,
    large_model,
    probes,
    questions,
    reach,
    reports,
    run,
    two_state,
)
from experiments.catalogue import ARMS, EXPERIMENTS, FRONTIER
from experiments.catalogue.arm import Arm
from experiments.catalogue.exercises import TEACHER
from experiments.run import prepare
from plots import make_figures

TINY = {"steps": 2, "prompts_per_step": 4, "group_size": 8, "minibatches": 2, "max_new_tokens": 32}
TINY |= {"eval_problems": 4, "reward_components": ["brevity"], "reward_weights": [1.0]}
TINY |= {"learning_rate": 1e-2, "seed": 3}


def logged_in(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# ---- Probes -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "flags", "swap"),
    [
        ("grpo", {}, {}),
        ("gspo", {}, {}),
        ("zoo.rloo", {}, {}),
        ("cispo", {"max_new_tokens": 65}, {"policy_loss": "dapo", "Config": "dapo"}),
    ],
)
def test_probes_change_nothing(script, flags, swap, llama_folder, tmp_path, monkeypatch):
    """A watched run logs the numbers of an unwatched one, and the probes' besides."""
    monkeypatch.setattr(probes.FixedPrefixes, "BUDGET", 32)
    arm = Arm(script, swap=swap)
    flags = {**TINY, **flags, "model": llama_folder}
    watched = prepare(arm)
    plain = importlib.import_module(script)
    watched.train(watched.Config(**flags, output_dir=str(tmp_path / "watched")))
    if not swap:
        plain.train(plain.Config(**flags, output_dir=str(tmp_path / "plain")))
        pair = (repeatable(logged_in(tmp_path / name)) for name in ("plain", "watched"))
        for a, b in zip(*pair, strict=True):
            assert all(b[key] == value for key, value in a.items())
    found = [row for row in logged_in(tmp_path / "watched") if "log_ratio_rms" in row]
    assert len(found) == 2
    for row in found:
        assert row["advantage_levels"] >= 2 and len(row["weight_by_right"]) == 4
        # Under these names the committed logs have them.
        assert row.keys() >= {"zeroed_retry_point", "entropy_base_uncertain", "entropy_base_sure"}
        # With gspo.py every token of a row shares the ratio; the probe still sees the tokens'.
        assert row["log_ratio_rms"] >= row["sequence_log_ratio_rms"] > 0
    assert plain.policy_loss.__module__ == script  # nothing leaked into the script itself


def probes_of_nothing():
    names = ("sample_batch", "completion_logprobs", "compute_advantages", "policy_loss")
    return probes.Probes(SimpleNamespace(**dict.fromkeys(names)))


def test_weight_of_groups_by_their_right_answers():
    """The effect of std rests on these pairs: (right answers of a group, its share of weight)."""
    watch = probes_of_nothing()
    watch.classes = {"retry_point": [1]}
    watch.routing = SimpleNamespace(remember=lambda *_: None)
    watch.fixed = SimpleNamespace(entropy=lambda model: {})
    correct = torch.tensor([1, 0, 1, 1, 0, 0, 0, 1])
    rollout = SimpleNamespace(problems=[None] * 8, completions=[""] * 8, correct=correct)
    watch.see_sample_batch((rollout, None), None, None, None, grpo.Config(group_size=4))
    advantages = torch.tensor([[1.0, -3.0, 1.0, 1.0], [-0.5, -0.5, -0.5, 0.5]])
    watch.see_compute_advantages(advantages, torch.zeros(2, 4, 1), None)
    found = watch.summary()
    assert found["weight_by_right"] == [[3, 1.5], [1, 0.5]]
    assert found["advantage_levels_per_group"] == 2


def test_what_a_baseline_explains():
    """Of the variance of 1, 1, 0, 0: a tracker that knows takes all, one that is off by .5 none."""
    watch = probes_of_nothing()
    watch.right = [1, 1, 0, 0]
    advantages, rewards = torch.zeros(4, 1), torch.tensor([1.0, 1.0, 0.0, 0.0]).view(4, 1, 1)
    for expected, share in ((rewards[..., 0], 1.0), (torch.full((4, 1), 0.5), 0.0)):
        watch.see_compute_advantages(advantages, rewards, expected, None)
        found = watch.summary()
        assert found["explained"] == pytest.approx(share) and found["zero_advantages"] == 1
    watch.see_compute_advantages(advantages, rewards, rewards[..., 0] - 0.3, None)
    found = watch.summary()  # it knows the problems, and lags behind all of them
    assert found["explained"] == pytest.approx(1 - 0.09 / 0.25)
    assert found["explained_centred"] == pytest.approx(1)
    # Of two groups of 16 with 16 and 0 right the siblings say all; with 8 and 8 less than nothing.
    assert effects.explained_by_siblings({"weight_by_right": [[16, 0], [0, 0]]}) == 1
    assert effects.explained_by_siblings({"weight_by_right": [[8, 0], [8, 0]]}) == pytest.approx(
        1 - (16 / 15) ** 2
    )


def test_what_a_vote_gets_right():
    """The label of a group is right if a right completion agrees with it."""
    watch = probes_of_nothing()
    watch.correct = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    watch.right = [2, 1, 0]
    watch.see_agreement(torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))
    found = watch.vote()
    assert found["label_right"] == pytest.approx(1 / 3)
    assert found["vote_agrees"] == pytest.approx(6 / 9)
    assert found["label_by_right"] == [[2, 1], [1, 0], [0, 0]]


def test_zeroed_tokens_are_counted_by_class():
    """A number is clipped away below, a retry point above; CISPO zeroes none.

    What is left of the three tokens' gradient is the second number's, at ratio 1: a weight of 1.
    """
    watch = probes_of_nothing()
    watch.classes = {"retry_point": [1], "number": [2, 3]}
    watch.ids, watch.switched = torch.tensor([[1, 2, 3, 1]]), None
    old = torch.zeros(1, 4)
    new = torch.tensor([[0.5, -0.5, 0.0, 0.0]], requires_grad=True)
    mask = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    advantages = torch.tensor([[2.0, -2.0, 2.0, 2.0]])
    low, high = torch.tensor([[0, 1, 0, 0]]).bool(), torch.tensor([[1, 0, 0, 0]]).bool()
    metrics = {"clipped_low": low, "clipped_high": high}
    loss = torch.where(low | high, 0.0, -advantages * torch.exp(new - old))
    watch.see_policy_loss((loss, metrics), new, old, None, advantages, mask, None)
    found = watch.summary()
    for sign, tokens in (("up", 2), ("down", 1)):
        counts, weights = zip(*found["weight_by_ratio"][sign], strict=True)
        assert sum(counts) == tokens and sum(weights) == pytest.approx(tokens - 1)
    assert found["zeroed_retry_point"] == 1.0 and found["zeroed_number"] == 0.5
    assert found["log_ratio_rms"] == pytest.approx(math.sqrt(0.5 / 3))
    assert found["sequence_log_ratio_rms"] == pytest.approx(0, abs=1e-7)
    capped = (loss, {"clipped_high": high})
    watch.see_policy_loss(capped, new, old, None, advantages, mask, None)
    assert watch.summary()["zeroed_retry_point"] == 0


def test_switched_tokens_of_a_mixture(mixture_folder):
    """No token changes experts before the first update; many do when a router is turned round.

    Grouped rows share prefixes, so the probe is held to one row run by itself.
    """
    config = grpo.Config(group_size=4, max_new_tokens=12)
    model, tokenizer = common.load_model(mixture_folder)
    problems = [Problem((3, 7, 12), 33), Problem((1, 2, 3, 4), 10), Problem((5, 6), 11)]  # ragged
    routing = probes.Routing(model)
    rollout = grpo.sample_groups(model, tokenizer, problems, config, common.torch_stream(0))
    routing.remember(rollout, config)
    for row, n in enumerate(rollout.mask.sum(1).int().tolist()):
        prompt = rollout.prompts[row]
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
    assert probes.Routing(dense).switched(rollout, rows, config) is None


def test_retries():
    """Only the end of a line without a hit is a retry point, and only if the model decided."""
    texts = [
        "3-1=2: 2+4=6 vs 9 no, \nwait 3+1=4: 4+4=8 vs 9 no, </think>\n<answer>",  # 1 of 2
        "3-1=2: 2+4=6 vs 6 yes</think>",  # a hit is no retry point
        "3-1=2: 2+4=6 vs 9 no, \nwait 3+1=4: 4+4",  # cut off: 1 of 1
    ]
    assert measures.retries(texts) == (2, 3)


def test_pass_at_k_without_bias():
    """With c of 16 right, pass@1 is c/16 and pass@16 is whether any is right."""
    right = torch.tensor([0] * 16 + [1] * 4 + [0] * 12)
    fake = SimpleNamespace(sample_groups=lambda *_: SimpleNamespace(correct=right))
    found = probes.pass_at_k(None, None, fake, grpo.Config(eval_problems=2))
    assert found[1] == pytest.approx(0.125) and found[16] == 0.5
    assert found[2] == pytest.approx((1 - (12 * 11) / (16 * 15)) / 2)


def test_entropy_on_fixed_prefixes(llama_folder, monkeypatch):
    """At the start it is the sampler's; a policy without an opinion has log V at every token."""
    monkeypatch.setattr(probes.FixedPrefixes, "BUDGET", 32)
    config = grpo.Config(model=llama_folder, max_new_tokens=512, seed=3)
    fixed = probes.FixedPrefixes(config)
    rollout, found = fixed.rollout, fixed.entropy(common.load_model(llama_folder)[0])
    assert len(rollout.mask) == 64 and fixed.uncertain.any()
    assert found["entropy_base_uncertain"] == pytest.approx(
        rollout.entropy[fixed.uncertain].mean().item(), abs=1e-5
    )
    assert not (fixed.uncertain & fixed.sure).any()
    assert torch.equal(fixed.uncertain | fixed.sure, rollout.mask > 0)
    blank, _ = common.load_model(llama_folder)
    with torch.no_grad():
        blank.get_output_embeddings().weight.zero_()
    values = fixed.entropy(blank)
    size = blank.get_output_embeddings().weight.shape[0]
    assert values["entropy_base_uncertain"] == pytest.approx(math.log(size), rel=1e-5)


# ---- What is made first -------------------------------------------------------------------------


def leave(folder, step):
    """A run's folder with a checkpoint of a step."""
    (folder / "checkpoint").mkdir(parents=True, exist_ok=True)
    (folder / "config.json").touch()
    (folder / "checkpoint/tokenizer.json").touch()
    (folder / "checkpoint/state.json").write_text(json.dumps({"step": step}))


def test_a_half_trained_teacher_is_trained_on(tmp_path, monkeypatch):
    """Scripts save every ten steps: a checkpoint that is there need not be the last one."""
    calls = []

    def ran(command, cwd):
        leave(tmp_path / "runs/teacher", grpo.Config().steps)
        calls.append("--resume" in command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run.subprocess, "run", ran)
    run.make(TEACHER)
    run.make(TEACHER)
    assert calls == [False]
    leave(tmp_path / "runs/teacher", 10)
    run.make(TEACHER)
    assert calls == [False, True] and grpo.Config().steps == run.TEACHER_STEPS


def test_a_half_trained_script_is_trained_on(tmp_path, monkeypatch):
    """The same of the runs on questions."""
    calls = []

    def train(config):
        leave(tmp_path / "grpo-seed1", config.steps)
        calls.append(config.resume)

    monkeypatch.setattr(questions, "RUNS", tmp_path)
    monkeypatch.setattr(grpo, "train", train)
    for expected in ([False], [False]):
        assert questions.trained("grpo", 1, "base") == tmp_path / "grpo-seed1/checkpoint"
        assert calls == expected
    leave(tmp_path / "grpo-seed1", 20)
    questions.trained("grpo", 1, "base")
    assert calls == [False, True]


def test_an_edited_script_is_whole_while_it_is_written(tmp_path, monkeypatch):
    """Two jobs of one arm write the same file: a write that is cut off leaves it as it was."""
    monkeypatch.setattr(run, "RUNS", tmp_path)
    arm = next(arm for arm in ARMS.values() if arm.edits and not arm.swap)
    file = Path(prepare(arm).__file__)
    whole = file.read_text(encoding="utf-8")

    def cut(path, text, **_):
        path.write_bytes(text[:99].encode())
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", cut)
    with pytest.raises(KeyboardInterrupt):
        prepare(arm)
    assert file.read_text(encoding="utf-8") == whole


# ---- Old rollouts, the two-state model ----------------------------------------------------------


def test_an_old_sampler_is_as_old_as_it_says():
    """With a lag of 2: the initial policy in steps 1 to 3, then that of two steps ago."""
    weight = torch.nn.Parameter(torch.tensor(0.0))
    model = torch.nn.ParameterList([weight])
    sample = lag.OldSampler(lambda model, step: (step, model[0].item()), 2)
    seen = []
    for step in range(1, 6):
        seen.append(sample(model, step))
        with torch.no_grad():
            weight += 1  # the update
    assert seen == [(1, 0), (2, 0), (3, 0), (4, 1), (5, 2)]


def test_reinforce_takes_no_notice_of_the_ratio():
    """Loss and gradient are those of grpo.py on a fresh rollout, however old the rollout is."""
    torch.manual_seed(0)
    new = torch.randn(2, 3, requires_grad=True)
    old, ref = torch.randn(2, 3), torch.zeros(2, 3)
    A, mask, config = torch.tensor([[1.0], [-0.5]]), torch.ones(2, 3), grpo.Config(kl_coef=0.0)
    loss, metrics = lag.policy_loss(new, old, ref, A, mask, config)
    (gradient,) = torch.autograd.grad(loss.sum(), new)
    fresh, _ = grpo.policy_loss(new, new.detach(), ref, A, mask, config)
    (expected,) = torch.autograd.grad(fresh.sum(), new)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(gradient, -A.expand(2, 3))
    torch.testing.assert_close(metrics["ratio"], torch.exp(new - old))


SHAPE = {"first": 42, "line": 34, "budget": 512}


def test_the_two_state_model_by_hand():
    """No drift under any weight that does not know the length; 1/|o| makes longer; its numbers."""
    for q, p in ((0.1, 0.3), (0.5, 0.5), (0.97, 0.05)):
        flat = two_state.drift(q, p, lambda tokens: tokens * 0 + 0.02, **SHAPE)
        assert flat == pytest.approx(0, abs=1e-15)
        assert two_state.drift(q, p, lambda tokens: 1 / tokens, **SHAPE) > 0
        assert two_state.drift(q, p, lambda tokens: tokens / 1e3, **SHAPE) < 0
    # Room for one more line: k = 0 or 1 with q = 1/2, s = -1/2 or +1/2 (cut off: no stop).
    G2 = {"first": 10, "line": 10, "budget": 20, "group_size": 2}
    found = two_state.drift(0.5, 0.5, lambda tokens: 1 / tokens, **G2, by_std=False)
    # A = -1/2 if the other is right, in half of the groups; -1/4 (1 - p) (-1/20 + 1/40).
    assert found == pytest.approx(0.5 * -0.25 * (0.5 * -0.5 / 10 + 0.5 * 0.5 / 20))


def test_the_mean_advantage_of_wrong_completions():
    """G = 2: with the std -1/sqrt(2) where the other is right; G = 16 by sampling."""
    assert two_state.advantage_of_wrong(0.5, 2) == pytest.approx(-0.5 / math.sqrt(2), abs=1e-4)
    torch.manual_seed(0)
    rewards = (torch.rand(200_000, 16) < 0.3).float()
    config = grpo.Config(reward_components=["answer"], reward_weights=[1.0])
    advantages = grpo.compute_advantages(rewards[..., None], config)
    sampled = advantages[rewards == 0].mean().item()
    assert two_state.advantage_of_wrong(0.3, 16) == pytest.approx(sampled, abs=2e-3)


def test_the_two_state_model_follows_the_drift():
    """A path of constant weights stays; half the rate takes twice the steps, at first."""
    rates = [0.3] * 8
    flat = two_state.follow(0.3, rates, lambda tokens: tokens * 0 + 1.0, 100, **SHAPE)
    assert flat == pytest.approx([0.3] * 8)
    fast = two_state.follow(0.3, rates, lambda tokens: 1 / tokens, 20, **SHAPE)
    slow = two_state.follow(0.3, rates, lambda tokens: 1 / tokens, 10, **SHAPE)
    assert (fast[1:] > slow[1:]).all() and fast[3] == pytest.approx(slow[6], abs=2e-3)


# ---- Effects, reports ---------------------------------------------------------------------------


def test_effects_are_of_known_arms():
    """A typing error in effects.csv would drop a row, or compare with nothing, in silence."""
    for effect in effects.EFFECTS:
        experiment = EXPERIMENTS[effect.experiment]
        assert {effect.base, effect.moved} <= ARMS.keys(), effect
        assert {effect.base, effect.moved} & set(experiment.arms), effect
        assert effect.expected in (-1, 0, 1) and effect.what, effect
        assert (effect.margin is None) == (effect.expected != 0), effect
    # These have tables of their own.
    others = {"pairs", "planted_anew", "real_model"}
    assert {effect.experiment for effect in effects.EFFECTS} == EXPERIMENTS.keys() - others


@pytest.mark.slow
def test_every_effect_measures_something():
    """A metric that no run logs has an empty mean, which is no number."""
    for effect in effects.EFFECTS:
        before, after = effect.values()
        assert len(before) == len(after) >= 2, effect
        assert all(map(math.isfinite, (*before, *after))), effect


@pytest.mark.slow
def test_reports_are_of_the_logs():
    """results.md, transcripts.md and the tables of solutions.md are what reports.py writes now."""
    for name, text in (("results", reports.results()), ("transcripts", reports.transcripts())):
        path = common.HERE / f"experiments/{name}.md"
        assert path.read_text(encoding="utf-8") == text
    page = (common.HERE / "docs/solutions.md").read_text(encoding="utf-8")
    assert reports.solutions(page) == page


def test_what_is_planted_anew_is_counted(tmp_path, monkeypatch):
    """States and symptoms as planted, those missed, and others."""
    three = ("starved_cut", "healthy_gmpo", "broken_stop")
    monkeypatch.setattr(reports, "PLANTS", {name: reports.PLANTS[name] for name in three})
    monkeypatch.setattr(archive, "LOGS", tmp_path)
    row = {"reward": 0.1, "accuracy": 0.0, "length": 20, "entropy": 0.1, "truncated": 1.0}
    row |= {"groups_without_signal": 1.0, "kl_ref": 0.5}
    cut = [json.dumps({"step": step, **row}) for step in range(1, 15)]
    archive.save("starved_cut", 108, ['{"script": "dapo"}', *cut])
    archive.save("healthy_gmpo", 102, ['{"script": "zoo.gmpo"}', *cut])
    archive.save("broken_stop", 114, ['{"script": "zoo.gmpo"}', '{"step": 1, "stopped": "broke"}'])
    text = "\n".join(reports.named_anew())
    assert "2 are named as planted, and 1 of 1 planted symptoms are shown" in text
    assert (
        "| starved_cut-seed108 | starved | starved | every completion is cut | - | "
        "policy far from the start |" in text
    )
    assert "| healthy_gmpo-seed102 | healthy | starved | - | - | every completion" in text
    assert "| broken_stop-seed114 | broken | broken | - | - | - |" in text


def test_effects_pair_seeds_and_judge_by_the_sign_expected(monkeypatch):
    """A rise of 2 in every seed is seen, the reverse or a difference, as the hypothesis has it.

    What no hypothesis names is the same within its margin, or differs, or can't be told.
    """

    def runs(*numbers):  # x has this mean over steps 2-3, y is this at step 3
        return {
            seed: [{"step": 1, "x": 99}, {"step": 2, "x": n - 1}, {"step": 3, "x": n + 1, "y": n}]
            for seed, n in enumerate(numbers)
        }

    logs = {"a": runs(5.0, 6.0, 7.0), "b": runs(7.0, 8.1, 8.9, 0.0), "c": runs(3.0, 8.1, 8.9)}
    monkeypatch.setattr(effects, "load", logs.__getitem__)
    for expected, margin, verdict in (
        (1, None, "seen"),
        (-1, None, "the reverse"),
        (0, 1.0, "differs"),
        (0, 3.0, "same within 3"),
    ):
        found = effects.Effect("kl", expected, margin, "a", "b", "x > y", "2-3 > 3", "?").measured()
        assert found.verdict == verdict and found.seeds == found.agree == 3
        assert found.difference == pytest.approx(2.0)
        # Differences 2, 2.1 and 1.9: sd 0.1, and 4.303 is t's 97.5 % point at two degrees.
        assert found.interval == pytest.approx((2 - 0.2484, 2 + 0.2484), abs=1e-4)
    for expected, margin, verdict in (
        (1, None, "not seen"),
        (0, 5.0, "not separable"),
        (0, 99.0, "same within 99"),
    ):
        found = effects.Effect("kl", expected, margin, "a", "c", "x", "2-3", "?").measured()
        assert found.verdict == verdict


def rows_of(difference, expected=1, margin=None):
    """A Measured of these differences (seeds,)."""
    effect = effects.Effect("kl", expected, margin, "a", "b", "x", "1", "?")
    mean = difference.mean()
    return effects.Measured(
        effect=effect,
        seeds=len(difference),
        base=0.0,
        moved=mean,
        difference=mean,
        interval=interval(difference),
        agree=int((np.sign(difference) == np.sign(mean)).sum()),
        p=effects.p_value(difference),
    )


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_chance_is_called_an_effect_as_often_as_promised(seeds):
    """Without any effect 5 % of rows claim a difference; a bootstrap of five seeds had 17 %.

    With an effect of two standard deviations, five seeds see nine in ten.
    """
    noise = np.random.default_rng(0).normal(size=(10_000, seeds))
    claimed = np.mean([rows_of(row).claims_a_difference for row in noise])
    assert abs(claimed - 0.05) < 0.015
    if seeds == 5:
        planted = np.mean([rows_of(row + 2).verdict == "seen" for row in noise[:2000]])
        assert 0.88 < planted < 0.93


def test_an_experiment_of_many_rows_claims_no_more_than_one_of_few():
    """Of families of twenty rows without an effect 5 % claim anything, not two in three.

    Beside an effect, 5 % of what is claimed is false at most.
    """
    draws = np.random.default_rng(1).normal(size=(500, 20, 5))
    families = [effects.corrected([rows_of(row) for row in family]) for family in draws]
    assert np.mean([any(r.claims_a_difference for r in rows) for rows in families]) < 0.08
    alone = [any(rows_of(row).claims_a_difference for row in family) for family in draws]
    assert np.mean(alone) > 0.5
    shares = []
    for family in draws:
        rows = [rows_of(row + 6 * (place < 10)) for place, row in enumerate(family)]
        claims = [row.claims_a_difference for row in effects.corrected(rows)]
        shares.append(sum(claims[10:]) / max(sum(claims), 1))
    assert np.mean(shares) < 0.05


def test_sameness_is_a_claim_that_chance_makes_seldom():
    """Where the truth lies on the margin, at most 2.5 % of rows are called the same."""
    noise = np.random.default_rng(2).normal(size=(4000, 5))
    same = [rows_of(row + 5, 0, 5.0).verdict.startswith("same") for row in noise]
    assert np.mean(same) < 0.04
    inside = [rows_of(row, 0, 5.0).verdict.startswith("same") for row in noise]
    assert np.mean(inside) > 0.95


def test_p_values_of_runs_without_any_spread():
    assert effects.p_value(np.zeros(5)) == 1 and effects.p_value(np.full(5, 2.0)) == 0


def test_take_off():
    """The first step with half of the failed lines tried again; one after the last if none."""
    rows = [{"step": 0}, *({"step": n, "retry": r} for n, r in ((1, 0.02), (2, 0.5), (3, 0.4)))]
    assert effects.take_off(rows) == 2 and effects.take_off(rows[:2]) == 2
    assert effects.take_off([{"step": 7, "retry": 0.49}]) == 8


def test_odds_growth():
    """Odds of 1/20 that double every step: 1/21, 1/11, 1/6, ...; what is above 70 % is left out."""
    odds = [0.05 * 2**n for n in range(6)] + [9.0]
    rows = [{"step": n, "retry": o / (1 + o)} for n, o in enumerate(odds)]
    assert effects.odds_growth([{"step": 9, "eval_accuracy": 1.0}, *rows]) == pytest.approx(2)


def test_saturating_fit_finds_the_curve():
    """results.md quotes its ceiling."""
    rows = [
        {"step": step, "tokens_total": t, "eval_accuracy": 0.75 - 0.47 * math.exp(-t / 150e3)}
        for step, t in enumerate((0, 50e3, 120e3, 200e3, 300e3, 400e3, 500e3))
    ]
    ceiling, tau = effects.saturating_fit(rows)
    assert ceiling == pytest.approx(0.75, abs=0.005) and tau == pytest.approx(150e3, rel=0.03)
    by_step = [{**row, "step": row["tokens_total"] / 1e3} for row in rows]
    ceiling, tau = effects.saturating_fit(by_step, "steps")
    assert ceiling == pytest.approx(0.75, abs=0.005) and tau == pytest.approx(150, rel=0.03)


@pytest.mark.slow
def test_a_run_that_fell_has_no_ceiling():
    """It ended below half of its best, as cispo.py's long runs do; the others did not."""
    heights = {"held": (0.2, 0.8, 0.41), "fell": (0.2, 0.8, 0.39)}
    for name, accuracy in heights.items():
        rows = [{"step": step, "eval_accuracy": a} for step, a in enumerate(accuracy)]
        assert effects.fell(rows) == (name == "fell")
    table = "\n".join(reports.ceilings())
    assert "| ceiling_cispo |" in table and table.count("fell in 5 of 5") == 1


def test_what_the_base_was_taught():
    """reach.py tells problems apart by the ranges that the warm start draws from."""
    kinds = {(1, 12, 3): "within", (1, 13, 3): "a number above 12", (9, 9, 2): "a target above 60"}
    for numbers, kind in kinds.items():
        target = 79 if numbers == (9, 9, 2) else 36
        assert reach.kind_of(Problem(numbers, target)).startswith(kind)


def test_axes_are_read_from_the_scripts():
    """Each script on the map leaves GRPO's place on exactly its axes, and has a place there."""
    moved = {
        "grpo": set(),
        "dr_grpo": {"length + std", "KL"},
        "dapo": {"clip width", "length + std", "KL", "sampling"},
        "gspo": {"granularity", "clip width"},
        "gdpo": {"advantage"},
        "cispo": {"clip width", "length + std", "KL"},
        "zoo.rloo": {"granularity", "length + std", "KL", "advantage"},
        "zoo.reinforce_pp": {"length + std", "KL", "advantage", "sampling"},
        "zoo.reinforce_pp_baseline": {"length + std", "KL"},
        "zoo.gmpo": {"granularity", "clip width"},
        "zoo.spo": {*reader.AXES, "tracker"} - {"granularity", "sampler"},
        "zoo.ttrl": {"reward"},
        "zoo.ppo": {"length + std", "KL", "advantage", "sampling", "critic"},
        "zoo.vapo": {"clip width", "length + std", "KL", "advantage", "critic"},
        "zoo.prime": {"length + std", "KL", "advantage", "reward"},
        "zoo.gigpo": {"advantage", "turns"},
        "zoo.tis": {"sampler"},
        "zoo.deepseek_v32": {"length + std", "KL", "sampler"},
        "zoo.sapo": {"clip width"},
        "zoo.dppo": {"clip width", "sampler"},
        "zoo.maxrl": {"length + std"},
        "zoo.dro": {"clip width", "KL", "sampler"},
    }
    for name, axes in moved.items():
        source = reader.source_of(name)
        assert reader.moved_axes(source, reader.source_of("grpo")) == axes, name
        places = make_figures.ZOO_TRACKS if "." in name else make_figures.AXIS_TRACKS
        if name.removeprefix("zoo.") in FRONTIER:
            places = make_figures.FRONTIER_TRACKS
        found = reader.coordinates(source)
        assert all(found[axis] in places[axis] for axis in reader.AXES)


# ---- A large model's speed ----------------------------------------------------------------------


@pytest.mark.slow
def test_large_model_report(tmp_path, monkeypatch):
    """Every part that needs no TRL runs; what the machine allows is less than what a step takes."""
    output = tmp_path / "report.json"
    words = ["--parts", "limits", "chunks", "bfloat16", "profile", "--rounds", "1"]
    words += ["--model", str(common.HERE / "base_model"), "--budget", "8"]
    monkeypatch.setattr("sys.argv", ["large_model", *words, "--output", str(output)])
    # What main sets for its process is undone after the test.
    monkeypatch.setattr(large_model, "BATCH", dict(large_model.BATCH))
    monkeypatch.setitem(large_model.REWARDS, "coin", large_model.benchmark.coin)
    monkeypatch.setattr(large_model.logging, "disable", lambda level: None)
    large_model.main()
    report = {
        name.partition(",")[0]: found for name, found in json.loads(output.read_text()).items()
    }
    assert set(words[1:5]) == set(report)
    assert all(0 < share < 1 for share in report["limits"]["share of what is allowed"].values())
    for phase in ("rollout", "update"):
        products = report["profile"][phase]["products of the layers"]
        assert 0 < products < sum(report["profile"][phase].values())


def test_large_model_figures_of_the_page():
    """docs/lab/speed.md quotes the committed report."""
    report = json.loads((common.HERE / "experiments/large_model.json").read_text())
    page = (common.HERE / "docs/lab/speed.md").read_text()
    for name, share in report["limits"]["share of what is allowed"].items():
        seconds = report["limits"]["seconds"][name]
        assert f"| {name} | {seconds:.1f} s" in page
        assert f"| {share:.0%} |".replace("%", " %") in page
    for part in ("trl", "trl, a model whose completions end"):
        low, high = report[part]["ratio_range"]
        assert f"{report[part]['ratio']:.1f} x ({low:.1f} to {high:.1f})" in page
    assert report["gradient"]["difference, share of its norm"] < 1e-6

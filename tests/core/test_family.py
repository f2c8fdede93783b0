"""The map itself: where the variants coincide, where they part, and that each one runs."""

import importlib
import json
from dataclasses import replace

from runtime import measures, run_folder, session

import pytest
import torch

import common
import countdown_task
import dapo
import gdpo
import grpo
from countdown_task import REWARDS, CountdownTask

FAMILY = ["grpo", "dr_grpo", "dapo", "gspo", "gdpo", "cispo"]
KEEPS_KL = {"grpo", "gspo", "gdpo"}


def module(name):
    return importlib.import_module(name)


def gradient(name, old, logprobs, advantages, mask, **changes):
    """dL/dlogprobs (B, T) of a variant; its KL, if it has one, is switched off."""
    script = module(name)
    config = replace(script.Config(), **changes)
    logprobs = logprobs.clone().requires_grad_()
    ref = []
    if name in KEEPS_KL:
        config, ref = replace(config, kl_coef=0.0), [old]
    token_loss, _ = script.policy_loss(logprobs, old, *ref, advantages, mask, config)
    counts = len(mask), mask.sum()
    script.aggregate_loss(token_loss * torch.ones_like(mask), mask, *counts, config).backward()
    return logprobs.grad


@pytest.fixture
def tensors():
    """(old, log-ratios, advantages, mask), float64, ragged, advantages of both signs."""
    torch.manual_seed(0)
    mask = (torch.arange(12) < torch.tensor([[1], [12], [5], [8], [3], [12]])).double()
    old = -torch.rand(6, 12).double() * mask
    advantages = torch.tensor([[1.0], [-1.0], [0.5], [2.0], [-0.3], [-1.5]]).double()
    return old, torch.randn(6, 12).double() * mask, advantages, mask


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


PAIRS = [("grpo", "gspo"), ("grpo", "gdpo"), ("dapo", "cispo")]


@pytest.mark.parametrize(("one", "two"), PAIRS)
def test_coincide_at_ratio_1(one, two, tensors):
    """With one optimizer step per rollout the axes of ratio and clip are dead."""
    old, _, advantages, mask = tensors
    a, b = (gradient(name, old, old, advantages, mask) for name in (one, two))
    torch.testing.assert_close(a, b, atol=1e-15, rtol=0)
    assert a.abs().max() > 0.01


@pytest.mark.parametrize(("one", "two"), [("grpo", "gspo"), ("dapo", "cispo"), ("grpo", "dapo")])
def test_part_away_from_ratio_1(one, two, tensors):
    old, change, advantages, mask = tensors
    a, b = (gradient(name, old, old + change, advantages, mask) for name in (one, two))
    assert cosine(a, b) < 0.95


def test_dr_grpo_is_parallel_to_the_token_mean(tensors):
    """At ratio 1 the two normalisers differ by total tokens / (B * budget), one scalar."""
    old, _, advantages, mask = tensors
    dr = gradient("dr_grpo", old, old, advantages, mask, max_new_tokens=40)
    mean = gradient("dapo", old, old, advantages, mask)
    torch.testing.assert_close(dr, mean * mask.sum() / (6 * 40), atol=1e-15, rtol=1e-12)
    grpo_gradient = gradient("grpo", old, old, advantages, mask)
    assert cosine(grpo_gradient, mean) < 0.99  # 1/|o| is not parallel to either


def test_aggregation_by_hand():
    """|o| = 2 and 8, A = +1 and -1, ratio 1, budget 16: weight of each token."""
    mask = (torch.arange(8) < torch.tensor([[2], [8]])).double()
    old, advantages = torch.zeros(2, 8).double(), torch.tensor([[1.0], [-1.0]]).double()
    expected = {
        "grpo": (0.25, 0.0625),
        "gspo": (0.25, 0.0625),
        "gdpo": (0.25, 0.0625),
        "dr_grpo": (1 / 32, 1 / 32),
        "dapo": (0.1, 0.1),
        "cispo": (0.1, 0.1),
    }
    for name, weights in expected.items():
        got = gradient(name, old, old, advantages, mask, max_new_tokens=16)
        want = mask * torch.tensor([[-weights[0]], [weights[1]]])
        torch.testing.assert_close(got, want, msg=name)


def test_micro_batch_token_means_would_be_grpo():
    """The bug this file's counts prevent: averaging token means of single rows is 1/|o|."""
    mask = (torch.arange(8) < torch.tensor([[2], [8]])).double()
    token_loss, config = torch.randn(2, 8).double(), dapo.Config()
    rows = [(token_loss[i : i + 1], mask[i : i + 1]) for i in (0, 1)]
    wrong = sum(dapo.aggregate_loss(x, m, 1, m.sum(), config) for x, m in rows) / 2
    right = sum(dapo.aggregate_loss(x, m, 2, mask.sum(), config) for x, m in rows)
    torch.testing.assert_close(wrong, grpo.aggregate_loss(token_loss, mask, 2, 10, grpo.Config()))
    torch.testing.assert_close(right, dapo.aggregate_loss(token_loss, mask, 2, 10, config))
    assert abs(wrong - right) > 1e-3


@pytest.mark.parametrize(
    ("ratio", "advantage", "pushes"),
    [  # dJ/dlogp of (dapo, cispo) with 0.2 / 0.28 and a cap of 1.28
        (1.5, 1.0, (0.0, 1.28)),
        (0.5, 1.0, (0.5, 0.5)),
        (1.5, -1.0, (-1.5, -1.28)),
        (0.5, -1.0, (0.0, -0.5)),
        (5.0, -1.0, (-5.0, -1.28)),
    ],
)
def test_what_is_clipped(ratio, advantage, pushes):
    """PPO's clip removes a token's gradient; CISPO's bounds it and keeps every token."""
    old, one = torch.zeros(1, 1).double(), torch.ones(1, 1).double()
    for name, push in zip(("dapo", "cispo"), pushes, strict=True):
        got = -gradient(name, old, old + torch.tensor(ratio).log(), one * advantage, one)
        assert got.item() == pytest.approx(push, abs=1e-6)


def test_gspo_ratio_by_hand_and_gspo_token():
    """A geometric mean over the real tokens; GSPO-token's loss and gradient are the same."""
    gspo = module("gspo")
    d = torch.tensor([[0.1, -0.05, 0.02, -0.06, 9.0]]).double()  # the last token is padding
    mask = torch.tensor([[1.0, 1, 1, 1, 0]]).double()
    for advantage in (1.0, -1.0):
        config = replace(gspo.Config(), kl_coef=0.0, clip_low=3e-4, clip_high=4e-4)
        logp, a = d.clone().requires_grad_(), torch.full((1, 1), advantage).double()
        token_loss, metrics = gspo.policy_loss(logp, d * 0, d * 0, a, mask, config)
        assert metrics["ratio"].item() == pytest.approx(1.0025, abs=1e-4)
        assert bool(metrics["clipped_high"]) == (advantage > 0)  # 1.0025 is above 1.0004
        ours = gspo.aggregate_loss(token_loss + 0 * mask, mask, 1, 4, config)
        ours.backward()
        token = d.clone().requires_grad_()
        log_s = (d * mask).sum(1, keepdim=True) / 4
        s = (token - token.detach() + log_s).exp()
        clipped = s.clamp(1 - config.clip_low, 1 + config.clip_high)
        theirs = (-torch.min(s * a, clipped * a) * mask).sum() / 4
        theirs.backward()
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(logp.grad, token.grad)


# ---- Advantages ---------------------------------------------------------------------------------


def gdpo_advantages(rewards, weights=(1.0, 1.0)):
    rewards = torch.tensor(rewards).double()
    config = replace(gdpo.Config(), reward_weights=list(weights))
    return gdpo.compute_advantages(rewards, config)


def test_gdpo_does_not_collapse():
    """Two groups of two: totals (0, 1) and (0, 2). GRPO cannot tell them apart."""
    rewards = [[[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]]
    expected = torch.tensor([[-0.5477, 0.5477], [-1.0954, 1.0954]]).double()
    torch.testing.assert_close(gdpo_advantages(rewards), expected, atol=1e-3, rtol=0)
    config = replace(grpo.Config(), reward_weights=[1.0, 1.0])
    pooled = grpo.compute_advantages(torch.tensor(rewards), config)
    torch.testing.assert_close(pooled[0], pooled[1], atol=1e-3, rtol=0)
    alone = [gdpo_advantages([group]) for group in rewards]  # one prompt per batch undoes it
    torch.testing.assert_close(alone[0], alone[1], atol=1e-3, rtol=0)


def test_gdpo_by_hand():
    """G = 4, correct = [1,0,0,0], format = [1,1,1,0]: [2,0,0,-2] before the last step."""
    rewards = [[[1.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]]]
    before = torch.tensor([2.0, 0.0, 0.0, -2.0]).double()
    torch.testing.assert_close(
        gdpo_advantages(rewards)[0], before / before.std(), atol=1e-3, rtol=0
    )
    config = replace(grpo.Config(), reward_weights=[1.0, 1.0])
    pooled = grpo.compute_advantages(torch.tensor(rewards), config)[0]
    torch.testing.assert_close(pooled, torch.tensor([1.2247, 0.0, 0.0, -1.2247]), atol=1e-3, rtol=0)
    opposite = [[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]
    assert gdpo_advantages(opposite).abs().max() < 1e-6


def test_gdpo_with_one_reward_is_not_grpo():
    """The last step rescales by the share of groups with signal: 2.29 where GRPO has 1.5."""
    rewards = [[[1.0], [0.0], [0.0], [0.0]], [[0.0]] * 4]
    got = gdpo_advantages(rewards, weights=[1.0])
    assert got[0, 0].item() == pytest.approx(2.29, abs=0.01)
    assert not got[1].any()


def test_dr_grpo_advantages_by_hand():
    """R - mean: easy and hard groups keep their smaller weight."""
    dr_grpo = module("dr_grpo")
    config = replace(dr_grpo.Config(), reward_components=["answer"], reward_weights=[1.0])
    rewards = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [1, -1, -1, -1]])[..., None]
    expected = [[0.75] + [-0.25] * 3, [0.5, 0.5, -0.5, -0.5], [1.5] + [-0.5] * 3]
    torch.testing.assert_close(dr_grpo.compute_advantages(rewards, config), torch.tensor(expected))
    eight = torch.tensor([[1.0] + [0.0] * 7, [1.0] * 4 + [0.0] * 4])[..., None]
    expected = [[0.875] + [-0.125] * 7, [0.5] * 4 + [-0.5] * 4]
    torch.testing.assert_close(dr_grpo.compute_advantages(eight, config), torch.tensor(expected))


@pytest.mark.parametrize("name", FAMILY)
def test_equal_rewards_give_exactly_zero(name):
    """In float32 the mean of equal numbers need not be that number; with a tiny epsilon the
    whole group would be pushed one way."""
    script = module(name)
    config = script.Config()
    for size in (2, 7, 8, 16):
        for value in (0.1, 0.7, 1 / 3, 1.1, 0.0, 1.0):
            rewards = torch.full((3, size, len(config.reward_weights) + (name == "dapo")), value)
            assert not script.compute_advantages(rewards, config).any()


# ---- DAPO's sampling ----------------------------------------------------------------------------


def test_soft_overlong_punishment_by_hand():
    config = replace(dapo.Config(), max_new_tokens=1024, overlong_cache=256)
    lengths = torch.tensor([1.0, 768, 769, 896, 1024])
    expected = torch.tensor([0.0, 0.0, -1 / 256, -0.5, -1.0])
    torch.testing.assert_close(dapo.soft_overlong_punishment(lengths, config), expected)
    config = replace(config, max_new_tokens=20480, overlong_cache=4096)
    assert dapo.soft_overlong_punishment(torch.tensor([18432.0]), config).item() == -0.5


class Draws:
    """Stands in for sampling: each draw has the given numbers of right answers per group."""

    def __init__(self, monkeypatch, *counts):
        self.counts, self.made = list(counts), []
        monkeypatch.setattr(dapo, "sample_groups", self)

    def __call__(self, model, tokenizer, problems, config, generator):
        P, G, T = len(problems), config.group_size, config.max_new_tokens
        draw = len(self.made)
        counts = self.counts[min(draw, len(self.counts) - 1)][:P]
        correct = torch.tensor([[i < n for i in range(G)] for n in counts]).long().flatten()
        texts = [f"draw {draw} row {row}" for row in range(P * G)]
        ids = torch.full((P * G, T), draw)
        ids[:, 0] = torch.arange(P * G)
        lengths = torch.tensor([T if row % G == 0 else 2 for row in range(P * G)])
        mask = (torch.arange(T) < lengths[:, None]).float()
        rollout = dapo.Rollout(
            problems=[problem for problem in problems for _ in range(G)],
            prompts=[[draw, p] for p in range(P) for _ in range(G)],
            completions=texts,
            completion_ids=ids,
            mask=mask,
            logprobs=-mask,
            entropy=mask,
            truncated=(lengths == T).long(),
            correct=correct,
            completions_sampled=P * G,
            tokens_sampled=int(mask.sum()),
        )
        self.made.append(rollout)
        return rollout


def dapo_batch(monkeypatch, *counts, **changes):
    config = dapo.Config(
        prompts_per_step=4, group_size=4, max_new_tokens=8, overlong_cache=4, **changes
    )
    draws = Draws(monkeypatch, *counts)
    rollout, rewards = dapo.sample_batch(None, None, CountdownTask(), config, 1)
    return draws.made, rollout, rewards, config


def test_dynamic_sampling_refills_until_full(monkeypatch):
    """Only groups that are neither all right nor all wrong; every draw is accounted for."""
    made, rollout, rewards, _ = dapo_batch(monkeypatch, [0, 1, 4, 2], [4, 0], [3, 3], [1])
    assert [len(draw.mask) // 4 for draw in made] == [4, 2, 2]  # as many as are still missing
    assert rollout.prompts[::4] == [[0, 1], [0, 3], [2, 0], [2, 1]]
    assert rollout.correct.view(4, 4).sum(1).tolist() == [1, 2, 3, 3]
    rows = [*range(4, 8), *range(12, 16), *range(8)]
    assert rollout.completion_ids[:, 0].tolist() == rows
    assert [int(text.split()[-1]) for text in rollout.completions] == rows
    first, _, last = (draw.problems for draw in made)
    assert rollout.problems == [*first[4:8], *first[12:16], *last]
    assert rollout.completions_sampled == 16 + 8 + 8
    assert rollout.tokens_sampled == sum(draw.tokens_sampled for draw in made)
    assert rewards.shape == (4, 4, 3)


def test_refills_are_capped(monkeypatch):
    """If the cap is reached, groups without signal fill the batch and weigh nothing."""
    made, rollout, *_ = dapo_batch(monkeypatch, [0, 4, 0, 1], [1, 0, 4], max_refills=1)
    assert len(made) == 2
    assert rollout.correct.view(4, 4).sum(1).tolist() == [1, 1, 0, 4]


def test_judged_on_accuracy_before_shaping(monkeypatch):
    """The punishment varies inside an all-right group; it must not pass as signal."""
    made, _, rewards, _ = dapo_batch(monkeypatch, [4, 4, 4, 4], max_refills=2)
    assert len(made) == 3
    assert rewards[..., 2].std(1).min() > 0  # column 2 is the punishment: T tokens cost 1
    assert rewards[:, 0, 2].tolist() == [-1.0] * 4


def test_overlong_filtering_is_an_option_that_is_off(monkeypatch):
    """What was sampled, rewarded and logged stays the same: cut-off rows leave the loss alone."""
    _, off, rewards, config = dapo_batch(monkeypatch, [1, 2, 3, 1])
    _, on, same, filtering = dapo_batch(monkeypatch, [1, 2, 3, 1], mask_truncated=True)
    assert not config.mask_truncated and torch.equal(rewards, same)
    logged = measures.describe(on, rewards, filtering)
    assert logged == measures.describe(off, rewards, config)
    assert logged["length"] == (8 + 2 + 2 + 2) / 4 and logged["entropy"] == 1.0


def test_overlong_filtering_may_empty_a_minibatch(llama_folder):
    """Nothing to train on: no update, no NaN."""
    model, tokenizer = common.load_model(llama_folder)
    config = dapo.Config(group_size=4, max_new_tokens=3, minibatches=2, prompts_per_step=2)
    config.mask_truncated = True
    problems = CountdownTask().held_out(2)
    stream = torch.Generator().manual_seed(0)
    rollout = dapo.sample_groups(model, tokenizer, problems, config, stream)
    rollout.truncated = torch.tensor([1, 1, 1, 1, 0, 0, 1, 0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0]).repeat(2, 1)
    metrics = dapo.update_policy(model, optimizer, rollout, advantages, config)
    assert metrics["updates"] == 1 and metrics["grad_norm"] > 0
    assert all(p.isfinite().all() for p in model.parameters())


# ---- Each script from start to end --------------------------------------------------------------

TINY = {
    "prompts_per_step": 4,
    "group_size": 4,
    "max_new_tokens": 12,
    "eval_problems": 8,
    "checkpoint_every": 1,
}


@pytest.mark.parametrize("name", FAMILY)
def test_two_steps_and_resume(name, llama_folder, tmp_path, monkeypatch):
    """Runs, logs and resumes to the same metrics as an uninterrupted run."""
    script = module(name)
    settings = TINY | ({"overlong_cache": 4} if name == "dapo" else {})
    # A random model is never right: let the length of what it writes decide.
    monkeypatch.setattr(countdown_task, "is_correct", lambda text, problem: len(text) % 2 == 1)
    monkeypatch.setitem(REWARDS, "answer", lambda text, problem: float(len(text) % 2))

    def run(folder, steps, **changes):
        config = script.Config(
            model=llama_folder,
            steps=steps,
            output_dir=str(tmp_path / folder),
            **settings,
            **changes,
        )
        script.train(config)
        rows = run_folder.read_jsonl(tmp_path / folder / "metrics.jsonl")
        return [
            {k: v for k, v in row.items() if "second" not in k and "memory" not in k}
            for row in rows
        ]

    whole = run("whole", 2)
    run("parts", 1)
    assert run("parts", 2, resume=True)[-2:] == whole[-2:]
    steps = [row for row in whole if "grad_norm" in row]
    assert len(steps) == 2 and all(row["updates"] > 0 and row["grad_norm"] > 0 for row in steps)
    assert ("kl_ref" in steps[0]) == (name in KEEPS_KL)
    json.dumps(whole, allow_nan=False)


@pytest.mark.parametrize("name", FAMILY)
def test_help(name, capsys, monkeypatch):
    """--help prints the docstring and one line per option."""
    monkeypatch.setattr("sys.argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        session.launch(module(name).train, module(name).Config, module(name).__doc__)
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert "Coordinates on the seven axes:" in shown and "--group_size" in shown

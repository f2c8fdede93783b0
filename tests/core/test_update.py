"""Advantages, losses and updates: hand-checked numbers and the traps of every peer."""

import math
from dataclasses import replace
from types import SimpleNamespace

from runtime import measures

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

import cispo
import common
import grpo
from countdown_task import Problem

ONE = grpo.Config(reward_components=["answer"], reward_weights=[1.0])


def advantages(rewards, config=ONE):
    return grpo.compute_advantages(torch.tensor([rewards])[..., None], config)[0]


# ---- Advantages ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1.0, 0, 0, 0], [1.5, -0.5, -0.5, -0.5]),  # sample std; population std gives 1.732
        ([1.0, 1, 0, 0], [0.866, 0.866, -0.866, -0.866]),
        ([1.0, -1, -1, -1], [1.5, -0.5, -0.5, -0.5]),  # invariant to scale and shift
        ([1.0] + [0.0] * 7, [2.475] + [-0.3536] * 7),
        ([1.0] * 4 + [0.0] * 4, [0.9354] * 4 + [-0.9354] * 4),
    ],
)
def test_advantages_by_hand(rewards, expected):
    torch.testing.assert_close(advantages(rewards), torch.tensor(expected), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("p", "G", "share"),
    [(0.05, 4, 0.815), (0.05, 16, 0.440), (0.1, 8, 0.430), (0.3, 4, 0.248), (0.5, 8, 0.008)],
)
def test_share_of_groups_without_signal(p, G, share):
    """p^G + (1-p)^G: what dynamic sampling refills, summed over what compute_advantages zeroes."""
    wasted = 0.0
    for right in range(G + 1):
        if not advantages([1.0] * right + [0.0] * (G - right)).any():
            wasted += math.comb(G, right) * p**right * (1 - p) ** (G - right)
    assert wasted == pytest.approx(share, abs=6e-4)


def test_pooling_applies_the_weights():
    config = replace(ONE, reward_components=["answer", "format"], reward_weights=[1.0, 0.5])
    rewards = torch.tensor([[[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    pooled = torch.tensor([1.5, 1.0, 0.5, 0.0])
    expected = (pooled - pooled.mean()) / pooled.std()
    torch.testing.assert_close(
        grpo.compute_advantages(rewards, config)[0], expected, atol=1e-3, rtol=0
    )


def test_advantages_are_per_group():
    """The baseline is the group's own: other groups of the batch change nothing."""
    rewards = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 0]])[..., None]
    both = grpo.compute_advantages(rewards, ONE)
    alone = torch.cat([grpo.compute_advantages(rewards[i : i + 1], ONE) for i in (0, 1)])
    assert torch.equal(both, alone)
    torch.testing.assert_close(both.sum(1), torch.zeros(2), atol=1e-6, rtol=0)


# ---- Loss ---------------------------------------------------------------------------------------


def loss_gradient(ratio, advantage, kl_coef=0.0):
    """dL/dlogp of one token at the given ratio, with the reference equal to the policy."""
    logp = torch.tensor([[ratio]]).log().requires_grad_()
    config, one = replace(ONE, kl_coef=kl_coef), torch.ones(1, 1)
    token_loss, metrics = grpo.policy_loss(
        logp, torch.zeros(1, 1), logp.detach(), torch.full((1, 1), advantage), one, config
    )
    grpo.aggregate_loss(token_loss, one, 1, 1, config).backward()
    return -logp.grad.item(), {name: value.item() for name, value in metrics.items()}


@pytest.mark.parametrize(
    ("advantage", "ratio", "push", "clipped"),
    [
        (1.0, 1.0, 1.0, None),
        (1.0, 1.5, 0.0, "clipped_high"),
        (1.0, 0.5, 0.5, None),
        (-1.0, 1.5, -1.5, None),
        (-1.0, 0.5, 0.0, "clipped_low"),
        (-1.0, 5.0, -5.0, None),  # unbounded: no dual clip
        (0.0, 1.5, 0.0, None),
    ],
)
def test_clip_by_hand(advantage, ratio, push, clipped):
    """The clip stops only pushes that would leave the range further, on the right side of A;
    metrics count only tokens whose gradient it removed."""
    gradient, metrics = loss_gradient(ratio, advantage)
    assert gradient == pytest.approx(push, abs=1e-6)
    assert {name for name in ("clipped_low", "clipped_high") if metrics[name]} == {clipped} - {None}


@pytest.mark.parametrize(
    ("difference", "k3"), [(-1, 0.3679), (-0.1, 0.00484), (0, 0.0), (0.1, 0.00517), (1, 0.7183)]
)
def test_k3_by_hand(difference, k3):
    """difference = log pi_ref - log pi."""
    zero = torch.zeros(1, 1)
    _, metrics = grpo.policy_loss(
        zero, zero, torch.full((1, 1), float(difference)), zero, zero + 1, ONE
    )
    assert metrics["kl_ref"].item() == pytest.approx(k3, abs=1e-4)


def test_k3_is_the_exact_kl_on_average():
    """E_pi[k3] = KL(pi || pi_ref), not the reverse, on an enumerated vocabulary."""
    torch.manual_seed(0)
    policy, ref = torch.randn(2, 50).double().log_softmax(-1)
    exact = (policy.exp() * (policy - ref)).sum()
    reverse = (ref.exp() * (ref - policy)).sum()
    zero = torch.zeros(1, 50).double()
    _, metrics = grpo.policy_loss(policy[None], policy[None], ref[None], zero, zero + 1, ONE)
    assert (metrics["kl_ref"] >= 0).all()
    torch.testing.assert_close((policy.exp() * metrics["kl_ref"][0]).sum(), exact)
    assert abs(exact - reverse) > 0.05


def test_k3_as_a_loss_has_the_gradient_of_the_reverse_kl():
    """On average over the policy's samples: that of KL(ref || pi), as docs/questions.md says."""
    torch.manual_seed(0)
    logits, ref = (
        torch.randn(50).double().requires_grad_(),
        torch.randn(50).double().log_softmax(-1),
    )
    policy = logits.log_softmax(-1)
    zero = torch.zeros(1, 50).double()
    _, metrics = grpo.policy_loss(policy[None], policy[None], ref[None], zero, zero + 1, ONE)
    sampled = (policy.detach().exp() * metrics["kl_ref"][0]).sum()
    (found,) = torch.autograd.grad(sampled, logits, retain_graph=True)
    (reverse,) = torch.autograd.grad((ref.exp() * (ref - policy)).sum(), logits, retain_graph=True)
    (forward,) = torch.autograd.grad((policy.exp() * (policy - ref)).sum(), logits)
    torch.testing.assert_close(found, reverse)
    assert (found - forward).norm() > 0.1 * forward.norm()


# ---- The update, on a real model ----------------------------------------------------------------


@pytest.fixture(scope="module")
def batch(llama_folder):
    """(fresh model factory, rollout with a reference, advantages of mixed signs, config)."""
    config = replace(ONE, group_size=6, max_new_tokens=20, minibatches=2, kl_coef=0.5)
    problems = [Problem((3, 7, 12), 33), Problem((5, 6), 11), Problem((1, 2, 3, 4), 10)]
    problems.append(Problem((9, 9, 9), 27))
    model, tokenizer = common.load_model(llama_folder)
    generator = torch.Generator().manual_seed(3)
    rollout = grpo.sample_groups(model, tokenizer, problems, config, generator)
    rollout.ref_logprobs = (rollout.logprobs - 0.3 * torch.rand(rollout.mask.shape)) * rollout.mask
    torch.manual_seed(1)
    cut = torch.arange(20) < torch.randint(1, 21, (24, 1))  # make lengths ragged
    rollout.mask = rollout.mask * cut
    rollout.logprobs, rollout.ref_logprobs = rollout.logprobs * cut, rollout.ref_logprobs * cut
    scores = grpo.compute_advantages(torch.randn(4, 6, 1), config)
    return lambda: common.load_model(llama_folder)[0], rollout, scores, config


def gradients(batch, script=grpo, **changes):
    """Gradient of each minibatch, seen by an optimizer that only looks."""
    fresh, rollout, scores, config = batch
    model, seen = fresh(), []

    class Look(torch.optim.SGD):
        def step(self):
            seen.append([p.grad.clone() for p in self.param_groups[0]["params"]])

    config = replace(config, **{"max_grad_norm": 1e9} | changes)
    script.update_policy(model, Look(model.parameters(), lr=0.0), rollout, scores, config)
    return seen


def assert_same(one, two):
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_gradient_is_that_of_the_plain_padded_computation(batch, llama_folder):
    """The formula written out once more, on whole padded rows, without micro-batches, with
    transformers' own attention."""
    _, rollout, scores, _ = batch
    model, terms = AutoModelForCausalLM.from_pretrained(llama_folder).eval(), []
    for row in range(12):  # the first of two minibatches
        n = int(rollout.mask[row].sum())
        prompt = rollout.prompts[row]
        ids = torch.tensor([prompt + rollout.completion_ids[row, :n].tolist() + [5, 6, 7]])
        logp = F.log_softmax(model(ids).logits[0], -1)[len(prompt) - 1 : len(prompt) - 1 + n]
        logp = logp.gather(-1, ids[0, len(prompt) : len(prompt) + n, None])[:, 0]
        ratio, a = (logp - rollout.logprobs[row, :n]).exp(), scores.flatten()[row]
        d = rollout.ref_logprobs[row, :n] - logp
        surrogate = torch.min(ratio * a, ratio.clamp(0.8, 1.2) * a)
        terms.append((-surrogate + 0.5 * (d.exp() - d - 1)).mean())
    torch.stack(terms).mean().backward()
    plain = [p.grad for p in model.parameters()]
    assert max(g.abs().max() for g in plain) > 1e-3
    assert_same(gradients(batch, tokens_per_microbatch=10**6)[0], plain)


@pytest.mark.parametrize("budget", [1, 60, 150, 10**6])
def test_micro_batches_add_up(batch, budget):
    """Denominators belong to the minibatch: the split into micro-batches changes nothing."""
    assert_same(gradients(batch, tokens_per_microbatch=budget)[0], gradients(batch)[0])


def test_row_order_and_padding_change_nothing(batch):
    fresh, rollout, scores, config = batch
    order = torch.tensor([0, 1]).repeat_interleave(6) * 6 + torch.randperm(6).repeat(2)
    order = torch.cat([order, torch.arange(12, 24)])
    wide = {
        name: F.pad(getattr(rollout, name)[order], (0, 50))
        for name in ("completion_ids", "mask", "logprobs", "ref_logprobs")
    }
    shuffled = (fresh, replace(rollout, **wide), scores.flatten()[order].view(4, 6), config)
    assert_same(gradients(shuffled)[0], gradients(batch)[0])


def test_advantages_may_differ_from_token_to_token(batch):
    """(B, T) with one value per row is (P, G); credit at first tokens alone is another update."""
    fresh, rollout, scores, config = batch
    per_token = scores.reshape(-1, 1) * rollout.mask
    assert_same(gradients((fresh, rollout, per_token, config))[0], gradients(batch)[0])
    per_token[:, 1:] = 0
    first = gradients((fresh, rollout, per_token, config), kl_coef=0.0)[0]
    whole = gradients(batch, kl_coef=0.0)[0]
    assert first[0].abs().max() > 0 and not torch.allclose(first[0], whole[0], rtol=0.1)


def test_a_minibatch_is_updated_as_if_it_were_alone(batch):
    """Its counts are its own: in cispo.py they are those of its tokens."""
    fresh, rollout, scores, config = batch
    names = ("prompts", "completion_ids", "mask", "logprobs", "entropy", "ref_logprobs")
    half = replace(rollout, **{name: getattr(rollout, name)[:12] for name in names})
    for script in (grpo, cispo):
        alone = gradients((fresh, half, scores[:2], config), script, minibatches=1)
        assert_same(gradients(batch, script)[0], alone[0])


def test_a_large_gradient_is_scaled_down(batch):
    """To a norm of max_grad_norm, in its direction."""
    whole = gradients(batch)[0]
    norm = torch.nn.utils.get_total_norm(whole).item()
    assert_same(gradients(batch, max_grad_norm=norm / 4)[0], [g / 4 for g in whole])


def test_several_optimizer_steps_per_rollout(batch):
    """At one step per rollout no ratio ever leaves 1 and the clip is dead."""
    fresh, rollout, scores, config = batch
    for minibatches in (1, 2, 4):
        model = fresh()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        config = replace(config, minibatches=minibatches)
        metrics = grpo.update_policy(model, optimizer, rollout, scores, config)
        assert metrics["updates"] == minibatches
        moved = metrics["ratio_max"] - metrics["ratio_min"] > 1e-3
        assert moved == (minibatches > 1)


def test_no_signal_no_step(batch):
    """Adam's momentum alone would move the weights."""
    fresh, rollout, scores, config = batch
    model = fresh()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    grpo.update_policy(model, optimizer, rollout, scores, config)  # builds up momentum
    before = [p.clone() for p in model.parameters()]
    metrics = grpo.update_policy(model, optimizer, rollout, scores * 0, config)
    assert metrics["updates"] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_advantages_push_the_right_way(batch):
    """After a small step, completions with A > 0 are likelier and those with A < 0 less so."""
    fresh, rollout, scores, config = batch
    model, config = fresh(), replace(config, kl_coef=0.0, minibatches=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    grpo.update_policy(model, optimizer, rollout, scores, config)
    change = grpo.over_rollout(grpo.completion_logprobs, model, rollout, config) - rollout.logprobs
    gain = (change.sum(1) / rollout.mask.sum(1) * scores.flatten()).sum()
    assert gain > 0


def test_small_updates_are_not_lost(batch):
    """fp32 master weights: bf16 weights near 1 would swallow a step of 1e-6."""
    fresh, rollout, scores, config = batch
    model = fresh()
    before = [p.clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0)
    config = replace(config, dtype="bfloat16", minibatches=1)
    grpo.update_policy(model, optimizer, rollout, scores, config)
    moved = [(a != b).float().mean() for a, b in zip(before, model.parameters(), strict=True)]
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert torch.stack(moved).mean() > 0.9


def test_what_an_update_measures_by_hand(batch):
    """Every token at log r = 0.3: k3 is e^0.3 - 1.3; clipped, and here uncertain, where A > 0."""
    fresh, rollout, scores, config = batch
    model = fresh()
    entropy = (scores.view(-1, 1) > 0) * rollout.mask
    older = replace(rollout, logprobs=(rollout.logprobs - 0.3) * rollout.mask, entropy=entropy)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    metrics = grpo.update_policy(model, optimizer, older, scores, config)
    assert metrics["kl_old"] == pytest.approx(math.exp(0.3) - 1.3, rel=1e-3)
    assert metrics["clipped_uncertain"] == 1 and 0 < metrics["clipped_high"] < 1


def test_what_is_said_of_a_rollout_by_hand():
    """Right with 2 tokens and wrong with 4; in the other group both wrong with 5, one cut off."""
    mask = (torch.arange(5) < torch.tensor([[2], [4], [5], [5]])).float()
    rollout = SimpleNamespace(
        mask=mask,
        correct=torch.tensor([1, 0, 0, 0]),
        truncated=torch.tensor([0, 0, 0, 1]),
        entropy=mask * torch.tensor([[1.0], [0.0], [0.0], [2.0]]),
        completions=[""] * 4,
        completions_sampled=8,
        tokens_sampled=40,
    )
    rewards = torch.tensor([[[1.0, 1, 0], [0, 1, 0]], [[0, 0, -1], [0, 0, 0]]])  # K + 1 in dapo.py
    found = measures.describe(rollout, rewards, grpo.Config(reward_weights=[1.0, 0.5]))
    assert found == {
        "reward": 0.5,
        "accuracy": 0.25,
        "reward_answer": 0.25,
        "reward_format": 0.5,
        "length": 4,
        "length_right": 2,
        "length_wrong": pytest.approx(14 / 3),
        "truncated": 0.25,
        "entropy": 12 / 16,
        "retry": None,
        "groups_without_signal": 0.5,
        "completions_sampled": 8,
        "tokens_sampled": 40,
    }


def test_what_a_clock_and_the_machine_say_is_left_out():
    """And nothing else: every comparison of two runs rests on it."""
    kept = {"step": 1, "tokens_total": 5, "tokens_sampled": 5, "reward": 0.5}
    others = {"seconds": 1, "seconds_sampling": 1, "tokens_per_second_sampling": 5, "threads": 2}
    assert measures.repeatable([kept | others | {"peak_memory_mb": 300.0}]) == [kept]
    assert 50 < measures.peak_memory_mb() < 50_000


@pytest.mark.parametrize(
    ("share", "text"), [(0.25, "25.0% ± 79.6%"), (0.0, "0.0%"), (1.0, "100.0%")]
)
def test_accuracy_with_its_interval_by_hand(share, text):
    """Of 4: t of three degrees, 3.182, times a sample std of 1/2 over 2; none without spread."""
    assert measures.accuracy_text({"accuracy": share, "problems": 4}) == text


def test_clipped_uncertain_tokens_are_counted():
    """Three uncertain tokens under the mask, two of them clipped, one on either side."""
    metrics = measures.TokenMetrics(torch.zeros(1, 1))
    mask = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0]])
    entropy = torch.tensor([[0.6, 0.6, 0.1, 0.7, 0.9]])
    low = torch.zeros(1, 5).bool()
    high = torch.zeros(1, 5).bool()
    ratio = torch.ones(1, 5)
    low[0, 0] = high[0, 2] = high[0, 3] = high[0, 4] = True
    metrics.add({"ratio": ratio, "clipped_low": low, "clipped_high": high}, mask, entropy)
    assert metrics.summary()["clipped_uncertain"] == pytest.approx(2 / 3)
    assert measures.TokenMetrics(torch.zeros(1, 1)).summary()["clipped_uncertain"] is None


def test_a_loss_without_a_clip_or_a_ratio():
    """A script need not clip; without the ratio the log could not say how far the policy moved."""
    metrics = measures.TokenMetrics(torch.zeros(1, 1))
    metrics.add({"ratio": torch.ones(1, 2)}, torch.ones(1, 2), torch.ones(1, 2))
    assert metrics.summary()["clipped_uncertain"] == 0
    with pytest.raises(KeyError, match=r"policy_loss: its metrics need 'ratio'"):
        metrics.add({"weight": torch.ones(1, 2)}, torch.ones(1, 2), torch.ones(1, 2))


def test_spread_and_levels_by_hand():
    """Ratios e and 1/e on two of three tokens: their logs are 1, -1 and 0 on average of squares."""
    metrics = measures.TokenMetrics(torch.tensor([[0.5], [-0.25], [0.50001], [0.0]]))
    ratio = torch.exp(torch.tensor([[1.0, -1.0, 0.0, 7.0]]))
    mask = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    metrics.add({"ratio": ratio}, mask, torch.zeros(1, 4))
    metrics.grad_norms += [1.0, 3.0]
    found = metrics.summary()
    assert found["ratio_spread"] == pytest.approx(math.sqrt(2 / 3))
    extremes = found["ratio_min"], found["ratio_max"]  # e^7 is off the mask
    assert extremes == pytest.approx((math.exp(-1), math.e))
    assert (found["grad_norm"], found["updates"]) == (2, 2)
    assert (found["advantage_levels"], found["advantage_max"]) == (3, pytest.approx(0.50001))
    assert measures.TokenMetrics(torch.zeros(2, 1)).summary()["ratio_spread"] is None

"""zoo/ppo, vapo and prime: against verl's own functions, by hand, against their neighbours.

The loader and the helpers are those of tests/zoo/test_zoo.py: nothing of verl is re-typed.
"""

import math
from dataclasses import replace
from types import SimpleNamespace

from runtime import engine, measures

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import common
import grpo
from experiments import gradient_noise
from tests.core.test_against_trl import MICRO_BATCHES, equal, grad, random_batch
from tests.zoo import verl_oracle
from tests.zoo.test_zoo import (
    FAR,
    clip_settings,
    doubles,
    groups,
    mask_of,
    on_last_token,
    over_tokens,
    same_but_for_1e8,
    split_loss,
    uneven,
)
from zoo import ppo, prime, reinforce_pp, vapo


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def verl():
    if reason := verl_oracle.why_not():
        pytest.skip(reason)
    return verl_oracle.load_core_algos()


def one_reward(module, **changes):
    return module.Config(reward_components=["answer"], reward_weights=[1.0], **changes)


REWARDS = doubles([[1], [0], [1], [1], [0], [0], [1], [0]])  # of 8 completions, (P, G = 1)


def random_values(mask):
    return torch.rand(mask.shape, dtype=torch.float64) * mask


# ---- PPO: GAE and the two losses ----------------------------------------------------------------


def mask_with(with_tool):
    """(B, T) of random_batch; with a tool, of the longer rows two tokens inside are its own."""
    mask = random_batch(far=False).mask
    if with_tool:
        mask[mask.sum(1) > 4, 2:4] = 0
    return mask


WITH_TOOL = pytest.mark.parametrize("with_tool", [False, True], ids=["text", "text with a tool"])


@WITH_TOOL
@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_gae_and_returns_are_verls(verl, lam, with_tool):
    """Returns exactly; advantages up to the two epsilons, and 0 off the mask, as verl's are not."""
    mask = mask_with(with_tool)
    values = random_values(mask)
    config = one_reward(ppo, gae_lambda=lam)
    ours, returns = ppo.compute_advantages(REWARDS[..., None], values, mask, config)
    theirs, their_returns = verl.compute_gae_advantage_return(
        on_last_token(REWARDS, mask), values, mask, 1.0, lam
    )
    equal(returns * mask, their_returns * mask)
    std, variance = over_tokens(their_returns - values, mask)
    same_but_for_1e8(ours * (std + 1e-4), theirs * mask * (variance + 1e-8).sqrt())
    assert not ours[mask == 0].any() and theirs[mask == 0].any()


def gae_of(values, lam):
    """A before the division, of one completion that is right."""
    values = doubles([values])
    config = one_reward(ppo, gae_lambda=lam)
    _, returns = ppo.compute_advantages(doubles([[[1.0]]]), values, torch.ones_like(values), config)
    return (returns - values)[0].tolist()


@pytest.mark.parametrize(
    ("values", "lam", "expected"),
    [
        ([0.5, 0.5, 0.5], 1.0, [0.5, 0.5, 0.5]),
        ([0.5, 0.5, 0.5], 0.5, [0.125, 0.25, 0.5]),
        ([0.5, 0.5, 0.5], 0.0, [0.0, 0.0, 0.5]),
        ([0.2, 0.5, 0.9], 1.0, [0.8, 0.5, 0.1]),
        ([0.2, 0.5, 0.9], 0.95, [0.77025, 0.495, 0.1]),
        ([0.2, 0.5, 0.9], 0.5, [0.525, 0.45, 0.1]),
        ([0.2, 0.5, 0.9], 0.0, [0.3, 0.4, 0.1]),
    ],
)
def test_gae_by_hand(values, lam, expected):
    assert gae_of(values, lam) == pytest.approx(expected)


def test_whitened_advantages_by_hand():
    values, mask = doubles([[0.5, 0.5, 0.5]]), torch.ones(1, 3).double()
    config = one_reward(ppo, gae_lambda=0.5)
    advantages, _ = ppo.compute_advantages(doubles([[[1.0]]]), values, mask, config)
    assert advantages[0].tolist() == pytest.approx([-0.873, -0.218, 1.091], abs=1e-3)


def test_a_value_belongs_to_the_prefix_before_its_token(llama_folder):
    """V_t reads the prompt and the tokens before t: token t itself does not change it."""
    config = ppo.Config(model=llama_folder, max_new_tokens=6)
    critic = ppo.load_critic(config)
    with torch.no_grad():
        critic.get_output_embeddings().weight.normal_()
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 9, 8]])
    rollout = SimpleNamespace(prompts=[[1, 2, 3]] * 2, completion_ids=ids, mask=torch.ones(2, 4))
    first, second = ppo.prefix_values(critic, rollout, [0, 1], config)
    torch.testing.assert_close(first[:3], second[:3])
    assert abs(first[3] - second[3]) > 1e-4  # after 7 and after 9
    hidden = critic.model(torch.tensor([[1, 2, 3, 5, 6, 7, 8]])).last_hidden_state[0]
    plainly = critic.get_output_embeddings()(hidden)[2:-1, 0]  # one place before each token
    torch.testing.assert_close(first, plainly, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("micro_batches", MICRO_BATCHES)
def test_value_loss_and_gradient_are_verls(verl, micro_batches):
    """Our micro-batches, summed, against verl's minibatch; some values have left the clip."""
    mask = random_batch(far=False).mask
    old, returns = random_values(mask), random_values(mask) * 2
    values = (old + 0.8 * torch.randn_like(old)).requires_grad_()
    config = ppo.Config(value_clip=0.5)
    theirs, clipped = verl.compute_value_loss(values, returns, old, mask, config.value_clip)
    ours = 0
    for rows in MICRO_BATCHES[micro_batches]:
        errors = ppo.value_loss(values[rows], old[rows], returns[rows], config)
        ours = ours + ppo.aggregate_loss(errors, mask[rows], len(mask), mask.sum(), config)
    equal(ours, theirs)
    gradients = [torch.autograd.grad(loss, values, retain_graph=True)[0] for loss in (ours, theirs)]
    equal(*gradients)
    assert 0 < clipped < 1


@pytest.mark.parametrize(
    ("returns", "loss", "gradient"), [(1.0, 0.02, 0.2), (0.0, 0.72, 1.2), (1.5, 0.125, 0.0)]
)
def test_value_loss_by_hand(returns, loss, gradient):
    """From 0.5 the critic went to 1.2, clip 0.5: no gradient towards a return of 1.5."""
    V = doubles([[1.2]]).requires_grad_()
    config = ppo.Config(value_clip=0.5)
    error = ppo.value_loss(V, doubles([[0.5]]), doubles([[returns]]), config)
    (slope,) = torch.autograd.grad(error.sum(), V)
    assert error.item() == pytest.approx(loss) and slope.item() == pytest.approx(gradient)


@FAR
@pytest.mark.parametrize("module", [ppo, vapo, prime], ids=["ppo", "vapo", "prime"])
@pytest.mark.parametrize("micro_batches", MICRO_BATCHES)
def test_policy_loss_and_gradient_are_verls(verl, module, far, micro_batches):
    """PPO's clip with an advantage per token, and one mean over all tokens of the minibatch."""
    config, batch = uneven(module), random_batch(far)
    A = batch.advantages[:, None] * torch.linspace(-1, 2, batch.mask.shape[1], dtype=torch.float64)
    batch.advantages = A
    theirs, _ = verl.compute_policy_loss_vanilla(
        batch.old, batch.logprobs, A, batch.mask, "token-mean", clip_settings(config)
    )
    ours = split_loss(module, config, batch, micro_batches)
    equal(ours, theirs)
    equal(grad(ours, batch), grad(theirs, batch))


def test_dual_clip_is_not_in_it(verl):
    """verl's default caps the loss of a bad token at 3 |A|: at ratio 5 it stops its gradient."""
    old, new = doubles([[0.0]]), doubles([[math.log(5)]]).requires_grad_()
    A, mask, config = doubles([[-1.0]]), torch.ones(1, 1).double(), ppo.Config()
    ours, _ = ppo.policy_loss(new, old, A, mask, config)
    found = {}
    for c in (1e9, 3.0):
        settings = clip_settings(config)
        settings.clip_ratio_c = c
        found[c], _ = verl.compute_policy_loss_vanilla(old, new, A, mask, "token-mean", settings)
    assert ours.item() == pytest.approx(5.0) and found[1e9].item() == pytest.approx(5.0)
    assert found[3.0].item() == pytest.approx(3.0)
    assert torch.autograd.grad(found[3.0], new)[0].item() == 0
    assert torch.autograd.grad(ours.sum(), new)[0].item() == pytest.approx(5.0)


# ---- The ladder: what V is ----------------------------------------------------------------------


def test_without_a_critic_ppo_is_reinforce_pp():
    """V = 0, lambda = 1: REINFORCE++'s advantages without its KL, to the last digit."""
    mask = random_batch(far=False).mask
    zero = torch.zeros_like(mask)
    ours, returns = ppo.compute_advantages(REWARDS[..., None], zero, mask, one_reward(ppo))
    config = one_reward(reinforce_pp, kl_coef=0.0)
    theirs = reinforce_pp.compute_advantages(REWARDS[..., None], zero, mask, config)
    assert torch.equal(ours, theirs)
    assert torch.equal(returns * mask, REWARDS.expand_as(mask) * mask)


def test_with_the_groups_mean_as_critic_it_is_verls_reinforce_pp_baseline(verl):
    """V = the group's mean at every prefix; both whiten over tokens."""
    rewards = doubles([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    mask = random_batch(far=False).mask
    values = rewards.mean(1, keepdim=True).expand(2, 4).reshape(8, 1) * mask
    config = one_reward(ppo, group_size=4)
    ours, returns = ppo.compute_advantages(rewards[..., None], values, mask, config)
    theirs, _ = verl.compute_reinforce_plus_plus_baseline_outcome_advantage(
        on_last_token(rewards, mask), mask, groups(2, 4)
    )
    std, variance = over_tokens(returns - values, mask)
    same_but_for_1e8(ours * (std + 1e-4), theirs * mask * (variance + 1e-8).sqrt())


def test_the_first_step_of_ppo_is_reinforce_pps(llama_folder):
    """A new critic says exactly 0 of every prefix, though its body is the policy's."""
    config = ppo.Config(model=llama_folder, group_size=2, max_new_tokens=6)
    critic = ppo.load_critic(config)
    policy, _ = common.load_model(llama_folder)
    assert torch.equal(
        critic.model.layers[0].mlp.up_proj.weight, policy.model.layers[0].mlp.up_proj.weight
    )
    ids = torch.randint(1, 50, (4, 6))
    rollout = SimpleNamespace(prompts=[[1, 2, 3]] * 4, completion_ids=ids, mask=torch.ones(4, 6))
    values = ppo.over_rollout(ppo.prefix_values, critic, rollout, config)
    assert values.shape == (4, 6) and not values.any()
    logits, _ = engine.completion_logits(critic, rollout, [0, 1])
    assert logits.shape[-1] == 1
    loss = (ppo.prefix_values(critic, rollout, [0, 1], config) - 1).square().sum()
    loss.backward()  # the head learns first: while it is 0 nothing reaches the body
    assert critic.get_output_embeddings().weight.grad.abs().max() > 0
    assert critic.model.layers[0].mlp.up_proj.weight.grad.abs().max() == 0


def test_explained_variance_is_against_rewards():
    """A critic that knows R from the third quarter on: 0, 0, 1, 1; none where R does not vary."""
    mask = mask_of([8, 4, 8]).float()
    quarter = (4 * torch.arange(8) / 8).long().expand(3, 8).clone()
    quarter[1, :4] = torch.arange(4)
    R = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    values = R[:, 0] * (quarter >= 2) * mask
    rollout = SimpleNamespace(mask=mask, values=values)
    found = measures.explained_variance(rollout, R, one_reward(ppo))
    quarters = [found[f"explained_q{q}"] for q in (1, 2, 3, 4)]
    assert quarters == pytest.approx([0, 0, 1, 1], abs=1e-6)
    assert 0 < found["explained"] < 1
    flat = measures.explained_variance(rollout, torch.ones(3, 1, 1), one_reward(ppo))
    assert set(flat.values()) == {None}


@pytest.mark.parametrize("module", [ppo, vapo], ids=["ppo", "vapo"])
@pytest.mark.parametrize("minibatches", [1, 2])
def test_the_critic_learns_a_mean_over_the_tokens_of_a_minibatch(module, minibatches, monkeypatch):
    """Whatever the micro-batches are; a gradient above max_grad_norm is scaled down to it."""
    batch = random_batch(far=True)
    critic, seen = Table(batch.logprobs.detach()), []
    monkeypatch.setattr(
        module,
        "prefix_values",
        lambda critic, rollout, rows, config: critic.logprobs[rows] * batch.mask[rows],
    )
    monkeypatch.setattr(engine, "pack_rows", lambda rollout, rows, config: [rows[:3], rows[3:]])
    rollout = SimpleNamespace(mask=batch.mask, values=batch.old * batch.mask)
    optimizer = SimpleNamespace(
        step=lambda: seen.append(critic.logprobs.grad.clone()), zero_grad=critic.zero_grad
    )
    returns = batch.ref * batch.mask
    config = module.Config(minibatches=minibatches, max_grad_norm=1e9)
    module.update_critic(critic, optimizer, rollout, returns, config)
    errors = module.value_loss(batch.logprobs, batch.old, returns, config) * batch.mask
    parts = zip(errors.chunk(minibatches), batch.mask.chunk(minibatches), strict=True)
    equal(sum(seen), grad(sum(part.sum() / mask.sum() for part, mask in parts), batch))
    config = replace(config, max_grad_norm=1e-3)
    module.update_critic(critic, optimizer, rollout, returns, config)
    assert len(seen) == 2 * minibatches and seen[-1].norm().item() == pytest.approx(1e-3, rel=1e-3)


# ---- VAPO ---------------------------------------------------------------------------------------


@WITH_TOOL
def test_vapo_advantages_are_verls_row_by_row(verl, with_tool):
    """Each completion has its own lambda, the critic's returns have lambda 1."""
    mask = mask_with(with_tool)
    values, config = random_values(mask), one_reward(vapo, gae_alpha=0.5)
    ours, returns = vapo.compute_advantages(REWARDS[..., None], values, mask, config)
    rows = []
    for row, length in enumerate(mask.sum(1).tolist()):
        lam = max(1 - 1 / (config.gae_alpha * length), 0)
        part = slice(row, row + 1)
        scores = on_last_token(REWARDS, mask)[part]
        if length > 1:  # verl refuses to whiten one token
            _, found = verl.compute_gae_advantage_return(scores, values[part], mask[part], 1.0, lam)
            rows.append((found - values[part]) * mask[part])
        else:
            rows.append((scores - values[part]) * mask[part])
    gae = torch.cat(rows)
    trained = gae[mask > 0]
    equal(ours, (gae - trained.mean()) * mask / (trained.std() + 1e-4))
    _, monte_carlo = verl.compute_gae_advantage_return(
        on_last_token(REWARDS, mask), values, mask, 1.0, 1.0
    )
    equal(returns, monte_carlo * mask)


@pytest.mark.parametrize(
    ("alpha", "length", "lam"),
    [(0.05, 10, 0), (0.05, 20, 0), (0.05, 47, 0.574), (0.05, 100, 0.8), (0.5, 47, 0.957)],
)
def test_vapo_looks_ahead_by_a_share_of_the_length(alpha, length, lam):
    """lambda = 1 - 1/(alpha |o|), at least 0: read off the first of two surprises."""
    values = torch.zeros(2, length).double()
    values[0, 1] = 1.0  # surprise 1 at the first token, -1 at the second, R = 0 at the end
    config = one_reward(vapo, gae_alpha=alpha)
    mask = torch.ones_like(values)
    advantages, _ = vapo.compute_advantages(doubles([[[0.0]], [[0.0]]]), values, mask, config)
    first, second, rest = advantages[0, 0], advantages[0, 1], advantages[1, 0]
    assert ((first - rest) / (rest - second)).item() == pytest.approx(1 - lam, abs=1e-3)


class Table(torch.nn.Module):
    """A policy whose log-probs are its parameters, (B, T)."""

    def __init__(self, logprobs):
        super().__init__()
        self.logprobs = torch.nn.Parameter(logprobs.clone())


def first_gradient(module, batch, advantages, correct, config, monkeypatch):
    """Gradient that update_policy takes on one minibatch of a Table."""
    model, seen = Table(batch.logprobs.detach()), []
    monkeypatch.setattr(
        module,
        "completion_logprobs",
        lambda model, rollout, rows, config: model.logprobs[rows] * batch.mask[rows],
    )
    monkeypatch.setattr(engine, "pack_rows", lambda rollout, rows, config: [rows[:3], rows[3:]])
    rollout = SimpleNamespace(
        mask=batch.mask, logprobs=batch.old, entropy=batch.mask, correct=torch.tensor(correct)
    )
    optimizer = SimpleNamespace(
        step=lambda: seen.append(model.logprobs.grad.clone()),
        zero_grad=lambda: None,
    )
    config = replace(config, minibatches=1, max_grad_norm=1e9)
    module.update_policy(model, optimizer, rollout, advantages, config)
    return seen[0]


@pytest.mark.parametrize("correct", [[0, 1, 0, 1, 1, 0, 0, 0], [0] * 8], ids=["some", "none"])
def test_vapo_imitates_right_completions(verl, correct, monkeypatch):
    """PPO's gradient plus mu times that of verl's mean over the tokens of the right ones."""
    batch = random_batch(far=True)
    A = batch.advantages[:, None] * batch.mask
    config = vapo.Config(prompts_per_step=2, group_size=4)
    ours = first_gradient(vapo, batch, A, correct, config, monkeypatch)
    plain = first_gradient(
        vapo, batch, A, correct, replace(config, imitation_coef=0.0), monkeypatch
    )
    if any(correct):
        right = batch.mask * torch.tensor(correct)[:, None]
        imitation = verl.agg_loss(-batch.logprobs, right, "token-mean")
        plain = plain + config.imitation_coef * grad(imitation, batch)
    equal(ours, plain)


# ---- PRIME --------------------------------------------------------------------------------------


def test_prime_by_hand():
    """log-ratios 1, -1, 2: p = .05, -.05, .1, to go .1, .05, .1; sigmoid(.1) = .525, CE .6444.

    The largest sum to go is .1, so q = .5, -.5, 1: to go 1, .5, 1, and beta is out of it.
    """
    process = 0.05 * doubles([[1, -1, 2], [0, 0, 0]])
    rewards, mask = doubles([[[1.0], [0.0]]]), torch.ones(2, 3).double()
    raw = doubles([[1, 0.5, 1], [-1, -2 / 3, -1 / 3]])  # the other's mean is 1 / 3
    raw += doubles([[1], [-1]])  # outcomes, each minus the other's
    for beta in (1.0, 0.02, 7.0):
        config = one_reward(prime, group_size=2)
        A = prime.compute_advantages(rewards, beta * process, mask, config)
        torch.testing.assert_close(
            A,
            (raw - raw.mean()) / (raw.std() + 1e-4),
            rtol=1e-3,
            atol=0,  # 1e-6 is in the divisor
        )
    score = process[0].sum()
    assert torch.sigmoid(score).item() == pytest.approx(0.525, abs=1e-4)
    loss = F.binary_cross_entropy_with_logits(score, torch.ones_like(score))
    assert loss.item() == pytest.approx(0.6444, abs=1e-4)


def test_prime_without_process_rewards_is_leave_one_out():
    """Outcomes alone: RLOO's advantage, then whitened over tokens."""
    rewards = torch.rand(2, 4, 1).double()
    mask = random_batch(far=False).mask
    A = prime.compute_advantages(rewards, mask * 0, mask, one_reward(prime, group_size=4))
    R = rewards[..., 0]
    outcome = ((R - (R.sum(1, keepdim=True) - R) / 3).view(-1, 1) * mask)[mask > 0]
    equal(A[mask > 0], (outcome - outcome.mean()) / (outcome.std() + 1e-4))


def test_prime_is_off_the_recipe_by_what_is_not_left_out():
    """The recipe subtracts sum_j mean(p_j) / (G - 1) from G p_t / (G - 1): the row is left in."""
    G, mask = 4, random_batch(far=False).mask
    p = torch.randn(mask.shape).double() * mask
    mean = (p.sum(1) / mask.sum(1)).view(2, G)  # of each completion, over its tokens
    recipe = G / (G - 1) * p - (mean.sum(1) / (G - 1)).repeat_interleave(G)[:, None]
    paper = p - prime.mean_of_others(mean).view(-1, 1)
    left_in = (p - mean.view(-1, 1)) / (G - 1)
    equal((paper + left_in) * mask, recipe * mask)


@pytest.mark.parametrize("minibatches", [1, 2])
def test_the_reward_model_learns_outcomes(minibatches, monkeypatch):
    """Mean cross-entropy of a minibatch on sigmoid(sum_t p_t), whatever the micro-batches are."""
    batch = random_batch(far=True)
    model, seen = Table(batch.logprobs.detach()), []
    monkeypatch.setattr(
        prime,
        "completion_logprobs",
        lambda model, rollout, rows, config: model.logprobs[rows] * batch.mask[rows],
    )
    monkeypatch.setattr(engine, "pack_rows", lambda rollout, rows, config: [rows[:3], rows[3:]])
    right = torch.tensor([0, 1, 0, 1, 1, 0, 0, 0])
    rollout = SimpleNamespace(mask=batch.mask, ref_logprobs=batch.ref * batch.mask, correct=right)
    optimizer = SimpleNamespace(
        step=lambda: seen.append(model.logprobs.grad.clone()), zero_grad=model.zero_grad
    )
    config = prime.Config(minibatches=minibatches, max_grad_norm=1e9)
    prime.update_reward_model(model, optimizer, rollout, config)
    assert len(seen) == minibatches
    score = 0.05 * ((batch.logprobs - batch.ref) * batch.mask).sum(1)
    loss = F.binary_cross_entropy_with_logits(score, right.double(), reduction="none")
    expected = grad(sum(part.mean() for part in loss.chunk(minibatches)), batch)
    equal(sum(seen), expected)
    prime.update_reward_model(model, optimizer, rollout, replace(config, max_grad_norm=1e-3))
    assert seen[-1].norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_auc_by_hand():
    """Of the pairs (right, wrong): 3 of 4 in order, a tie counts half; None without pairs."""
    score, right = torch.tensor([0.9, 0.2, 0.5, 0.1]), torch.tensor([1, 1, 0, 0])
    assert measures.auc(score, right) == pytest.approx(0.75)
    assert measures.auc(torch.zeros(4), right) == 0.5
    assert measures.auc(score, torch.ones(4)) is None


def test_defaults_are_those_of_the_papers_but_where_said():
    """TinyZero's PPO; VAPO's but for alpha, which is for long answers; PRIME's beta."""
    hub = grpo.Config()
    stated = {
        ppo: {"gae_lambda": 1.0, "value_clip": 0.5, "clip_low": 0.2, "clip_high": 0.2},
        vapo: {"imitation_coef": 0.1, "clip_low": 0.2, "clip_high": 0.28, "gae_alpha": 0.5},
        prime: {"process_coef": 0.05, "clip_low": 0.2, "clip_high": 0.2},
    }
    for module, expected in stated.items():
        config = module.Config()
        assert expected.items() <= vars(config).items(), module.__name__
        assert config.prompts_per_step * config.group_size == 256
        assert config.learning_rate == hub.learning_rate
    assert ppo.Config().critic_learning_rate == 10 * hub.learning_rate
    assert prime.Config().reward_learning_rate == 2 * hub.learning_rate


def test_noise_and_signal_of_known_gradients():
    """tr Var and |mean|^2 from products alone, unbiased; shares with an interval that holds."""
    rng = np.random.default_rng(0)
    found, shares = [], []
    for _ in range(200):
        vectors = rng.normal(0.2, 0.5, (64, 20))  # 20 weights, mean 0.2, deviation 0.5
        louder = vectors + rng.normal(0, 0.5, (64, 20))  # twice the variance
        products = [each @ each.T for each in (vectors, louder)]
        found.append(gradient_noise.noise_and_signal(products[0]))
        shares.append(gradient_noise.against(*products, 4))
    noise, signal = np.mean(found, axis=0)
    assert noise == pytest.approx(20 * 0.5**2, rel=0.05)
    assert signal == pytest.approx(20 * 0.2**2, rel=0.05)
    assert np.mean([one["noise"] for one in shares]) == pytest.approx(2, rel=0.05)
    inside = [low <= 2 <= high for low, high in (one["interval"] for one in shares)]
    assert 0.85 < np.mean(inside) <= 1
    itself = gradient_noise.against(products[0], products[0], 4)
    assert itself["noise"] == 1 and itself["interval"] == [1, 1]


def test_baselines_are_what_their_names_say(monkeypatch):
    """Two problems, four tries each; V of every rung by hand."""
    monkeypatch.setattr(ppo, "over_rollout", lambda *_: "the critic's")
    monkeypatch.setattr(gradient_noise, "GROUP", 4)
    rollout = SimpleNamespace(correct=torch.tensor([1, 0, 0, 0, 1, 1, 1, 0]))
    truth, memory = torch.tensor([0.3, 0.7]), torch.tensor([0.2, 0.6])
    found = gradient_noise.baselines(rollout, truth, memory, None, None)
    assert found.pop("a critic") == "the critic's"
    first_and_last = {name: (V[0].item(), V[-1].item()) for name, V in found.items()}
    assert first_and_last == {
        "nothing": (0, 0),
        "the batch's mean": (0.5, 0.5),
        "the mean of the others": (0, 1),
        "a memory of 8 visits": pytest.approx((0.2, 0.6)),
        "the true success rate": pytest.approx((0.3, 0.7)),
    }

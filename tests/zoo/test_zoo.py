"""zoo/: every loss and advantage against TRL's and verl's own code, by hand, against neighbours.

As in core/test_against_trl.py nothing of an oracle is re-typed: TRL's methods run unbound on a bare
namespace, verl's functions are those of its wheel (verl_oracle.py).
"""

import inspect
import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trl import RLOOConfig, RLOOTrainer
from trl.experimental.gmpo import GMPOConfig, GMPOTrainer
from trl.trainer.utils import split_tensor_dict

import dr_grpo
import grpo
import gspo
from tests.core.test_against_trl import (
    LENGTHS,
    MICRO_BATCHES,
    equal,
    grad,
    random_batch,
    trl_trainer,
)
from tests.zoo import verl_oracle
from zoo import gmpo, reinforce_pp, reinforce_pp_baseline, rloo, spo, ttrl

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")

FAR = pytest.mark.parametrize("far", [False, True], ids=["ratio 1", "far"])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def doubles(values):
    return torch.tensor(values, dtype=torch.float64)


def mask_of(lengths):
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).double()


def answers(rewards):
    """Rewards (P, G) of one component -> (P, G, 1)."""
    return doubles(rewards)[..., None]


def one_reward(module, **changes):
    return module.Config(reward_components=["answer"], reward_weights=[1.0], **changes)


def uneven(module, **changes):
    """The script's options with a clip wider above than below: equal ends hide a swap of them."""
    config = module.Config(**changes)
    return replace(config, clip_high=1.5 * config.clip_low)


def loss_of(module, config, batch, rows=None):
    """Loss and metrics of one micro-batch, trimmed to its longest row as update_policy does."""
    rows = list(range(len(batch.mask))) if rows is None else rows
    mask = batch.mask[rows]
    T = int(mask.sum(1).max())
    tensors = [batch.logprobs[rows, :T], batch.old[rows, :T]]
    if "ref_logprobs" in inspect.signature(module.policy_loss).parameters:
        tensors.append(batch.ref[rows, :T])
    A = batch.advantages.reshape(len(batch.mask), -1)[rows, :T]
    token_loss, metrics = module.policy_loss(*tensors, A, mask[:, :T], config)
    counts = len(batch.mask), batch.mask.sum()
    return module.aggregate_loss(token_loss, mask[:, :T], *counts, config), metrics


def split_loss(module, config, batch, micro_batches):
    return sum(loss_of(module, config, batch, rows)[0] for rows in MICRO_BATCHES[micro_batches])


# ---- TRL: RLOO and GMPO -------------------------------------------------------------------------


def trl_arguments(config, P, G, accumulation):
    return {
        "output_dir": "unused",
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "num_generations": G,
        "per_device_train_batch_size": P * G // accumulation,
        "gradient_accumulation_steps": accumulation,
        "steps_per_generation": accumulation,
        "num_iterations": 2,
        "beta": config.kl_coef,
        "epsilon": config.clip_low,
        "epsilon_high": config.clip_high,
    }


def trl_of(module, config, rewards, lengths, old, ref, accumulation=1):
    """(trainer, batch) of TRL's RLOOTrainer or GMPOTrainer; rewards (P, G, K)."""
    P, G, K = rewards.shape
    weights = config.reward_weights[:K]
    hub = grpo.Config()  # the namespace is GRPOTrainer's; every flag is overwritten below
    trainer = trl_trainer("grpo", hub, rewards, lengths, old, ref, accumulation=accumulation)
    flags = trl_arguments(config, P, G, accumulation) | {"reward_weights": weights}
    if module is rloo:
        methods, args = RLOOTrainer, RLOOConfig(normalize_advantages=False, **flags)
        prompts, completions, _, texts, *_ = trainer._generate([""] * len(lengths))
        trainer._generate = lambda _: (prompts, completions, texts)
    else:
        methods, args = GMPOTrainer, GMPOConfig(**flags)
    weights = torch.tensor(args.reward_weights, dtype=torch.float32)
    vars(trainer).update(vars(args) | {"reward_weights": weights, "args": args})
    trainer.epsilon_low = args.epsilon
    trainer.loss = lambda batch, logprobs: methods._compute_loss(
        trainer, SimpleNamespace(logprobs=logprobs), batch
    )
    inputs = [{"prompt": ""}] * len(lengths)
    return trainer, methods._generate_and_score_completions(trainer, inputs)


@pytest.mark.parametrize("module", [rloo, gmpo], ids=["rloo", "gmpo"])
@FAR
@pytest.mark.parametrize("micro_batches", MICRO_BATCHES)
def test_loss_and_gradient_are_trls(module, far, micro_batches):
    """Our micro-batches, summed, against TRL's loss on the whole minibatch; k3 included in GMPO."""
    config, batch = uneven(module), random_batch(far)
    rewards = torch.zeros(2, 4, 2).double()
    trainer, trl_batch = trl_of(module, config, rewards, LENGTHS, batch.old, batch.ref)
    equal(trl_batch["completion_mask"].double(), batch.mask)
    if module is rloo:  # the sum over the completion, one number per row
        equal(trl_batch["old_logps"], (batch.old * batch.mask).sum(1))
    trl_batch["advantages"] = batch.advantages
    theirs = trainer.loss(trl_batch, batch.logprobs)
    ours = split_loss(module, config, batch, micro_batches)
    equal(ours, theirs)
    equal(grad(ours, batch), grad(theirs, batch))
    assert trainer.beta == config.kl_coef > 0


@pytest.mark.parametrize("module", [rloo, gmpo], ids=["rloo", "gmpo"])
def test_clip_counts_are_trls(module):
    """Both sides, at a batch in which both occur."""
    config, batch = uneven(module), random_batch(far=True)
    rewards = torch.zeros(2, 4, 2).double()
    trainer, trl_batch = trl_of(module, config, rewards, LENGTHS, batch.old, batch.ref)
    trainer.loss(trl_batch | {"advantages": batch.advantages}, batch.logprobs)
    metrics = loss_of(module, config, batch)[1]
    for side in ("low", "high"):
        clipped = metrics[f"clipped_{side}"].double()
        weights = batch.mask if module is gmpo else torch.ones_like(clipped)
        share = ((clipped * weights).sum() / weights.sum()).item()
        (logged,) = trainer._metrics["train"][f"clip_ratio/{side}_mean"]
        assert share == pytest.approx(logged, rel=1e-6) and 0 < share < 1


@pytest.mark.parametrize("module", [rloo, gmpo], ids=["rloo", "gmpo"])
def test_trl_accumulating_gives_our_minibatch(module):
    """Two micro-batches of TRL; RLOOTrainer leaves the division by their number to its caller."""
    config, batch = uneven(module), random_batch(far=True)
    rewards = torch.zeros(2, 4, 2).double()
    trainer, trl_batch = trl_of(module, config, rewards, LENGTHS, batch.old, batch.ref, 2)
    trl_batch["advantages"] = batch.advantages
    parts = zip(split_tensor_dict(trl_batch, 2), batch.logprobs.chunk(2), strict=True)
    theirs = sum(trainer.loss(part, logprobs) for part, logprobs in parts)
    ours = loss_of(module, config, batch)[0] * (2 if module is rloo else 1)
    equal(ours, theirs)
    equal(grad(ours, batch), grad(theirs, batch))


def test_defaults_are_those_of_trl_and_of_the_papers():
    """What the tests with other values would not notice; GMPO keeps grpo.py's KL, not TRL's 0."""
    of = {
        rloo: {"kl_coef": RLOOConfig.beta, "clip_low": RLOOConfig.epsilon},
        gmpo: {"kl_coef": grpo.Config.kl_coef, "clip_low": GMPOConfig.epsilon},
        reinforce_pp: {"kl_coef": 0.01, "clip_low": 0.2, "group_size": 1},
        reinforce_pp_baseline: {"kl_coef": grpo.Config.kl_coef, "clip_low": 0.2},
        ttrl: {"kl_coef": grpo.Config.kl_coef, "clip_low": 0.2},
        spo: {"rho_min": 0.875, "rho_max": 0.96, "half_life": 0.06, "offline_completions": 8},
    }
    of[spo] |= {"clip_low": 0.2, "clip_high": 0.28, "group_size": 1}
    for module, stated in of.items():
        expected = {"clip_high": stated["clip_low"]} | stated
        assert expected.items() <= vars(module.Config()).items(), module.__name__


@pytest.mark.parametrize("beta", [0.0, 0.5], ids=["no KL", "KL"])
def test_rloo_advantages_are_trls(beta):
    """Leave-one-out of rewards that hold the KL, which TRL computes from old and ref itself."""
    P, G = 5, 4
    generator = torch.Generator().manual_seed(0)
    rewards = torch.rand(P, G, 2, generator=generator, dtype=torch.float64)
    rewards[0], rewards[1] = 1.0, rewards[1].round()  # an all-right group among them
    lengths = torch.randint(1, 9, (P * G,), generator=generator).tolist()
    mask = mask_of(lengths)
    old, ref = (-torch.rand(mask.shape, generator=generator).double() for _ in "01")
    # A power of two: TRL's weights are float32, and so 0.1 would differ in the eighth digit.
    config = rloo.Config(group_size=G, kl_coef=beta, reward_weights=[1.0, 0.125])
    theirs = trl_of(rloo, config, rewards, lengths, old, ref)[1]["advantages"]
    kl = ((old - ref) * mask).sum(1).view(P, G, 1)  # as train computes it; `runs` tests that
    ours = rloo.compute_advantages(torch.cat([rewards, kl], -1), config)
    equal(ours, theirs.view(P, G))
    assert ours[0].any() == (beta > 0)  # the KL gives an all-right group a signal


def test_ttrl_is_trained_as_grpo():
    """Its loss and its advantages are the hub's on every batch: only the reward is another."""
    batch = random_batch(far=True)
    ours, hubs = (loss_of(module, module.Config(), batch)[0] for module in (ttrl, grpo))
    equal(ours, hubs)
    equal(grad(ours, batch), grad(hubs, batch))
    rewards = torch.rand(5, 4, 2).double()
    config = ttrl.Config()
    equal(ttrl.compute_advantages(rewards, config), grpo.compute_advantages(rewards, config))


# ---- verl ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def verl():
    if reason := verl_oracle.why_not():
        pytest.skip(reason)
    return verl_oracle.load_core_algos()


def on_last_token(rewards, mask):
    """Rewards (P, G) or (B,) -> (B, T), each at the last token of its completion."""
    places = torch.arange(1, mask.shape[1] + 1) * mask
    return rewards.reshape(-1, 1) * (places == places.amax(1, keepdim=True))


def groups(P, G):
    return np.arange(P).repeat(G)


def over_tokens(values, mask):
    """(std, variance) with n - 1 over all tokens: verl divides by sqrt(variance + 1e-8)."""
    trained = values[mask > 0]
    return trained.std(), trained.var()


def same_but_for_1e8(ours, theirs):
    """verl's mean over tokens divides by their number + 1e-8."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_loading_verl_leaves_no_trace(verl):
    """TRL and transformers look into sys.modules for what is installed."""
    stubs = {"omegaconf", "tensordict", "verl"}
    left = [name for name in sys.modules if name.split(".")[0] in stubs]
    assert not [name for name in left if sys.modules[name].__spec__ is None]
    assert not [name for name in left if name.startswith("verl")]


def test_rloo_advantages_are_verls(verl):
    """Both of verl's versions, (P, G) over the tokens of each completion."""
    batch = random_batch(far=False)
    rewards = torch.rand(2, 4).double()
    config = one_reward(rloo, group_size=4)
    nothing = torch.zeros(2, 4, 1).double()
    ours = rloo.compute_advantages(torch.cat([rewards[..., None], nothing], -1), config)
    scores = on_last_token(rewards, batch.mask)
    for name in ("compute_rloo_outcome_advantage", "compute_rloo_vectorized_outcome_advantage"):
        theirs, _ = getattr(verl, name)(scores.clone(), batch.mask, groups(2, 4))
        equal(ours.view(-1, 1) * batch.mask, theirs)


@pytest.mark.parametrize("beta", [0.0, 0.3], ids=["no KL", "KL"])
def test_reinforce_pp_advantages_are_verls(verl, beta):
    """With verl's own KL in the reward; both whiten over tokens, their epsilons taken out."""
    batch = random_batch(far=False)
    rewards = doubles([[1], [0], [1], [1], [0], [0], [1], [0]])
    config = one_reward(reinforce_pp, kl_coef=beta)
    token_kl = (batch.old - batch.ref) * batch.mask
    ours = reinforce_pp.compute_advantages(rewards[..., None], token_kl, batch.mask, config)
    scores = on_last_token(rewards, batch.mask)
    scores = verl.compute_rewards(scores, batch.old, batch.ref, beta)
    theirs, returns = verl.compute_reinforce_plus_plus_outcome_advantage(
        scores, batch.mask, config=verl_oracle.Settings(gamma=1.0)
    )
    std, variance = over_tokens(returns, batch.mask)
    same_but_for_1e8(ours * (std + 1e-4), theirs * (variance + 1e-8).sqrt())
    assert not ours[batch.mask == 0].any() and (ours != ours[:, :1])[0, 1] == (beta > 0)


def test_reinforce_pp_is_ppo_without_a_critic(verl):
    """The ladder's lowest rung: verl's GAE with V = 0 and lambda = 1."""
    batch = random_batch(far=False)
    rewards = doubles([[1], [0], [1], [1], [0], [0], [1], [0]])
    config = one_reward(reinforce_pp, kl_coef=0.3)
    token_kl = (batch.old - batch.ref) * batch.mask
    ours = reinforce_pp.compute_advantages(rewards[..., None], token_kl, batch.mask, config)
    scores = on_last_token(rewards, batch.mask)
    scores = verl.compute_rewards(scores, batch.old, batch.ref, 0.3)
    theirs, returns = verl.compute_gae_advantage_return(scores, scores * 0, batch.mask, 1.0, 1.0)
    std, variance = over_tokens(returns, batch.mask)
    same_but_for_1e8(ours * (std + 1e-4), theirs * batch.mask * (variance + 1e-8).sqrt())


def verl_baseline(verl, rewards, lengths):
    """verl's REINFORCE++-baseline of rewards (P, G): one number per completion, (P, G)."""
    mask, rewards = mask_of(lengths), doubles(rewards)
    scores = on_last_token(rewards, mask)
    advantages, _ = verl.compute_reinforce_plus_plus_baseline_outcome_advantage(
        scores, mask, groups(*rewards.shape)
    )
    return advantages[:, 0].view(rewards.shape)


LOPSIDED = [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]


def test_reinforce_pp_baseline_is_verls_at_equal_lengths(verl):
    """Up to the degrees of freedom: verl counts B T values, we count B completions."""
    B, T = 8, 10
    theirs = verl_baseline(verl, LOPSIDED, [T] * B)
    config = one_reward(reinforce_pp_baseline)
    ours = reinforce_pp_baseline.compute_advantages(answers(LOPSIDED), config)
    factor = math.sqrt((B * T - 1) / (B * T) * B / (B - 1))
    variance = 0.25 * B * T / (B * T - 1) * 7 / 8  # of C over tokens: sum of C^2 is 7/4
    equal(ours * (0.5 + 1e-4) / 0.5 * factor, theirs * math.sqrt(1 + 1e-8 / variance))
    expected = doubles([[1.594, -0.531, -0.531, -0.531], [1.062, 1.062, -1.062, -1.062]])
    torch.testing.assert_close(theirs, expected, atol=1e-3, rtol=0)


def test_verls_token_weights_make_wrong_answers_good(verl):
    """Long wrong answers pull the mean over tokens below the short ones; ours is per completion."""
    lengths = [10, 10, 10, 90, 10, 10, 90, 90]
    theirs = verl_baseline(verl, LOPSIDED, lengths)
    expected = doubles([[3.40, 0.20, 0.20, 0.20], [2.60, 2.60, -0.60, -0.60]])
    torch.testing.assert_close(theirs, expected, atol=0.006, rtol=0)
    config = one_reward(reinforce_pp_baseline)
    ours = reinforce_pp_baseline.compute_advantages(answers(LOPSIDED), config)
    assert ((ours > 0) == (doubles(LOPSIDED) > 0)).all()


def test_verls_token_weights_push_groups_without_signal(verl):
    """An all-right group next to a mixed one: +0.50 for verl, exactly 0 here."""
    rewards = [[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]]
    theirs = verl_baseline(verl, rewards, [10] * 4 + [10, 10, 10, 90])
    assert theirs[0].tolist() == pytest.approx([0.50] * 4, abs=0.005)
    config = one_reward(reinforce_pp_baseline)
    ours = reinforce_pp_baseline.compute_advantages(answers(rewards), config)
    assert not ours[0].any() and ours[1].any()


def clip_settings(config):
    ends = {"clip_ratio_low": config.clip_low, "clip_ratio_high": config.clip_high}
    return verl_oracle.Settings(clip_ratio=0.2, clip_ratio_c=1e9, **ends)  # c: no dual clip


def clipped_share(module, config, batch):
    metrics = loss_of(module, config, batch)[1]
    clipped = (metrics["clipped_low"] | metrics["clipped_high"]) * batch.mask
    return (clipped.sum() / batch.mask.sum()).item()


@FAR
@pytest.mark.parametrize("micro_batches", MICRO_BATCHES)
def test_spo_loss_is_verls(verl, far, micro_batches):
    """PPO's clip, wider above than below, and one mean over all tokens of the minibatch."""
    config, batch = spo.Config(), random_batch(far)
    A = batch.advantages[:, None] * torch.ones_like(batch.mask)
    theirs, logged = verl.compute_policy_loss_vanilla(
        batch.old, batch.logprobs, A, batch.mask, "token-mean", clip_settings(config)
    )
    ours = split_loss(spo, config, batch, micro_batches)
    equal(ours, theirs)
    equal(grad(ours, batch), grad(theirs, batch))
    clipped = clipped_share(spo, config, batch)
    assert clipped == pytest.approx(logged["actor/pg_clipfrac"], rel=1e-6) and (clipped > 0) == far


@FAR
@pytest.mark.parametrize("module", [reinforce_pp, reinforce_pp_baseline], ids=["pp", "baseline"])
@pytest.mark.parametrize("micro_batches", MICRO_BATCHES)
def test_reinforce_pp_losses_are_verls(verl, module, far, micro_batches):
    """PPO's clip and the mean of means; advantages per token in one, verl's k2 in the other."""
    config, batch = uneven(module), random_batch(far)
    A = batch.advantages[:, None] * torch.ones_like(batch.mask)
    if module is reinforce_pp:
        batch.advantages = A = A * torch.linspace(-1, 2, A.shape[1], dtype=torch.float64)
    mode = "seq-mean-token-mean"
    theirs, logged = verl.compute_policy_loss_vanilla(
        batch.old, batch.logprobs, A, batch.mask, mode, clip_settings(config)
    )
    clipped = clipped_share(module, config, batch)
    assert clipped == pytest.approx(logged["actor/pg_clipfrac"], rel=1e-6) and (clipped > 0) == far
    if module is reinforce_pp_baseline:
        kl = verl.kl_penalty(batch.logprobs, batch.ref, "k2")
        theirs = theirs + config.kl_coef * verl.agg_loss(kl, batch.mask, mode)
    ours = split_loss(module, config, batch, micro_batches)
    close = {"rtol": 1e-7, "atol": 1e-8}  # verl divides by |o| + 1e-8
    torch.testing.assert_close(ours, theirs, **close)
    torch.testing.assert_close(grad(ours, batch), grad(theirs, batch), **close)


@FAR
def test_gmpo_loss_is_verls(verl, far):
    """Without a KL, which verl keeps elsewhere; it adds 1e-8 to two denominators."""
    config, batch = uneven(gmpo, kl_coef=0.0), random_batch(far)
    A = batch.advantages[:, None] * batch.mask
    theirs, _ = verl.compute_policy_loss_geo_mean(
        batch.old, batch.logprobs, A, batch.mask, config=clip_settings(config)
    )
    ours = loss_of(gmpo, config, batch)[0]
    close = {"rtol": 1e-7, "atol": 1e-9}
    torch.testing.assert_close(ours, theirs, **close)
    torch.testing.assert_close(grad(ours, batch), grad(theirs, batch), **close)


def test_gmpo_counts_the_tokens_that_lost_their_gradient(verl):
    """verl counts tokens beyond c on both sides, whichever sign the advantage has."""
    config, batch = gmpo.Config(kl_coef=0.0), random_batch(far=True)
    loss, metrics = loss_of(gmpo, config, batch)
    without = (grad(loss, batch) == 0) & (batch.mask > 0)
    ours = (metrics["clipped_low"] | metrics["clipped_high"]) & (batch.mask > 0)
    assert torch.equal(ours, without)
    A = batch.advantages[:, None] * batch.mask
    _, theirs = verl.compute_policy_loss_geo_mean(
        batch.old, batch.logprobs, A, batch.mask, config=clip_settings(config)
    )
    tokens = batch.mask.sum()
    for side, name in (("high", "actor/pg_clipfrac"), ("low", "actor/pg_clipfrac_lower")):
        lost = ((metrics[f"clipped_{side}"] * batch.mask).sum() / tokens).item()
        assert 0 < lost < theirs[name] - 0.01


# ---- By hand ------------------------------------------------------------------------------------


def rloo_advantages(rewards, kl=None, **changes):
    rewards = doubles(rewards)
    kl = torch.zeros_like(rewards) if kl is None else doubles(kl)
    config = one_reward(rloo, group_size=rewards.shape[1], **changes)
    return rloo.compute_advantages(torch.stack([rewards, kl], -1), config)


def test_rloo_advantages_by_hand():
    close = {"rtol": 1e-12, "atol": 1e-12}
    third = 1 / 3
    got = rloo_advantages([[1, 0, 0, 0]])
    torch.testing.assert_close(got, doubles([[1, -third, -third, -third]]), **close)
    torch.testing.assert_close(rloo_advantages([[1, 0]]), doubles([[1, -1]]), **close)
    # old - ref = [.1, .2, -.05]: the reward is .0125 lower, and so is the sibling's baseline.
    got = rloo_advantages([[1, 1]], kl=[[0.1 + 0.2 - 0.05, 0.0]], kl_coef=0.05)
    torch.testing.assert_close(got, doubles([[-0.0125, 0.0125]]), rtol=0, atol=1e-9)


def log_ratio_batch(log_ratios, advantage):
    """One completion with these log-ratios, then padding that holds noise."""
    d = doubles([[*log_ratios, 7.0]])
    mask = torch.ones_like(d)
    mask[:, -1] = 0
    zero = torch.zeros_like(d)
    A = doubles([advantage])
    logprobs = d.clone().requires_grad_()
    return SimpleNamespace(old=zero, ref=d, mask=mask, advantages=A, logprobs=logprobs)


def ratio_of(module, log_ratios, advantage, config=None):
    """(ratio, is it clipped) of one completion."""
    batch = log_ratio_batch(log_ratios, advantage)
    _, metrics = loss_of(module, config or module.Config(), batch)
    clipped = metrics["clipped_low"] | metrics["clipped_high"]
    return metrics["ratio"].item(), bool((clipped & (batch.mask[:, : clipped.shape[1]] > 0)).any())


def test_rloo_ratio_by_hand():
    """A sum, not a mean: a drift of .001 per token is clipped once there are 200 of them."""
    assert ratio_of(rloo, [0.1, -0.05, 0.02, -0.06], 1.0) == (pytest.approx(1.01005, abs=1e-5), 0)
    assert ratio_of(rloo, [0.001] * 200, 1.0) == (pytest.approx(1.2214, abs=1e-4), True)
    assert ratio_of(rloo, [0.001] * 200, -1.0)[1] is False
    assert ratio_of(rloo, [-0.001] * 250, -1.0) == (pytest.approx(0.7788, abs=1e-4), True)
    wider = uneven(rloo)  # .8 to 1.3
    assert ratio_of(rloo, [-0.001] * 250, -1.0, wider)[1] is True
    assert ratio_of(rloo, [0.001] * 200, 1.0, wider)[1] is False


def test_a_product_too_large_for_a_float_is_clipped_all_the_same():
    """A sum of 90 nats: exp is infinite in float32, and 0 times that would be NaN."""
    batch = log_ratio_batch([0.3] * 300, 1.0)
    logprobs = batch.logprobs.detach().float().requires_grad_()
    old, A, mask = (part.float() for part in (batch.old, batch.advantages, batch.mask))
    token_loss, _ = rloo.policy_loss(logprobs, old, old, A.view(-1, 1), mask, rloo.Config())
    (gradient,) = torch.autograd.grad(token_loss.sum(), logprobs)
    assert not gradient.any()


@pytest.mark.parametrize(
    ("log_ratios", "advantage", "ratio", "clipped"),
    [
        ([0.6, 0, 0, 0], 1.0, 1.10517, True),
        ([0.6, 0, 0, 0], -1.0, 1.16183, False),
        ([-0.6, 0, 0, 0], -1.0, 0.90484, True),
        ([-0.6, 0, 0, 0], 1.0, 0.86071, False),
        ([0.1, -0.05, 0.02, -0.06], 1.0, 1.0025, False),
        ([0.1, -0.05, 0.02, -0.06], -1.0, 1.0025, False),
    ],
)
def test_gmpo_ratio_by_hand(log_ratios, advantage, ratio, clipped):
    """c = .4 in the log, on one side; the cut token keeps its value and loses its gradient."""
    assert ratio_of(gmpo, log_ratios, advantage) == (pytest.approx(ratio, abs=1e-5), clipped)
    batch = log_ratio_batch(log_ratios, advantage)
    gradient = grad(loss_of(gmpo, gmpo.Config(kl_coef=0.0), batch)[0], batch)[0, :4]
    push = [-advantage * ratio / 4] * 4
    push[0] = 0.0 if clipped else push[0]
    assert gradient.tolist() == pytest.approx(push, abs=1e-5)


def test_reinforce_pp_by_hand():
    """Returns .975, .985, 1.005 and, of a completion of one token, 0; whitened over the four."""
    mask = mask_of([3, 1])
    kl = doubles([[0.1, 0.2, -0.05], [0.0, 0.0, 0.0]])
    config = one_reward(reinforce_pp, kl_coef=0.1)
    got = reinforce_pp.compute_advantages(answers([[1], [0]]), kl, mask, config)
    returns = doubles([[0.975, 0.985, 1.005], [0.0, 0.0, 0.0]])
    std = over_tokens(returns, mask)[0]
    mean = returns[mask > 0].mean()
    torch.testing.assert_close(got * (std + 1e-4) + mean * mask, returns, atol=1e-9, rtol=0)
    expected = doubles([[0.4729, 0.4931, 0.5336], [-1.4995, 0.0, 0.0]])
    torch.testing.assert_close(got, expected, atol=4e-4, rtol=0)


def test_reinforce_pp_baseline_by_hand():
    """The std of C over both groups is .5; a group's own would be .5 and .577."""
    config = one_reward(reinforce_pp_baseline)
    got = reinforce_pp_baseline.compute_advantages(answers(LOPSIDED), config) * (0.5 + 1e-4) / 0.5
    expected = doubles([[1.5, -0.5, -0.5, -0.5], [1.0, 1.0, -1.0, -1.0]])
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=0)


def test_reinforce_pp_baseline_kl_by_hand():
    """k2 of a log-ratio of .2 is .02, and its gradient pulls by the log-ratio itself."""
    batch = log_ratio_batch([0.2], 0.0)
    batch.ref = torch.zeros_like(batch.ref)
    config = reinforce_pp_baseline.Config(kl_coef=1.0)
    loss, metrics = loss_of(reinforce_pp_baseline, config, batch)
    assert metrics["kl_ref"][0, 0].item() == pytest.approx(0.02, rel=1e-9)
    assert grad(loss, batch)[0, 0].item() == pytest.approx(0.2, rel=1e-9)


# ---- The ladder: where neighbours coincide -------------------------------------------------------


def gradient(module, batch, **changes):
    """dL/dlogprobs; a KL in the loss is switched off unless kl_coef says otherwise."""
    config = module.Config()
    if "ref_logprobs" in inspect.signature(module.policy_loss).parameters:
        changes = {"kl_coef": 0.0} | changes if hasattr(config, "kl_coef") else changes
    return grad(loss_of(module, replace(config, **changes), batch)[0], batch)


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


@pytest.mark.parametrize(("G", "factor"), [(2, 512), (4, 1024 / 3)])
def test_rloo_is_dr_grpo_up_to_one_factor(G, factor):
    """At ratio 1 and without KL: G / (G - 1) T times its gradient, T = 256 the budget."""
    batch = random_batch(far=False)
    rewards = torch.rand(8 // G, G, 1).double()
    nothing = torch.zeros_like(rewards)
    one = {"reward_components": ["answer"], "reward_weights": [1.0], "group_size": G}
    batch.advantages = rloo.compute_advantages(
        torch.cat([rewards, nothing], -1), rloo.Config(**one)
    )
    ours = gradient(rloo, batch)
    batch.advantages = dr_grpo.compute_advantages(rewards, dr_grpo.Config(**one))
    theirs = gradient(dr_grpo, batch, max_new_tokens=256)
    equal(ours, factor * theirs)


def test_rloo_parts_from_dr_grpo_away_from_ratio_1():
    batch = random_batch(far=True)
    assert cosine(gradient(rloo, batch), gradient(dr_grpo, batch)) < 0.95


def test_rloo_in_pairs_compares_the_two():
    """G = 2: each advantage is the difference to the other."""
    rewards = torch.rand(5, 2).double()
    difference = rewards[:, 0] - rewards[:, 1]
    got = rloo_advantages(rewards.tolist())
    equal(got, torch.stack([difference, -difference], 1))


def test_reinforce_pp_without_kl_whitens_the_reward():
    """Over tokens: a long completion weighs more in the mean and in the std."""
    mask = mask_of(LENGTHS)
    rewards = torch.rand(8, 1).double()
    config = one_reward(reinforce_pp, kl_coef=0.0)
    noise = torch.randn(mask.shape).double() * mask
    got = reinforce_pp.compute_advantages(rewards[..., None], noise, mask, config)
    every = rewards.expand(mask.shape)[mask > 0]
    equal(got, (rewards - every.mean()) / (every.std() + 1e-4) * mask)
    per_completion = (rewards - rewards.mean()) / (rewards.std() + 1e-4) * mask
    assert (got - per_completion).abs().max() > 0.01


def test_reinforce_pp_baseline_is_dr_grpo_up_to_one_factor():
    """One number per rollout; GRPO's ratio to it differs from group to group."""
    rewards = torch.rand(5, 4, 1).double()
    ours, dr, hub = (
        module.compute_advantages(rewards, one_reward(module))
        for module in (reinforce_pp_baseline, dr_grpo, grpo)
    )
    factor = ours / dr
    equal(factor, factor[:1, :1].expand(5, 4))
    assert factor[0, 0] > 1 and (hub / dr).std() > 0.1


@pytest.mark.parametrize("kl_coef", [0.0, 0.04])
def test_gmpo_grpo_and_gspo_coincide_at_ratio_1(kl_coef):
    batch = random_batch(far=False)
    ours = gradient(gmpo, batch, kl_coef=kl_coef)
    for module in (grpo, gspo):
        equal(ours, gradient(module, batch, kl_coef=kl_coef))


def test_gmpo_parts_from_grpo_and_gspo_away_from_ratio_1():
    batch = random_batch(far=True)
    for module in (grpo, gspo):
        assert (gradient(gmpo, batch) - gradient(module, batch)).abs().max() > 0.01


def test_gmpo_without_a_clip_is_gspo_without_a_clip():
    """c huge against a clip from 0 to infinity: the same geometric mean, value and gradient."""
    batch = random_batch(far=True)
    ours = loss_of(gmpo, gmpo.Config(clip_low=1e9, clip_high=1e9), batch)[0]
    theirs = loss_of(gspo, gspo.Config(clip_low=1.0, clip_high=1e9), batch)[0]
    equal(ours, theirs)
    equal(grad(ours, batch), grad(theirs, batch))


@pytest.mark.parametrize("constant", [0.0, 0.3889])
def test_spo_with_a_constant_tracker_is_reinforce_pp(constant):
    """The batch mean takes a constant away; at equal lengths tokens weigh as completions do."""
    rewards, baseline = torch.rand(8, 1, 1).double(), torch.full((8, 1), constant).double()
    got = spo.compute_advantages(rewards, baseline, spo.Config())
    pooled = rewards[..., 0]
    equal(got, (pooled - pooled.mean()) / (pooled.std() + 1e-4))
    mask, config = torch.ones(8, 1).double(), one_reward(reinforce_pp, kl_coef=0.0)
    equal(got, reinforce_pp.compute_advantages(rewards, mask * 0, mask, config))


def test_spo_advantages_by_hand():
    """Right where .2 was expected beats right where .8 was; wrong where .8 was is the worst."""
    rewards = answers([[1], [1], [0], [0]])
    baseline = doubles([[0.2], [0.8], [0.2], [0.8]])
    got = spo.compute_advantages(rewards, baseline, spo.Config())[:, 0]
    surprise = doubles([0.8, 0.2, -0.2, -0.8])  # its mean is 0, its sample variance 1.36 / 3
    equal(got, surprise / (math.sqrt(1.36 / 3) + 1e-4))


def test_without_signal_advantages_are_exactly_zero():
    """In float32 the mean of equal numbers need not be that number."""
    for value in (0.1, 0.7, 1 / 3, 1.1, 0.0, 1.0):
        for B in (7, 8, 16):
            rewards, mask = torch.full((B, 1, 1), value), torch.ones(B, 5)
            config = one_reward(reinforce_pp)
            got = reinforce_pp.compute_advantages(rewards, mask * 0, mask, config)
            assert not got.any()
            config = spo.Config()
            assert not spo.compute_advantages(rewards, torch.full((B, 1), 0.3), config).any()
            grouped = rewards.view(1, B, 1)
            for module in (reinforce_pp_baseline, gmpo, ttrl):
                assert not module.compute_advantages(grouped, one_reward(module)).any()
            nothing = torch.zeros_like(grouped)
            config = one_reward(rloo, group_size=B)
            got = rloo.compute_advantages(torch.cat([grouped, nothing], -1), config)
            assert not got.any()

"""The methods of 2026 against TRL's and verl's own code, value and gradient; numbers by hand."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

from runtime import engine, measures, run_folder
from runtime.options import check_config

import pytest
import torch
from trl import GRPOTrainer

import common
import grpo
from experiments.coarse import CoarseSampler, rounded
from tasks import InputError
from tests.core.test_against_trl import (
    LENGTHS,
    MICRO_BATCHES,
    equal,
    grad,
    random_batch,
    trl_loss,
    trl_score,
    trl_trainer,
)
from tests.zoo import verl_oracle
from tests.zoo.test_zoo import FAR, loss_of, split_loss
from zoo import deepseek_v32, dppo, dro, maxrl, sapo, tis


@pytest.fixture(scope="module")
def verl():
    if reason := verl_oracle.why_not():
        pytest.skip(reason)
    return verl_oracle.load_core_algos()


def trl_of(batch, **flags):
    """(trainer, batch) of TRL with grpo.py's flags and these; advantages are the batch's."""
    rewards = torch.zeros(2, 4, 2).double()
    trainer = trl_trainer("grpo", grpo.Config(), rewards, LENGTHS, batch.old, batch.ref, **flags)
    return trainer, trl_score(trainer, len(LENGTHS)) | {"advantages": batch.advantages}


def coarse_batch(far):
    """random_batch, and under .mu what another sampler said: near, but for one token far above."""
    batch = random_batch(far)
    noise = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(1)).double()
    batch.mu = batch.old - 0.3 * noise
    batch.mu[0, 1] = batch.old[0, 1] - math.log(5)  # pi_old / mu = 5: capped
    return batch


def but_for_1e8(ours, theirs):
    """verl's means divide by what they count + 1e-8."""
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-12)


# ---- The sampler --------------------------------------------------------------------------------


@FAR
def test_tis_is_trls(far, monkeypatch):
    """`token_truncate` with a cap of 2: it weighs the policy's part of the loss, not the KL's."""
    batch = coarse_batch(far)
    config = tis.Config()
    trainer, trl_batch = trl_of(batch)
    vars(trainer).update(use_vllm=True, vllm_importance_sampling_correction=True)
    weights = torch.exp(batch.old - batch.mu).clamp(max=2.0)
    theirs = trl_loss(trainer, trl_batch | {"importance_sampling_ratio": weights}, batch.logprobs)
    ours = gradient_of_update(tis, batch, config, monkeypatch, weights=weights)
    equal(ours, grad(theirs, batch))
    assert weights.max() == 2 and (weights[batch.mask > 0] == 2).any()
    plain = gradient_of_update(tis, batch, config, monkeypatch, weights=torch.ones_like(weights))
    assert not torch.allclose(ours, plain)


def gradient_of_update(module, batch, config, monkeypatch, **fields):
    """That of update_policy on one minibatch of two micro-batches, whose log-probs are given."""
    monkeypatch.setattr(
        module,
        "completion_logprobs",
        lambda model, rollout, rows, config: model.logprobs[rows] * batch.mask[rows],
    )
    monkeypatch.setattr(engine, "pack_rows", lambda rollout, rows, config: [rows[:3], rows[3:]])
    model = torch.nn.Module()
    model.logprobs = torch.nn.Parameter(batch.logprobs.detach().clone())
    rollout = SimpleNamespace(
        mask=batch.mask,
        logprobs=batch.old * batch.mask,
        ref_logprobs=batch.ref * batch.mask,
        entropy=batch.mask,
        **{name: values * batch.mask for name, values in fields.items()},
    )
    seen = []
    optimizer = SimpleNamespace(
        step=lambda: seen.append(model.logprobs.grad.clone()), zero_grad=lambda: None
    )
    config = replace(config, minibatches=1, max_grad_norm=1e9)
    module.update_policy(model, optimizer, rollout, batch.advantages.view(2, 4), config)
    return seen[0]


def test_the_weights_that_tis_trains_with(tmp_path, llama_folder, monkeypatch):
    """pi_old / mu of every token, capped; 1 where the policy itself has sampled."""
    seen = []

    def watched(model, optimizer, rollout, advantages, config):
        seen.append(rollout)
        return update(model, optimizer, rollout, advantages, config)

    update = tis.update_policy
    monkeypatch.setattr(tis, "update_policy", watched)
    config = tis.Config(
        model=llama_folder,
        steps=1,
        prompts_per_step=4,
        group_size=4,
        max_new_tokens=12,
        eval_problems=2,
        reward_components=["brevity"],
        reward_weights=[1.0],
    )
    tis.train(replace(config, output_dir=str(tmp_path / "fine")))
    fine = seen.pop()
    torch.testing.assert_close(fine.weights, torch.ones_like(fine.weights), atol=1e-4, rtol=0)
    monkeypatch.setattr(tis, "sample_batch", CoarseSampler(tis.sample_batch, "int4"))
    tis.train(replace(config, output_dir=str(tmp_path / "coarse"), max_weight=1.001))
    coarse = seen.pop()
    on = coarse.weights[coarse.mask > 0]
    assert on.max() == pytest.approx(1.001) and on.min() < 0.999
    assert (coarse.weights[coarse.mask == 0] == 1).all()  # off the mask both log-probs are 0
    rows = run_folder.read_jsonl(tmp_path / "coarse/metrics.jsonl")
    (row,) = [row for row in rows if "sampler_kl" in row]
    assert row["sampler_kl"] > 0 and row["sampler_weight_max"] > 1.001  # before the cap


@pytest.mark.parametrize("module", [grpo, tis, deepseek_v32, dppo, dro], ids=lambda m: m.__name__)
def test_whose_log_probs_are_the_old_ones(module, tmp_path, llama_folder, monkeypatch):
    """In bf16 grpo.py and tis.py compute pi_old afresh; the others believe the sampler."""
    believed = []
    sample_batch = module.sample_batch

    def sampled(*args):
        rollout, rewards = sample_batch(*args)
        rollout.logprobs = rollout.logprobs - 0.25 * rollout.mask  # a sampler that is far off
        believed.append(rollout.logprobs)
        return rollout, rewards

    def trained(model, optimizer, rollout, advantages, config):
        believed.append(rollout.logprobs)
        return {"updates": 1}

    monkeypatch.setattr(module, "sample_batch", sampled)
    monkeypatch.setattr(module, "update_policy", trained)
    options = {"steps": 1, "prompts_per_step": 4, "group_size": 4, "max_new_tokens": 12}
    options |= {"eval_problems": 2, "model": llama_folder, "dtype": "bfloat16"}
    module.train(module.Config(**options, output_dir=str(tmp_path)))
    sampler, old = believed
    if module in (grpo, tis):
        assert (old - sampler).max() > 0.2
    else:
        assert torch.equal(old, sampler)


@FAR
def test_v32_is_trls(far, monkeypatch):
    """The sequence mask and k3 times the ratio; the sampler's log-probs are the old ones."""
    batch = random_batch(far)
    batch.old[3] = batch.logprobs.detach()[3] + 0.8  # A < 0, and far from what the policy says now
    batch.old[2] = batch.logprobs.detach()[2] + 0.8  # as far, but A > 0: it is kept
    config = deepseek_v32.Config()
    flags = {"off_policy_mask_threshold": 0.5, "use_bias_correction_kl": True}
    trainer, trl_batch = trl_of(batch, **flags)
    trainer.get_off_policy_mask = GRPOTrainer.get_off_policy_mask
    theirs = trl_loss(trainer, trl_batch, batch.logprobs)
    ours = gradient_of_update(deepseek_v32, batch, config, monkeypatch)
    equal(ours, grad(theirs, batch))
    assert config.max_drift == 0.5
    nothing = replace(config, kl_coef=0.0)
    alone = gradient_of_update(deepseek_v32, batch, nothing, monkeypatch)
    assert not alone[3].any() and alone[2].any() and alone[1].any()


def test_the_unbiased_kl_by_hand():
    """d/dlogits of E_old[r k3] is that of KL(pi || ref), whatever pi_old drew; k3's own is not."""
    generator = torch.Generator().manual_seed(0)
    logits, old, ref = torch.randn(3, 6, generator=generator).double()
    logits.requires_grad_()
    logp, old, ref = logits.log_softmax(0), old.log_softmax(0), ref.log_softmax(0)
    exact = (logp.exp() * (logp - ref)).sum()
    (wanted,) = torch.autograd.grad(exact, logits, retain_graph=True)
    config = deepseek_v32.Config(kl_coef=1.0)
    none = torch.zeros(1, 1).double()
    found = {}
    for module in (deepseek_v32, grpo):
        loss, _ = module.policy_loss(
            logp[None], old[None], ref[None], none, torch.ones(1, 6), replace_kl(module, config)
        )
        value = (old.exp() * loss[0]).sum()  # over all tokens that pi_old may draw
        found[module] = value, torch.autograd.grad(value, logits, retain_graph=True)[0]
    equal(found[deepseek_v32][0], exact)
    equal(found[deepseek_v32][1], wanted)
    assert not torch.allclose(found[grpo][1], wanted, rtol=0.05)


def replace_kl(module, config):
    return module.Config(kl_coef=config.kl_coef)


# ---- What takes the place of the clip -----------------------------------------------------------


@FAR
@pytest.mark.parametrize("micro_batches", MICRO_BATCHES)
def test_sapo_is_trls(far, micro_batches):
    batch = random_batch(far)
    config = sapo.Config(tau_positive=0.7, tau_negative=1.3)
    flags = {"loss_type": "sapo", "sapo_temperature_pos": 0.7, "sapo_temperature_neg": 1.3}
    trainer, trl_batch = trl_of(batch, **flags)
    theirs = trl_loss(trainer, trl_batch, batch.logprobs)
    ours = split_loss(sapo, config, batch, micro_batches)
    equal(ours, theirs)
    equal(grad(ours, batch), grad(theirs, batch))
    args = trl_of(batch, loss_type="sapo")[0].args
    assert sapo.Config().tau_positive == args.sapo_temperature_pos
    assert sapo.Config().tau_negative == args.sapo_temperature_neg


def verl_loss(verl, name, batch, mode="seq-mean-token-mean", **settings):
    policy_loss = verl_oracle.Settings(dro_beta=settings.pop("dro_beta", None))
    actor = type("Actor", (verl_oracle.Settings, verl.ActorConfig), {})  # one of them asks for it
    config = actor(policy_loss=policy_loss, **settings)
    loss, _ = getattr(verl, f"compute_policy_loss_{name}")(
        batch.old,
        batch.logprobs,
        batch.advantages[:, None].expand_as(batch.mask),
        batch.mask,
        loss_agg_mode=mode,
        config=config,
    )
    return loss


@FAR
def test_sapo_is_verls(verl, far):
    batch = random_batch(far)
    config = sapo.Config(kl_coef=0.0, tau_positive=0.75, tau_negative=1.25)  # exact in float32
    theirs = verl_loss(verl, "sapo", batch, tau_pos=0.75, tau_neg=1.25)
    ours = loss_of(sapo, config, batch)[0]
    but_for_1e8(ours, theirs)
    but_for_1e8(grad(ours, batch), grad(theirs, batch))


@FAR
def test_dppo_is_verls(verl, far):
    """The mask by probability, either side, and the cap on the ratio."""
    batch = random_batch(far)
    config = dppo.Config(kl_coef=0.0, clip_low=0.1, clip_high=0.15, max_ratio=2.0)
    settings = {"clip_ratio": 0.2, "clip_ratio_low": 0.1, "clip_ratio_high": 0.15}
    theirs = verl_loss(verl, "dppo_tv", batch, clip_ratio_c=2.0, **settings)
    ours, metrics = loss_of(dppo, config, batch)
    but_for_1e8(ours, theirs)
    but_for_1e8(grad(ours, batch), grad(theirs, batch))
    for side in ("low", "high"):
        assert (metrics[f"clipped_{side}"] & (batch.mask[:, :8] > 0)).any() == far


@FAR
def test_dro_is_verls(verl, far):
    batch = random_batch(far)
    theirs = verl_loss(verl, "dro", batch, dro_beta=0.3)
    ours = loss_of(dro, dro.Config(kl_coef=0.3), batch)[0]
    but_for_1e8(ours, theirs)
    but_for_1e8(grad(ours, batch), grad(theirs, batch))


def weight_at(module, ratio, A, chance=0.5, **options):
    """-dL/dlog pi over A of a token of this ratio, whose old probability was `chance`."""
    old = torch.tensor([[math.log(chance)]]).double()
    logprobs = (old + math.log(ratio)).requires_grad_()
    config = module.Config(kl_coef=0.0, **options)
    one = torch.ones(1, 1).double()
    loss, _ = module.policy_loss(logprobs, old, old, torch.tensor([[A]]).double(), one, config)
    (slope,) = torch.autograd.grad(loss.sum(), logprobs)
    return (-slope / A).item()


@pytest.mark.parametrize(
    ("module", "ratio", "A", "chance", "weight"),
    [
        (grpo, 1.0, 1.0, 0.5, 1.0),
        (grpo, 1.3, 1.0, 0.5, 0.0),
        (grpo, 1.3, -1.0, 0.5, 1.3),
        (sapo, 1.0, 1.0, 0.5, 1.0),  # the slope at ratio 1 is 1 for every tau
        (sapo, 1.0, -1.0, 0.5, 1.0),
        (sapo, 2.0, 1.0, 0.1, 2 * 4 * 0.731059 * 0.268941),
        (sapo, 0.5, -1.0, 0.5, 0.5 * 4 * 0.371689 * 0.628311),
        (dppo, 1.3, 1.0, 0.001, 1.3),  # 0.001 to 0.0013: PPO's clip would stop it
        (dppo, 1.29, 1.0, 0.5, 1.29),
        (dppo, 1.5, 1.0, 0.5, 0.0),  # 0.5 to 0.75
        (dppo, 0.5, -1.0, 0.5, 0.0),  # 0.5 to 0.25
        (dppo, 0.5, -1.0, 0.1, 0.5),
        (dppo, 30.0, 1.0, 0.001, 20.0),
        (dro, 3.0, 1.0, 0.2, 1.0),  # without the square
    ],
)
def test_weights_by_hand(module, ratio, A, chance, weight):
    assert weight_at(module, ratio, A, chance) == pytest.approx(weight, abs=1e-5)


def test_the_square_pulls_back():
    """A token at twice its probability: its push of 1 is less by beta log 2."""
    old = torch.zeros(1, 1).double() - 2
    logprobs = (old + math.log(2)).requires_grad_()
    config = dro.Config(kl_coef=0.1)
    one = torch.ones(1, 1).double()
    loss, _ = dro.policy_loss(logprobs, old, old, one, one, config)
    (slope,) = torch.autograd.grad(loss.sum(), logprobs)
    assert -slope.item() == pytest.approx(1 - 0.1 * math.log(2))


# ---- MaxRL --------------------------------------------------------------------------------------


def test_maxrl_by_hand():
    """1 of 16 right: 15 and -1; 8 of 16: 1 and -1; none or all: 0."""
    right = torch.tensor([1, 8, 0, 16])
    rewards = (torch.arange(16) < right[:, None]).float()[..., None]
    A = maxrl.compute_advantages(rewards, maxrl.Config())
    assert A[0].tolist() == pytest.approx([15.0] + [-1.0] * 15)
    assert A[1].tolist() == pytest.approx([1.0] * 8 + [-1.0] * 8)
    assert not A[2:].any()


def test_maxrl_climbs_the_log_of_the_success_rate():
    """With p = sigmoid(theta) the mean of A d log pi is d log p / d theta, up to the sample."""
    for p in (0.05, 0.3, 0.7):
        G = 20_000
        right = (torch.rand(1, G, generator=torch.Generator().manual_seed(0)) < p).float()
        A = maxrl.compute_advantages(right[..., None], maxrl.Config(group_size=G))
        score = right - p  # d log pi / d theta of an outcome
        assert (A * score).mean().item() == pytest.approx(1 - p, rel=0.1)  # d log p / d theta


@pytest.mark.parametrize("G", [2, 3, 4])
def test_of_a_small_group_it_is_the_first_terms_of_the_log(G):
    """Over all outcomes the mean of A d log pi is sum_{k<G} (1 - p)^(k-1) dp, all terms log p."""
    p = 0.3
    mean = 0.0
    for outcome in itertools.product([0.0, 1.0], repeat=G):
        right = torch.tensor(outcome)
        A = maxrl.compute_advantages(right.view(1, G, 1), maxrl.Config(group_size=G))
        chance = torch.where(right > 0, p, 1 - p).prod()
        mean += (chance * (A * (right - p)).mean()).item()
    dp = p * (1 - p)  # d p / d theta of a sigmoid
    assert mean == pytest.approx(dp * sum((1 - p) ** (k - 1) for k in range(1, G)), abs=1e-5)


def test_maxrl_pays_the_answer_alone():
    """A reward that every completion earns would hide the success rate."""
    config = maxrl.Config(reward_components=["answer", "format"], reward_weights=[1.0, 0.1])
    with pytest.raises(InputError, match="--reward_components format: choose from answer"):
        check_config(config)


# ---- A coarse sampler ---------------------------------------------------------------------------


def test_rounded_weights_by_hand():
    """Per output: int4 has 7 steps either side of 0, fp8 three bits behind the leading one."""
    weight = torch.tensor([[7.0, 3.4, -0.6], [0.07, -0.034, 0.0]])
    four = torch.tensor([[7.0, 3.0, -1.0], [0.07, -0.03, 0.0]])
    torch.testing.assert_close(rounded(weight, "int4"), four)
    eight = rounded(torch.tensor([[448.0, 1.06, 1.08]]), "fp8")
    torch.testing.assert_close(eight, torch.tensor([[448.0, 1.0, 1.125]]))
    torch.testing.assert_close(rounded(torch.tensor([[1.00390625]]), "bf16"), torch.ones(1, 1))


def test_how_far_a_sampler_is_by_hand():
    """Weights 2 and 1/2: k3 is the mean of 1 - log 2 and -1/2 + log 2; their logs are +-log 2."""
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    sampler = torch.tensor([[-1.0, -1.0, 0.0]])
    old = sampler + torch.tensor([[math.log(2), -math.log(2), 0.0]])
    rollout = SimpleNamespace(mask=mask, logprobs=old)
    found = measures.mismatch(rollout, sampler)
    assert found["sampler_kl"] == pytest.approx((1 - math.log(2) - 0.5 + math.log(2)) / 2)
    assert found["sampler_spread"] == pytest.approx(math.log(2))
    assert found["sampler_weight_max"] == pytest.approx(2.0)


def test_a_coarse_sampler_leaves_the_policy_alone(llama_folder):
    """Its tokens come from rounded weights, and its log-probs are theirs."""
    model, tokenizer = common.load_model(llama_folder)
    before = [p.clone() for p in model.parameters()]
    seen = {}

    def sample_batch(sampler, *rest):
        seen["sampler"] = sampler
        return "rollout", "rewards"

    assert CoarseSampler(sample_batch, "int4")(model, tokenizer) == ("rollout", "rewards")
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    pairs = zip(before, seen["sampler"].parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)

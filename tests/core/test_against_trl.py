"""Every script against TRL's own code: same loss, gradient, advantages and clip counts.

TRL is called, never re-typed. Two of its methods run here, unbound, on a bare namespace:
`_generate_and_score_completions` (masks, old and reference log-probs, advantages, token count) and
`_compute_loss`. Only what would need a model, generation or reward functions is replaced. The
flags go through GRPOConfig, so that a misspelt or renamed flag fails. At the end its trainer runs
whole, on one process and on two.
"""

import inspect
import os
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import fields
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("trl")
pytest.importorskip("requests", reason="TRL's trainer imports it but does not declare it")

from trl import GRPOConfig, GRPOTrainer
from trl.rewards import get_soft_overlong_punishment
from trl.trainer.utils import split_tensor_dict

import common
from compose import composition
from compose.rules import PRESETS
from experiments.trl_trainer import TRAINERS, GradientCheck, make_trainer, trl_flags
from tools import train_with_trl

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")

# What the papers state, as TRL's flags; experiments/trl_trainer.py derives the same.
PAPERS = {
    "grpo": {
        "loss_type": "grpo",
        "scale_rewards": "group",
        "beta": 0.04,
        "epsilon": 0.2,
        "epsilon_high": 0.2,
        "use_bias_correction_kl": False,  # TRL's default multiplies k3 by the ratio
    },
    "dr_grpo": {
        "loss_type": "dr_grpo",
        "scale_rewards": "none",  # a second flag: loss_type alone keeps the division by the std
        "beta": 0.0,
        "epsilon": 0.2,
        "epsilon_high": 0.2,
    },
    "dapo": {
        "loss_type": "dapo",
        "scale_rewards": "group",
        "beta": 0.0,
        "epsilon": 0.2,
        "epsilon_high": 0.28,
        "mask_truncated_completions": False,
    },
    "gspo": {
        "loss_type": "grpo",
        "importance_sampling_level": "sequence",
        "scale_rewards": "group",
        "epsilon": 3e-4,
        "epsilon_high": 4e-4,
    },
    "gdpo": {"loss_type": "grpo", "multi_objective_aggregation": "normalize_then_sum"},
    "cispo": {
        "loss_type": "cispo",
        "scale_rewards": "group",
        "beta": 0.0,
        "epsilon_high": 1.28,  # TRL's cap is the weight itself
    },
}
SCRIPTS = pytest.mark.parametrize("script", PAPERS)

LENGTHS = [7, 1, 4, 2, 6, 1, 3, 5]  # ragged, with two rows of one token
MICRO_BATCHES = {
    "whole": [[0, 1, 2, 3, 4, 5, 6, 7]],
    "split": [[6, 0, 3], [1], [7, 4, 2, 5]],  # uneven in rows and in tokens, out of order
    "single": [[0], [1], [2], [3], [4], [5], [6], [7]],
}
EOS, PAD = 2, 0


# Compositions with DAPO's sampling, and the script whose flags make TRL's loss theirs.
FILTERED = {("dapo",): "dapo", ("dapo:sampling",): "grpo", ("dapo:sampling", "gspo"): "gspo"}


def equal(ours, trl):
    torch.testing.assert_close(ours, trl, rtol=1e-9, atol=1e-12)


# ---- TRL on a namespace -------------------------------------------------------------------------


def trl_trainer(script, config, rewards, lengths, old, ref, truncated=(), accumulation=1, **flags):
    """What TRL's two methods read of their trainer; rewards (P, G, K), old and ref (B, T)."""
    P, G, K = rewards.shape
    completion_ids = [[5] * (n - 1) + [5 if i in truncated else EOS] for i, n in enumerate(lengths)]
    args = GRPOConfig(
        output_dir="unused",
        use_cpu=True,
        bf16=False,
        report_to="none",
        num_generations=G,
        per_device_train_batch_size=P * G // accumulation,
        gradient_accumulation_steps=accumulation,
        steps_per_generation=accumulation,  # the generation batch is one optimizer minibatch
        num_iterations=2,  # else TRL takes the ratio to be 1 and computes no old log-probs
        # dapo.py's overlong punishment is one more reward column, of weight 1; so it is in TRL
        reward_weights=[*config.reward_weights, 1.0][:K],
        **(trl_flags(script, config) | flags),
    )
    attributes = vars(args) | {
        "args": args,
        "accelerator": SimpleNamespace(
            device=torch.device("cpu"),
            process_index=0,
            num_processes=1,
            gather=lambda tensor: tensor,
            reduce=lambda tensor, reduction: tensor,
        ),
        "model": SimpleNamespace(training=True, is_gradient_checkpointing=False, logprobs=old),
        "ref_model": SimpleNamespace(logprobs=ref),
        "epsilon_low": args.epsilon,
        "reward_weights": torch.tensor(args.reward_weights, dtype=torch.float32),
        "reward_funcs": [None] * K,
        "reward_func_names": [f"reward_{k}" for k in range(K)],
        "current_gradient_accumulation_steps": accumulation,
        "environment_factories": None,
        "environments": None,
        "tools": None,
        "aux_loss_enabled": False,
        "_entropy_bonus_enabled": False,
        "_tokenizer": SimpleNamespace(pad_token_id=PAD, eos_token_id=EOS),
        "processing_class": SimpleNamespace(batch_decode=lambda ids, **_: [""] * len(ids)),
        "_metrics": {"train": defaultdict(list)},
        "_logs": defaultdict(list, rewards=defaultdict(list)),
        "_pending_extra_logs": {},
        "_pending_metrics": {},
        "_generate": lambda prompts: (
            [[1, 1] for _ in prompts],
            completion_ids,
            None,
            [""] * len(prompts),
            None,
            {},
            None,
            None,
        ),
        "_calculate_rewards": lambda *_: rewards.reshape(P * G, K).clone(),
        "_get_per_token_logps_and_entropies": lambda model, *_, **__: (
            model.logprobs,
            torch.zeros_like(model.logprobs),
            None,
        ),
    }
    return SimpleNamespace(**attributes)


def trl_score(trainer, rows):
    """TRL's own batch: what it generates, scores and hands to its loss."""
    batch = GRPOTrainer._generate_and_score_completions(trainer, [{"prompt": ""}] * rows)
    assert "old_per_token_logps" in batch
    return batch


def trl_loss(trainer, batch, logprobs):
    return GRPOTrainer._compute_loss(trainer, SimpleNamespace(logprobs=logprobs), batch)


# ---- Our side -----------------------------------------------------------------------------------


def our_loss(module, config, batch, rows):
    """Loss and metrics of one micro-batch, trimmed to its longest row as update_policy does."""
    mask = batch.mask[rows]
    T = max(int(mask.sum(1).max()), 1)
    tensors = [batch.logprobs[rows, :T], batch.old[rows, :T]]
    if "ref_logprobs" in inspect.signature(module.policy_loss).parameters:
        tensors.append(batch.ref[rows, :T])
    token_loss, metrics = module.policy_loss(
        *tensors, batch.advantages[rows, None], mask[:, :T], config
    )
    counts = len(batch.mask), batch.mask.sum()
    return module.aggregate_loss(token_loss, mask[:, :T], *counts, config), metrics


def random_batch(far):
    """Float64 log-probs (B, T). Far: every sign of A meets rows that rose and rows that fell.

    Positions off the mask hold noise, so that a term that forgets the mask shows.
    """
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    B, T = len(LENGTHS), max(LENGTHS)
    logprobs = -noise(B, T).abs() - 0.1
    drift = 0.6 * torch.tensor([1, 1, -1, -1, 1, 1, 1, -1])[:, None] + 0.5 * noise(B, T)
    sign = torch.tensor([1.0, -1.0] * 4)
    return SimpleNamespace(
        old=logprobs - drift if far else logprobs.clone(),
        ref=logprobs + 0.5 * noise(B, T),
        mask=(torch.arange(T) < torch.tensor(LENGTHS)[:, None]).double(),
        advantages=sign * (0.2 + noise(B).abs()),
        logprobs=logprobs.requires_grad_(),
    )


def trl_of(script, config, batch, truncated=(), accumulation=1, **flags):
    """TRL's trainer and batch for ours; its advantages are replaced, test_advantages has those."""
    rewards = torch.zeros(2, 4, len(config.reward_components), dtype=torch.float64)
    trainer = trl_trainer(
        script, config, rewards, LENGTHS, batch.old, batch.ref, truncated, accumulation, **flags
    )
    return trainer, trl_score(trainer, len(LENGTHS)) | {"advantages": batch.advantages}


def grad(loss, batch):
    (gradient,) = torch.autograd.grad(loss, batch.logprobs, retain_graph=True)
    assert gradient[batch.mask > 0].any() and not gradient[batch.mask == 0].any()
    return gradient


# ---- Loss ---------------------------------------------------------------------------------------


@SCRIPTS
@pytest.mark.parametrize("far", [False, True], ids=["ratio 1", "far"])
@pytest.mark.parametrize("micro_batches", MICRO_BATCHES)
def test_loss_and_gradient(script, far, micro_batches):
    """Our micro-batches, summed, against TRL's loss on the whole minibatch."""
    module = import_module(script)
    config, batch = module.Config(), random_batch(far)
    trainer, trl_batch = trl_of(script, config, batch)
    equal(trl_batch["completion_mask"].double(), batch.mask)
    theirs = trl_loss(trainer, trl_batch, batch.logprobs)
    ours = sum(our_loss(module, config, batch, rows)[0] for rows in MICRO_BATCHES[micro_batches])
    equal(ours, theirs)
    equal(grad(ours, batch), grad(theirs, batch))

    clipped = {name: sum(v) for name, v in trainer._metrics["train"].items() if "clip" in name}
    sides = {"cispo": ["cispo_clip_ratio"]}.get(
        script, ["clip_ratio/low_mean", "clip_ratio/high_mean"]
    )
    assert all((clipped[side] > 0) == far for side in sides), clipped


@SCRIPTS
def test_trl_accumulation(script):
    """TRL accumulating two micro-batches gives the minibatch that ours gives."""
    module = import_module(script)
    config, batch = module.Config(), random_batch(far=True)
    trainer, trl_batch = trl_of(script, config, batch, accumulation=2)
    theirs = sum(
        trl_loss(trainer, part, logprobs)
        for part, logprobs in zip(
            split_tensor_dict(trl_batch, 2), batch.logprobs.chunk(2), strict=True
        )
    )
    ours = our_loss(module, config, batch, MICRO_BATCHES["whole"][0])[0]
    equal(ours, theirs)
    equal(grad(ours, batch), grad(theirs, batch))


@pytest.mark.parametrize("parts", FILTERED, ids="+".join)
def test_overlong_filtering(parts, tmp_path):
    """mask_truncated against TRL's: truncated rows leave the loss, and the count of its tokens.

    They stay in the count of completions, by which a mean over completions divides. That this is
    what update_policy does: test_overlong_filtering_in_every_composition.
    """
    module = composition.module_of(parts, tmp_path)
    config, batch, truncated = module.Config(mask_truncated=True), random_batch(far=True), [0, 5]
    flags = {"mask_truncated_completions": True}
    trainer, trl_batch = trl_of(FILTERED[parts], config, batch, truncated, **flags)
    batch.mask[truncated] = 0
    equal(trl_batch["completion_mask"].double(), batch.mask)
    theirs = trl_loss(trainer, trl_batch, batch.logprobs)
    for micro_batches in MICRO_BATCHES.values():
        left = [[row for row in rows if row not in truncated] for rows in micro_batches]
        ours = sum(our_loss(module, config, batch, rows)[0] for rows in left if rows)
        equal(ours, theirs)
        equal(grad(ours, batch), grad(theirs, batch))


@SCRIPTS
def test_metrics(script):
    """What the scripts log as clipped share and KL is what TRL logs."""
    module = import_module(script)
    config, batch = module.Config(), random_batch(far=True)
    trainer, trl_batch = trl_of(script, config, batch)
    trl_loss(trainer, trl_batch, batch.logprobs)
    metrics = our_loss(module, config, batch, MICRO_BATCHES["whole"][0])[1]
    if script == "cispo":  # TRL counts A > 0 only, although its cap acts on both signs
        counted = {"cispo_clip_ratio": metrics["clipped_high"] & (batch.advantages[:, None] > 0)}
    else:
        counted = {
            f"clip_ratio/{side}_mean": metrics[f"clipped_{side}"] for side in ("low", "high")
        }
    if "kl_ref" in metrics:
        counted["kl"] = metrics["kl_ref"]
    assert ("kl" in counted) == (trainer.beta > 0)
    for name, values in counted.items():
        weights = batch.mask if values.shape[1] > 1 else torch.ones_like(values)
        mean = ((values * weights).sum() / weights.sum()).item()
        assert trainer._metrics["train"][name] == [pytest.approx(mean, rel=1e-6)], name  # float32


# ---- Advantages ---------------------------------------------------------------------------------


P, G = 13, 5  # TRL's nanstd takes n / (n - 1) in float32: exact for n = G = 5 and n = P G = 65
SIGNAL = P - 2  # the last two groups have none


def random_rewards(columns):
    """(P, G, K) float64; among them binary groups and groups that vary in one component only.

    0.7 is there because its float32 mean over a group need not be 0.7.
    """
    generator = torch.Generator().manual_seed(0)
    rewards = torch.rand(P, G, columns, generator=generator, dtype=torch.float64)
    rewards[1] = rewards[1].round()
    rewards[2, :, 0] = 1.0
    rewards[3], rewards[3, 1, 0] = 0.0, 1.0
    rewards[-2], rewards[-1] = 0.0, 0.7
    return rewards


@SCRIPTS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_advantages(script, dtype):
    """Same advantages on groups with signal; without signal ours are 0 and TRL's are rounding.

    float64 tests the formula, float32 what training runs on.
    """
    module = import_module(script)
    config = module.Config()
    columns = len(config.reward_components) + (script == "dapo")  # + overlong punishment
    rewards = random_rewards(columns).to(dtype)
    nothing = torch.zeros(P * G, 1)
    trainer = trl_trainer(script, config, rewards, [1] * P * G, nothing, nothing)
    theirs = trl_score(trainer, P * G)["advantages"].view(P, G)
    ours = module.compute_advantages(rewards, config)
    assert (ours.shape, ours.dtype) == ((P, G), dtype)
    assert (ours[:SIGNAL].amax(1) > 0).all() and (ours[:SIGNAL].amin(1) < 0).all()
    tolerance, rounding = (1e-9, 1e-9) if dtype == torch.float64 else (1e-5, 5e-3)
    torch.testing.assert_close(ours[:SIGNAL], theirs[:SIGNAL], rtol=0, atol=tolerance)
    torch.testing.assert_close(ours[SIGNAL:], theirs[SIGNAL:], rtol=0, atol=rounding)
    assert not ours[SIGNAL:].any()


def test_overlong_punishment():
    """dapo.py's Eq. 13 against TRL's reward function, at every length."""
    module = import_module("dapo")
    config = module.Config()
    lengths = range(1, config.max_new_tokens + 1)
    theirs = get_soft_overlong_punishment(config.max_new_tokens, config.overlong_cache)(
        completion_ids=[[EOS] * n for n in lengths]
    )
    ours = module.soft_overlong_punishment(torch.tensor(lengths), config)
    torch.testing.assert_close(ours, torch.tensor(theirs))
    assert ours[-1] == -1 and ours[0] == 0


# ---- The whole trainer --------------------------------------------------------------------------


@SCRIPTS
def test_flags_are_the_papers(script):
    flags = trl_flags(script, import_module(script).Config())
    assert flags | PAPERS[script] == flags
    assert not flags["use_bias_correction_kl"]


@pytest.mark.slow
@pytest.mark.parametrize("script", TRAINERS)
def test_first_step_of_the_trainer(script, tmp_path):
    """TRL samples, scores and differentiates; update_policy gives the same gradient."""
    module = import_module(script)
    config = module.Config(
        steps=1,
        minibatches=1,
        prompts_per_step=2,
        group_size=8,
        max_new_tokens=64,
        max_grad_norm=1e9,  # clipped, gradients that differ by a factor are equal
    )
    check = GradientCheck(module, config)
    trainer = make_trainer(script, config, tmp_path, callbacks=[check], save_strategy="no")
    check.watch(trainer)
    trainer.train()
    assert len(check.rows) == 16 and len({len(ids) for _, ids, _ in check.rows}) > 3
    assert check.difference < 1e-4 and check.loss_difference < 1e-6  # float32


DEFAULTS = {field.name: field.default for field in fields(GRPOConfig)}
OF_LOSS = ("loss_type", "scale_rewards", "beta", "epsilon", "epsilon_high")
COMPOSED = {  # preset: what TRL has to be told
    "grpo_zero": {name: DEFAULTS[name] for name in OF_LOSS},
    "minimal_r1_zero": {
        "loss_type": "dr_grpo",
        "scale_rewards": "none",
        "beta": 0.0,
        "epsilon": 0.2,
        "epsilon_high": 0.28,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("preset", COMPOSED)
def test_composed_presets(preset, tmp_path):
    """Where TRL can be told to be a preset: its first gradient, and its advantages, are ours."""
    module = composition.module_of(PRESETS[preset].parts.split(), tmp_path)
    config = module.Config(
        steps=1,
        minibatches=1,
        prompts_per_step=2,
        group_size=8,
        max_new_tokens=64,
        max_grad_norm=1e9,
    )
    check = GradientCheck(module, config)
    trainer = make_trainer(
        "grpo", config, tmp_path, callbacks=[check], save_strategy="no", **COMPOSED[preset]
    )
    check.watch(trainer)
    rewards = random_rewards(2).float()
    trainer.train()
    assert check.difference < 1e-4  # float32

    nothing = torch.zeros(P * G, 1)
    bare = trl_trainer(
        "grpo", module.Config(), rewards, [1] * P * G, nothing, nothing, **COMPOSED[preset]
    )
    theirs = trl_score(bare, P * G)["advantages"].view(P, G)
    ours = module.compute_advantages(rewards, module.Config())
    torch.testing.assert_close(ours[:SIGNAL], theirs[:SIGNAL], rtol=0, atol=1e-5)


@pytest.mark.parametrize("script", ["zoo.spo", "zoo.reinforce_pp"])
def test_what_trl_has_no_trainer_for(script, monkeypatch, capsys):
    """A script that TRL would train with another loss under its name is refused, in one line."""
    monkeypatch.setattr("sys.argv", ["train_with_trl.py", "--script", script])
    with pytest.raises(SystemExit) as stopped:
        train_with_trl.main()
    assert stopped.value.code == 2
    assert f"error: --script {script}: TRL has no such trainer; use grpo" in capsys.readouterr().err


def train_by_trl(monkeypatch, *words):
    """The command line, whose trainer does nothing."""
    nothing = SimpleNamespace(train=lambda: None, save_model=lambda: None)
    monkeypatch.setattr(train_with_trl, "make_trainer", lambda *_, **__: nothing)
    monkeypatch.setattr("sys.argv", ["train_with_trl.py", *words])
    train_with_trl.main()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--minibatches 3", "--minibatches 3: must divide --prompts_per_step 16"),
        ("--minibatches 0", "--minibatches 0: must divide --prompts_per_step 16"),
        ("--reward_weights 1", "--reward_weights: give one number for each of"),
        ("--group_size 1", "--group_size 1: at least 2"),
        ("--steps 0", "--steps 0: nothing is evaluated here"),
        ("--resume", "--resume: a run with TRL begins anew"),
    ],
)
def test_options_that_a_run_with_trl_refuses(words, said, monkeypatch, capsys, tmp_path):
    """What the script itself refuses is refused in its words, and so is what TRL cannot do."""
    with pytest.raises(SystemExit, match="2"):
        train_by_trl(monkeypatch, "--output_dir", str(tmp_path), *words.split())
    assert f"error: {said}" in capsys.readouterr().err


def test_a_trained_model_is_not_overwritten(monkeypatch, capsys, tmp_path):
    """Without --overwrite; a gradient check writes nothing, so it may name any folder."""
    words = ["--output_dir", str(tmp_path)]
    train_by_trl(monkeypatch, *words)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(SystemExit, match="2"):
        train_by_trl(monkeypatch, *words)
    said = f"error: --output_dir {tmp_path}: holds files; add --overwrite, or choose another"
    assert said in capsys.readouterr().err
    train_by_trl(monkeypatch, *words, "--overwrite")
    monkeypatch.setattr(GradientCheck, "watch", lambda *_: None)
    train_by_trl(monkeypatch, *words, "--check_gradient")


@pytest.mark.parametrize(("rank", "said"), [("0", True), ("1", False)])
def test_options_that_trl_ignores_are_named(rank, said, monkeypatch, capsys, tmp_path):
    """Once, by the first process, and only those that were given."""
    monkeypatch.setenv("RANK", rank)
    words = ["--output_dir", str(tmp_path), "--report_to", "csv", "--eval_every", "5"]
    train_by_trl(monkeypatch, *words, "--learning_rate", "1e-5")
    line = "TRL ignores --eval_every, --report_to\n"
    assert capsys.readouterr().out == (line if said else "")


@pytest.mark.slow
def test_first_step_on_two_processes():
    """As the page says it, under accelerate launch: averaged gradient and loss are ours."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", "2", "-m", "tools.train_with_trl", "--script", "gspo"]
    command += ["--check_gradient", "--prompts_per_step", "4", "--group_size", "8"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, cwd=common.HERE, capture_output=True, text=True, timeout=300
    )
    found = re.search(r"32 completions on 2 processes: .*\| = (\S+), .*\| = (\S+)\n", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) < 1e-4 and float(found[2]) < 1e-6

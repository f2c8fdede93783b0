"""tools/verl_command: its flags in verl's own configuration, and what verl computes with them.

No GPU and no cluster: Hydra composes the configuration of verl's wheel, its dataclasses check
themselves, and its registered functions are called with it (tests/zoo/verl_oracle.py).
"""

import functools
import importlib
import importlib.util
import json
import re
import shlex
import shutil

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoTokenizer

import common
from countdown_task import REWARDS, is_correct, solve
from experiments import problems
from experiments.catalogue import ARMS, CRITICS, SCRIPTS, ZOO
from tests.core.test_against_trl import LENGTHS, grad, random_batch
from tests.zoo import verl_oracle
from tests.zoo.test_zoo import FAR, loss_of, mask_of, on_last_token, over_tokens, uneven
from tools import verl_command

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(verl_oracle.why_not()), reason=verl_oracle.why_not()),
]
SCRIPT = pytest.mark.parametrize("script", verl_command.FLAGS)
# Its mean over tokens divides by their number + 1e-8.
CLOSE = {"rtol": 1e-7, "atol": 1e-8}


@pytest.fixture(scope="module", autouse=True)
def seeded():
    torch.manual_seed(0)


def run(monkeypatch, capsys, *words):
    """(lines of notes, overrides) that the command line prints."""
    monkeypatch.setattr("sys.argv", ["verl_command", *words])
    verl_command.main()
    printed = capsys.readouterr().out
    notes, _, command = printed.partition("python3 -m verl.trainer.main_ppo")
    return notes.split("\n"), shlex.split(command.replace("\\\n", " "))


def refusal(monkeypatch, capsys, *words):
    """The line with which the command line is refused."""
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, capsys, *words)
    return capsys.readouterr().err


@functools.cache
def verl_of(script):
    """(our configuration, verl's for it)."""
    module = importlib.import_module(script)
    config = module.Config() if script == "cispo" else uneven(module)  # it has no clip_low
    return config, verl_with(script, config)


def verl_with(script, config, **changes):
    """verl's configuration with the flags of a script's; changes: of the actor."""
    flags = verl_command.overrides(script, config, common.HERE / "runs/nowhere", 12, 8)
    flags |= {f"{verl_command.ACTOR}.{name}": value for name, value in changes.items()}
    return verl_oracle.configured(verl_command.words_of(flags))


# ---- The command --------------------------------------------------------------------------------


def test_every_script_is_known_or_explained():
    members = {ARMS[name].script for name in (*ZOO, *CRITICS, "gigpo")}
    known, absent = set(verl_command.FLAGS), set(verl_command.ABSENT)
    assert known | absent == {*SCRIPTS, *members}
    assert not known & absent


@SCRIPT
def test_command_composes(script, monkeypatch, capsys, tmp_path):
    """What is printed, word for word, is a configuration of verl with the script's numbers."""
    folder = tmp_path / "verl"
    words = ["--steps", "2", "--eval_problems", "3", "--output_dir", str(folder), "--gpus", "4"]
    _, overrides = run(monkeypatch, capsys, script, *words)
    verl = verl_oracle.configured(overrides)
    config = importlib.import_module(script).Config()
    data, trainer = verl.composed.data, verl.composed.trainer
    assert data.train_batch_size == config.prompts_per_step
    assert verl.actor.ppo_mini_batch_size * config.minibatches == config.prompts_per_step
    assert verl.rollout.n == config.group_size
    assert verl.actor.optim.lr == config.learning_rate and verl.actor.optim.weight_decay == 0
    assert verl.actor.optim.lr_scheduler_type == "constant"
    assert verl.actor.optim.clip_grad == config.max_grad_norm
    assert (verl.rollout.temperature, verl.rollout.top_p, verl.rollout.top_k) == (1.0, 1, -1)
    assert (trainer.total_training_steps, trainer.n_gpus_per_node) == (2, 4)
    assert verl.composed.reward.reward_manager.name in verl_oracle.reward_managers()
    assert verl.actor.use_kl_loss == (
        getattr(config, "kl_coef", 0) > 0 and script != "zoo.reinforce_pp"
    )
    assert verl.composed.algorithm.use_kl_in_reward == (script == "zoo.reinforce_pp")
    # verl goes through its data once more if it has to; a step takes train_batch_size of them.
    train = read_parquet(data.train_files)
    assert len(train) == 2 * config.prompts_per_step
    assert len(read_parquet(data.val_files)) == 3


def test_options_reach_the_command(monkeypatch, capsys, tmp_path):
    words = ["--learning_rate", "1e-6", "--clip_high", "0.4", "--steps", "1", "--max_refills", "0"]
    words += ["--mask_truncated", "--output_dir", str(tmp_path / "verl"), "--eval_problems", "2"]
    words += ["--threads", "2"]
    notes, overrides = run(monkeypatch, capsys, "dapo", *words)
    verl = verl_oracle.configured(overrides)
    assert (verl.actor.optim.lr, verl.actor.clip_ratio_high) == (1e-6, 0.4)
    assert not verl.algorithm.filter_groups.enable
    assert any("--mask_truncated is left out" in note for note in notes)
    assert "# verl ignores --threads" in notes


def test_an_option_that_verl_lacks_fails():
    """The composing is strict, and so are the dataclasses."""
    flags = ["actor_rollout_ref.rollout.name=vllm", "actor_rollout_ref.actor.use_dynamic_bsz=True"]
    with pytest.raises(Exception, match="clip_ratio_hihg"):
        verl_oracle.configured([*flags, "actor_rollout_ref.actor.clip_ratio_hihg=0.3"])
    with pytest.raises(Exception, match="loss_agg_mode"):
        verl_oracle.configured([*flags, "actor_rollout_ref.actor.loss_agg_mode=mean"])


@pytest.mark.parametrize("script", verl_command.ABSENT)
def test_scripts_that_verl_does_not_know(script, monkeypatch, capsys):
    line = refusal(monkeypatch, capsys, script)
    assert f"error: {script}: verl does not know it" in line


@pytest.mark.parametrize("name", ["mine", "train.parquet"])
@pytest.mark.parametrize("words", [[], ["--overwrite"]])
def test_nothing_is_overwritten(name, words, monkeypatch, capsys, tmp_path):
    """A folder that verl_command did not write keeps what it holds, whatever its name."""
    (tmp_path / name).write_text("kept")
    line = refusal(monkeypatch, capsys, "grpo", "--output_dir", str(tmp_path), *words)
    assert f"--output_dir {tmp_path}: holds {name}, which --overwrite does not delete" in line
    assert (tmp_path / name).read_text() == "kept"


def test_overwrite_keeps_what_verl_trained(monkeypatch, capsys, tmp_path):
    """It replaces the tool's own files, and nothing once checkpoints lie beside them."""
    folder = tmp_path / "verl"
    words = ["grpo", "--steps", "1", "--eval_problems", "2", "--output_dir", str(folder)]
    run(monkeypatch, capsys, *words)
    assert "add --overwrite, or another --output_dir" in refusal(monkeypatch, capsys, *words)
    (folder / "__pycache__").mkdir()
    run(monkeypatch, capsys, *words, "--overwrite", "--steps", "2")
    assert {file.name for file in folder.iterdir()} == verl_command.FILES
    assert len(read_parquet(folder / "train.parquet")) == 32
    (folder / "checkpoints").mkdir()
    line = refusal(monkeypatch, capsys, *words, "--overwrite")
    assert "holds checkpoints, which --overwrite does not delete" in line
    assert len(read_parquet(folder / "train.parquet")) == 32
    assert list(tmp_path.iterdir()) == [folder]


def test_checkpoints_that_come_while_the_model_loads_are_kept(monkeypatch, capsys, tmp_path):
    """The folder is looked at again before it is replaced."""
    words = ["grpo", "--steps", "1", "--eval_problems", "2", "--output_dir", str(tmp_path / "verl")]
    run(monkeypatch, capsys, *words)
    checkpoints = tmp_path / "verl/checkpoints"
    load = common.load_model
    monkeypatch.setattr(common, "load_model", lambda name: checkpoints.mkdir() or load(name))
    assert "holds checkpoints" in refusal(monkeypatch, capsys, *words, "--overwrite")
    assert checkpoints.exists()


def test_a_refused_model_leaves_the_folder_as_it_was(monkeypatch, capsys, tmp_path, qwen_folder):
    """A template that is refused writes no half of a folder, and deletes none."""
    words = ["grpo", "--steps", "1", "--eval_problems", "2", "--max_new_tokens", "32"]
    words += ["--output_dir", str(tmp_path / "runs/verl"), "--model"]
    closing = shutil.copytree(qwen_folder, tmp_path / "closing")
    with open(closing / "chat_template.jinja", "a") as file:
        file.write("<think>\n\n</think>\n\n")
    said = "its chat template closes <think> at once"
    assert said in refusal(monkeypatch, capsys, *words, str(closing))
    assert not (tmp_path / "runs").exists()
    run(monkeypatch, capsys, *words, qwen_folder)
    assert said in refusal(monkeypatch, capsys, *words, str(closing), "--overwrite")
    assert {file.name for file in (tmp_path / "runs/verl").iterdir()} == verl_command.FILES


@pytest.mark.parametrize(
    "words", ["--minibatches 3", "--minibatches 0", "--reward_weights 1", "--group_size 1"]
)
def test_options_out_of_their_bounds(words, monkeypatch, capsys, tmp_path):
    """What the script itself refuses is refused in its words."""
    words = ["--output_dir", str(tmp_path / "verl"), *words.split()]
    assert refusal(monkeypatch, capsys, "grpo", *words).startswith(f"error: {words[2]}")
    assert not (tmp_path / "verl").exists()


def table_of_flags():
    """(script, key, value) of the six scripts' numeric verl flags in docs/reference/map.md."""
    text = (common.HERE / "docs/reference/map.md").read_text(encoding="utf-8")
    table = text.partition("## Flags")[2].partition("\n## ")[0]
    script = ""
    for line in re.findall(r"^\| .*\|$", table, re.MULTILINE)[1:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        script = cells[0].removesuffix(".py") or script
        if not (common.HERE / f"{script}.py").exists():  # of zoo/
            continue
        for key, value in re.findall(r"`([\w.+]+)=([\w.-]+)`", cells[-1]):
            if value != "L":
                yield script, re.sub(r"^actor\.", f"{verl_command.ACTOR}.", key), value


def test_the_table_of_flags_is_the_commands():
    rows = list(table_of_flags())
    assert len(rows) >= 20
    scripts = dict.fromkeys(script for script, *_ in rows)
    composed = {s: verl_with(s, importlib.import_module(s).Config()).composed for s in scripts}
    for script, key, value in rows:
        found = OmegaConf.select(composed[script], key.removeprefix("+"))
        assert str(found) == value or float(found) == float(value), (script, key)


def test_ppo_has_a_critic():
    config, verl = verl_of("zoo.ppo")
    assert verl.critic.cliprange_value == config.value_clip
    assert verl.critic.optim.lr == config.critic_learning_rate
    assert verl.critic.loss_agg_mode == "token-mean"
    assert verl.algorithm.lam == config.gae_lambda and verl.algorithm.gamma == 1


# ---- The files ----------------------------------------------------------------------------------


def read_parquet(path):
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


@pytest.mark.parametrize("model", ["base", "qwen", "thinking"])
def test_prompts_are_ours(model, monkeypatch, capsys, tmp_path, qwen_folder):
    """verl applies the chat template of the tokenizer that is written: the same ids."""
    thinking = shutil.copytree(qwen_folder, tmp_path / "thinking")
    with open(thinking / "chat_template.jinja", "a") as file:
        file.write("{% if enable_thinking %}<think>\n{% else %}<think>\n\n</think>\n{% endif %}")
    source = {"base": "base_model", "qwen": qwen_folder, "thinking": str(thinking)}[model]
    words = ["--steps", "2", "--model", source, "--output_dir", str(tmp_path / "verl")]
    words += ["--max_new_tokens", "32", "--eval_problems", "2"]
    _, overrides = run(monkeypatch, capsys, "grpo", *words)
    data = verl_oracle.configured(overrides).composed.data
    config = importlib.import_module("grpo").Config(model=source, steps=2)
    drawn, _ = problems.of_training(config)
    ours = common.encode_prompts(*common.load_model(source), drawn, config)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "verl/tokenizer")
    rows = read_parquet(data.train_files)
    theirs = [
        tokenizer.apply_chat_template(
            row["prompt"], tokenize=True, add_generation_prompt=True, return_dict=False
        )
        for row in rows
    ]
    assert theirs == ours
    assert max(map(len, theirs)) <= data.max_prompt_length
    truths = [json.loads(row["reward_model"]["ground_truth"]) for row in rows]
    assert [(tuple(truth["numbers"]), truth["target"]) for truth in truths] == [
        (problem.numbers, problem.target) for problem in drawn
    ]


@pytest.mark.parametrize("script", ["grpo", "gdpo"])
def test_reward_function_is_ours(script, monkeypatch, capsys, tmp_path):
    words = ["--steps", "1", "--eval_problems", "2", "--output_dir", str(tmp_path / "verl")]
    run(monkeypatch, capsys, script, *words)
    spec = importlib.util.spec_from_file_location("reward", tmp_path / "verl/reward.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = importlib.import_module(script).Config()
    drawn, _ = problems.of_training(config)
    problem = drawn[0]
    truth = read_parquet(tmp_path / "verl/train.parquet")[0]["reward_model"]["ground_truth"]
    for answer in ("1+1", solve(problem)):
        text = f"so</think><answer>{answer}</answer>"
        found = module.compute_score("countdown", text, truth, extra_info={}, more=1)
        parts = {name: REWARDS[name](text, problem) for name in config.reward_components}
        weighted = zip(config.reward_weights, parts.values(), strict=True)
        assert found["score"] == pytest.approx(sum(weight * part for weight, part in weighted))
        assert found["acc"] == is_correct(text, problem)
        assert {name: found[name] for name in parts} == parts
    assert found["acc"] == 1.0


# ---- What verl computes -------------------------------------------------------------------------


def verl_advantages(verl, rewards, config, mask, token_kl=None):
    """Its estimator of rewards (P, G, K), as its trainer calls it -> (B, T)."""
    P, G, K = rewards.shape
    pooled = (rewards * torch.tensor(config.reward_weights[:K], dtype=torch.float64)).sum(-1)
    scores = on_last_token(pooled, mask)
    if token_kl is not None:
        scores = scores - verl.composed.algorithm.kl_ctrl.kl_coef * token_kl
    index = np.arange(P).repeat(G)
    estimator = verl.algorithm.adv_estimator
    function = verl.algos.get_adv_estimator_fn(estimator)
    given = {"token_level_rewards": scores, "response_mask": mask, "index": index}
    if estimator == "grpo":
        given["norm_adv_by_std_in_grpo"] = verl.algorithm.norm_adv_by_std_in_grpo
    else:
        given["config"] = verl.algorithm
    if estimator == "gdpo":
        columns = rewards.reshape(P * G, K).T.numpy()
        given["non_tensor_batch"] = dict(zip(config.reward_components, columns, strict=False))
        prompts = torch.ones(P * G, 1).long()
        seen = torch.cat([prompts, mask.long()], 1)
        given["batch"] = {"prompts": prompts, "attention_mask": seen}
    return function(**given)[0]


def rewards_of(P, G, K):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(P, G, K, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("script", ["grpo", "dapo", "gspo", "cispo", "zoo.gmpo"])
def test_group_advantages_differ_in_an_epsilon(script):
    """Pooled rewards over the group's std: verl adds 1e-6 to it, ours 1e-4. GDPO has its own."""
    config, verl = verl_of(script)
    rewards = rewards_of(2, 4, 2)
    mask = mask_of(LENGTHS)
    columns = rewards
    if script == "dapo":  # the last is the tax on length
        columns = torch.cat([rewards, torch.zeros(2, 4, 1).double()], -1)
    ours = importlib.import_module(script).compute_advantages(columns, config)
    theirs = verl_advantages(verl, rewards, config, mask)[:, 0].view(2, 4)
    pooled = (rewards * torch.tensor(config.reward_weights, dtype=torch.float64)).sum(-1)
    std = pooled.std(1, keepdim=True)
    torch.testing.assert_close(ours * (std + 1e-4), theirs * (std + 1e-6), rtol=1e-6, atol=1e-7)


def test_dr_grpo_advantages_are_equal():
    config, verl = verl_of("dr_grpo")
    rewards = rewards_of(2, 4, 2)
    ours = importlib.import_module("dr_grpo").compute_advantages(rewards, config)
    theirs = verl_advantages(verl, rewards, config, mask_of(LENGTHS))[:, 0].view(2, 4)
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_gdpo_whitens_over_tokens():
    """At equal lengths one factor for all, of degrees of freedom; else other advantages."""
    config, verl = verl_of("gdpo")
    rewards = rewards_of(2, 4, 2)
    ours = importlib.import_module("gdpo").compute_advantages(rewards, config)
    even = verl_advantages(verl, rewards, config, torch.ones(8, 10).double())[:, 0].view(2, 4)
    factor = ours.std() / even.std()
    torch.testing.assert_close(ours, even * factor, rtol=1e-3, atol=1e-3)
    assert factor.item() == pytest.approx(1, abs=0.1)
    uneven_lengths = mask_of([10, 10, 10, 90, 10, 10, 90, 90])
    theirs = verl_advantages(verl, rewards, config, uneven_lengths)[:, 0].view(2, 4)
    assert 0.9 < (theirs - ours).abs().max() < 1


def test_reinforce_pp_advantages_are_equal_but_for_an_epsilon():
    """The k1 of later tokens included."""
    config, verl = verl_of("zoo.reinforce_pp")
    batch = random_batch(far=False)
    rewards = rewards_of(8, 1, 2)
    token_kl = (batch.old - batch.ref) * batch.mask
    module = importlib.import_module("zoo.reinforce_pp")
    ours = module.compute_advantages(rewards, token_kl, batch.mask, config)
    theirs = verl_advantages(verl, rewards, config, batch.mask, token_kl)
    ratio = (ours / theirs)[batch.mask > 0]
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=1e-3, atol=0)
    assert over_tokens(ratio.view(1, -1), torch.ones(1, len(ratio)))[0] < 1e-6  # one factor


def verl_loss(verl, batch):
    """Its policy loss and its KL, as verl/workers/utils/losses.py adds them up."""
    actor, algos = verl.actor, verl.algos
    actor.global_batch_info["loss_scale_factor"] = actor.loss_scale_factor
    A = batch.advantages[:, None] * torch.ones_like(batch.mask)
    loss, _ = algos.get_policy_loss_fn(actor.policy_loss.loss_mode)(
        old_log_prob=batch.old,
        log_prob=batch.logprobs,
        advantages=A,
        response_mask=batch.mask,
        loss_agg_mode=actor.loss_agg_mode,
        config=actor,
    )
    if actor.use_kl_loss:
        kl = algos.kl_penalty(batch.logprobs, batch.ref, actor.kl_loss_type)
        share = algos.agg_loss(kl, batch.mask, actor.loss_agg_mode, **actor.global_batch_info)
        loss = loss + actor.kl_loss_coef * share
    return loss


@SCRIPT
@FAR
def test_losses_are_equal(script, far):
    """Value and gradient, KL included, at ratio 1 and far from it."""
    config, verl = verl_of(script)
    batch = random_batch(far)
    theirs = verl_loss(verl, batch)
    ours, _ = loss_of(importlib.import_module(script), config, batch)
    torch.testing.assert_close(ours, theirs, **CLOSE)
    torch.testing.assert_close(grad(ours, batch), grad(theirs, batch), **CLOSE)


@pytest.mark.parametrize(
    ("script", "flag", "default"),
    [("grpo", "clip_ratio_c", 3.0), ("cispo", "clip_ratio_low", 0.2)],
)
def test_without_a_flag_the_loss_is_another(script, flag, default):
    """verl's own dual clip, and its floor under CISPO's weights."""
    config, _ = verl_of(script)
    verl = verl_with(script, config, **{flag: default})
    batch = random_batch(far=True)
    batch.old = batch.old - 1.0 * (batch.old < batch.logprobs)  # some ratios above 3
    ours, _ = loss_of(importlib.import_module(script), config, batch)
    assert (ours - verl_loss(verl, batch)).abs() > 0.01

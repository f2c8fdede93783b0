"""zoo/: SPO's tracker, TTRL's vote, and each script from start to end, killed and resumed."""

import os
import signal
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

from runtime import measures, run_folder, session
from runtime.measures import repeatable

import pytest
import torch

import common
import countdown_task
import dr_grpo
import grpo
from countdown_task import REWARDS, Problem
from tasks.source import is_held_out
from zoo import gmpo, reinforce_pp, rloo, spo, ttrl

ZOO = ["rloo", "gmpo", "reinforce_pp", "reinforce_pp_baseline", "spo", "ttrl"]
ZOO += ["ppo", "vapo", "prime", "gigpo"]
ZOO += ["tis", "deepseek_v32", "sapo", "dppo", "maxrl", "dro"]

# ---- SPO's tracker ------------------------------------------------------------------------------

PROBLEMS = [Problem((n, n + 1, 3), 7 * n) for n in range(1, 41)]


def tracker_at(rights, monkeypatch, **changes):
    """A tracker after its offline phase, in which problem n had rights[n] of 8 right."""
    config = spo.Config(max_new_tokens=4, **changes)
    tracker, seen = spo.Tracker(PROBLEMS[: len(rights)], config), []

    def sample_groups(model, tokenizer, problems, many, generator):
        counts = rights[len(seen) : len(seen) + len(problems)]
        seen.extend(problems)
        right = [[i < n for i in range(many.group_size)] for n in counts]
        return SimpleNamespace(correct=torch.tensor(right).long().flatten())

    monkeypatch.setattr(spo, "sample_groups", sample_groups)
    tracker.start(None, None, config, None)
    assert seen == tracker.problems
    return tracker, config


def test_tracker_starts_by_hand(monkeypatch):
    """3 of 8 right: 8 * 3.5 / 9 = 3.111 against 4.889; none or all right is not certainty."""
    rights = [3, 0, 8] + [n % 9 for n in range(37)]  # more than are sampled at a time
    tracker, _ = tracker_at(rights, monkeypatch)
    assert tracker.alpha[:3].tolist() == pytest.approx([3.1111, 4 / 9, 68 / 9], abs=1e-4)
    assert tracker.beta[:3].tolist() == pytest.approx([4.8889, 68 / 9, 4 / 9], abs=1e-4)
    assert tracker.value()[0].item() == pytest.approx(0.3889, abs=1e-4)
    assert tracker.value().tolist() == pytest.approx([(n + 0.5) / 9 for n in rights])


def visit(tracker, config, drawn, ids, lengths, rewards, moved, monkeypatch):
    """One update of the tracker, under a model whose log-prob of token k is -1 - moved * k."""

    def over_rollout(function, model, rollout, config):
        assert function is spo.completion_logprobs
        return (-1 - model * rollout.completion_ids) * rollout.mask

    B = len(drawn)
    nothing = torch.zeros(B, config.max_new_tokens)
    rollout = spo.Rollout(
        problems=[tracker.problems[place] for place in drawn],
        prompts=[[1]] * B,
        completions=[""] * B,
        completion_ids=torch.tensor(ids),
        mask=(torch.arange(config.max_new_tokens) < torch.tensor(lengths)[:, None]).float(),
        logprobs=nothing - 9,  # under the old policy: of no use to the tracker
        entropy=nothing,
        truncated=torch.zeros(B),
        correct=torch.zeros(B),
        completions_sampled=B,
        tokens_sampled=sum(lengths),
        drawn=torch.tensor(drawn),
    )
    monkeypatch.setattr(spo, "over_rollout", over_rollout)
    rewards = torch.tensor(rewards).view(B, 1, 1)
    return tracker.update(moved, rollout, rewards, config)


def test_tracker_counts_by_hand(monkeypatch):
    """From .3889 with rho .96: .4593 after a success, .3441 after a failure; others stay."""
    tracker, config = tracker_at([3] * 4, monkeypatch)
    ids = [[1, 1, 1, 1], [2, 2, 2, 2]]
    metrics = visit(tracker, config, [2, 0], ids, [4, 2], [1.0, 0.0], 0.0, monkeypatch)
    assert metrics["tracker_rho"] == pytest.approx(0.96) and metrics["tracker_moved"] == 0
    value = tracker.value().tolist()
    assert value == pytest.approx([0.3441, 0.3889, 0.4593, 0.3889], abs=1e-4)
    assert tracker.alpha[2].item() == pytest.approx(0.96 * 3.1111 + 1, abs=1e-4)
    assert tracker.beta[2].item() == pytest.approx(0.96 * 4.8889, abs=1e-4)
    assert tracker.completion_ids[[0, 2]].tolist() == [ids[1], ids[0]]
    assert tracker.logprobs[0].tolist() == [-1, -1, 0, 0]  # of now, 0 off the mask
    assert not tracker.mask[[1, 3]].any()


@pytest.mark.parametrize(
    ("moved", "rho"), [(0.001, 0.96), (0.01, 0.8909), (0.06, 0.875), (9.0, 0.875), (-0.01, 0.8909)]
)
def test_tracker_forgets_by_how_far_the_policy_moved(moved, rho, monkeypatch):
    """2^(-D / .06) between .875 and .96; D on the tokens of the problem's last completion."""
    tracker, config = tracker_at([3] * 2, monkeypatch)
    # Its tokens move by 1, -1, 1 times `moved`: absolute, and nothing of what follows the mask.
    visit(tracker, config, [1], [[1, -1, 1, 50]], [3], [0.0], 0.0, monkeypatch)
    alpha, beta = tracker.alpha[1].item(), tracker.beta[1].item()
    ids = [[7, 7, 7, 7], [8, 8, 8, 8]]  # of this visit: not what D is about
    metrics = visit(tracker, config, [1, 0], ids, [4, 4], [1.0, 1.0], moved, monkeypatch)
    assert metrics["tracker_moved"] == pytest.approx(abs(moved) / 2, rel=1e-4)  # 0: first visit
    assert metrics["tracker_rho"] == pytest.approx((rho + 0.96) / 2, abs=1e-4)
    assert tracker.alpha[1].item() == pytest.approx(rho * alpha + 1, abs=1e-3)
    assert tracker.beta[1].item() == pytest.approx(rho * beta, abs=1e-3)
    assert tracker.logprobs[1].tolist() == pytest.approx([-1 - 7 * moved] * 4, abs=1e-5)
    assert tracker.completion_ids[1].tolist() == ids[0] and tracker.mask[1].all()


def test_tracker_draws_middling_problems_more_often(monkeypatch):
    """Distinct places, each first in proportion to sqrt(v (1 - v)) + .05, so that v = 0 counts."""
    tracker, _ = tracker_at([0] * 5, monkeypatch)
    value = [0.0, 0.1, 0.5, 0.9, 1.0]
    tracker.alpha.copy_(8 * torch.tensor(value))
    tracker.beta.copy_(8 - tracker.alpha)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([tracker.draw(3, generator) for _ in range(4000)])
    assert all(len(set(row)) == 3 for row in draws.tolist())
    share = (torch.bincount(draws[:, 0], minlength=5) / 4000).tolist()
    weight = [0.05, 0.35, 0.55, 0.35, 0.05]
    assert share == pytest.approx([w / sum(weight) for w in weight], abs=0.015)
    assert sorted(tracker.draw(5, generator).tolist()) == list(range(5))


# ---- TTRL's vote --------------------------------------------------------------------------------


def votes(expressions, target, components=("answer", "format")):
    """compute_rewards of groups of 4 answers; None: no answer."""
    texts = [f"so</think> <answer>{e}</answer>" if e else "so" for e in expressions]
    problems = [Problem((20, 4, 2), target)] * len(texts)
    weights = [1.0] * len(components)
    config = ttrl.Config(group_size=4, reward_components=list(components), reward_weights=weights)
    return ttrl.compute_rewards(problems, texts, config)


@pytest.mark.parametrize("target", [24, 18, 20])
def test_ttrl_pays_the_majority_whatever_the_target(target):
    """24, 24, 18 and no answer -> 1, 1, 0, 0: values are voted on, not expressions."""
    rewards = votes(["20 + 4", "4 * 3 * 2", "20 - 2", None], target)
    assert rewards[0, :, 0].tolist() == [1, 1, 0, 0]
    assert rewards[0, :, 1].tolist() == [1, 1, 1, 0]  # format is judged as ever
    swapped = votes(["20 + 4", "4 * 3 * 2", "20 - 2", None], target, ("format", "answer"))
    assert torch.equal(swapped, rewards.flip(-1))


def test_ttrl_votes_group_by_group():
    """Ties go to the first seen; what has no value has no vote and no reward."""
    tie = ["20 - 2", "9 * 2", "20 + 4", "4 * 6"]
    silent = [None, None, "20 +", "1 / 0"]
    outvoted = [None, "no", None, "20 + 4"]  # with the first group's, a majority of all
    got = votes([*tie, *silent, *outvoted], target=24)[..., 0]
    assert got.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert not votes(tie, 24, ["format"])[..., 0].eq(0).any()  # without `answer`: no vote


# ---- Each script from start to end --------------------------------------------------------------

STEPS = 3
TINY = {"prompts_per_step": 4, "group_size": 4, "max_new_tokens": 12, "eval_problems": 4}
TINY |= {"steps": STEPS, "eval_every": 0, "checkpoint_every": 1, "dtype": "float32"}
TINY |= {"minibatches": 2, "learning_rate": 1e-3}
OWN = {
    "reinforce_pp": {"prompts_per_step": 8, "group_size": 1},
    "spo": {"group_size": 1, "pool_size": 6, "offline_completions": 2},  # most come back
    "ppo": {"prompts_per_step": 8, "group_size": 1},
    "vapo": {"pretrain_rollouts": 2},
}


WATCHED = ("sample_batch", "compute_advantages", "update_critic")
WATCHED += ("process_rewards", "update_reward_model")


def module_of(name):
    return import_module(f"zoo.{name}")


def config_of(name, folder, model, **changes):
    options = TINY | OWN.get(name, {}) | {"model": model, "output_dir": str(folder)}
    return module_of(name).Config(**options | changes)


def judge_by_length(patch, script):
    """A random model is never right: let the length of what it writes decide."""
    patch.setattr(countdown_task, "is_correct", lambda text, problem: len(text) % 2 == 1)
    patch.setitem(REWARDS, "answer", lambda text, problem: float(len(text) % 2))
    patch.setitem(REWARDS, "format", lambda text, problem: float(len(text) % 3 == 0))
    if script is ttrl:
        patch.setattr(countdown_task, "answer_value", lambda text: len(text) % 3 or None)


def metrics_of(folder):
    rows = [row for row in run_folder.read_jsonl(folder / "metrics.jsonl") if "reward" in row]
    return repeatable(rows)


@pytest.fixture(scope="module")
def finished(llama_folder, tmp_path_factory):
    """name -> an uninterrupted run: folder, config, rows, and what passed between its functions."""
    runs = {}

    def run(name):
        if name in runs:
            return runs[name]
        script, folder = module_of(name), tmp_path_factory.mktemp("zoo") / name
        config, calls = config_of(name, folder, llama_folder), defaultdict(list)
        with pytest.MonkeyPatch.context() as patch:
            judge_by_length(patch, script)
            for function in filter(vars(script).get, WATCHED):
                patch.setattr(script, function, watched(calls, getattr(script, function)))
            if script is spo:
                update = watched_update(calls, spo.Tracker.update)
                patch.setattr(spo.Tracker, "update", update)
            script.train(config)
        runs[name] = SimpleNamespace(
            folder=folder, config=config, calls=calls, rows=metrics_of(folder)
        )
        return runs[name]

    return run


def watched(calls, function):
    """`function`, which keeps what it was given and what it gave."""

    def replacement(*arguments):
        result = function(*arguments)
        calls[function.__name__].append((arguments, result))
        calls["order"].append(function.__name__)
        return result

    return replacement


def watched_update(calls, update):
    """Tracker.update, which keeps the values of the drawn problems before and after it."""

    def replacement(tracker, model, rollout, rewards, config):
        before = tracker.value()[rollout.drawn]
        metrics = update(tracker, model, rollout, rewards, config)
        after = tracker.value()[rollout.drawn]
        logprobs = tracker.logprobs.clone()
        calls["update"].append(SimpleNamespace(before=before, after=after, logprobs=logprobs))
        return metrics

    return replacement


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_killed_and_resumed_is_as_uninterrupted(
    name, finished, llama_folder, tmp_path, monkeypatch
):
    """Killed between log and checkpoint of step 2; evaluations in between change nothing."""
    script, whole, save = module_of(name), finished(name), session.Run._save
    judge_by_length(monkeypatch, script)
    config = config_of(name, tmp_path / "run", llama_folder, eval_every=1)

    def killed(run, step, *parts):
        if step == 2:
            raise SystemError("killed")
        save(run, step, *parts)

    with monkeypatch.context() as patch, pytest.raises(SystemError, match="killed"):
        patch.setattr(session.Run, "_save", killed)
        script.train(config)
    assert [row["step"] for row in metrics_of(tmp_path / "run")] == [1, 2]
    script.train(replace(config, resume=True))
    assert metrics_of(tmp_path / "run") == whole.rows
    assert len(whole.rows) == STEPS
    for row in whole.rows:
        assert row["updates"] == config.minibatches and row["grad_norm"] > 0
        assert ("kl_ref" in row) == (name not in ("spo", "ppo", "vapo"))
    assert whole.rows[-1]["kl_old"] > 0  # the second minibatch is away from ratio 1


@pytest.mark.slow
def test_spo_as_its_own_process_survives_sigkill(llama_folder, tmp_path):
    """`python -m zoo.spo`, killed at an unknown point after step 1; here nothing is patched."""
    whole, parts = (config_of("spo", tmp_path / name, llama_folder) for name in "ab")
    spo.train(whole)
    options = {**TINY, **OWN["spo"], "model": llama_folder, "output_dir": parts.output_dir}
    options["steps"] = 1000  # on a busy machine three could be over before the kill
    command = [sys.executable, "-m", "zoo.spo"]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    pipe, hidden = subprocess.PIPE, {"CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        command, cwd=common.HERE, env=environment | hidden, stdout=pipe, text=True
    ) as process:
        assert any(line.startswith("   1  ") for line in process.stdout)  # logged
        process.kill()
    assert process.returncode == -signal.SIGKILL
    reached = len(metrics_of(tmp_path / "b"))
    spo.train(replace(parts, resume=True, steps=max(STEPS, reached + 1)))
    rows = metrics_of(tmp_path / "b")[:STEPS]
    assert rows == metrics_of(tmp_path / "a") and sum(row["updates"] for row in rows) > 0


def k1_of(script, run, step):
    """(B, T) log pi_old - log pi_ref of a step's rollout, the reference loaded anew."""
    (_, (rollout, _)) = run.calls["sample_batch"][step]
    reference, _ = common.load_model(run.config.model)
    ref = script.over_rollout(script.completion_logprobs, reference, rollout, run.config)
    return rollout, (rollout.logprobs - ref) * rollout.mask


def test_rloo_puts_the_kl_of_the_completion_into_its_reward(finished):
    """A last column, positive where the policy likes a completion more than the reference did."""
    run = finished("rloo")
    for step in range(STEPS):
        (rewards, _), advantages = run.calls["compute_advantages"][step]
        rollout, kl = k1_of(rloo, run, step)
        assert rewards.shape == (4, 4, 3)
        assert torch.equal(rewards[..., :2], run.calls["sample_batch"][step][1][1])
        torch.testing.assert_close(rewards[..., 2].flatten(), kl.sum(1), atol=1e-4, rtol=1e-4)
        assert (kl.abs().max() > 0.01) == (step > 0)  # at first the policy is the reference
        assert advantages.shape == (4, 4) and rollout.mask.shape[0] == 16


def test_reinforce_pp_puts_the_kl_of_each_token_into_its_reward(finished):
    run = finished("reinforce_pp")
    for step in range(STEPS):
        (_, token_kl, mask, _), advantages = run.calls["compute_advantages"][step]
        rollout, kl = k1_of(reinforce_pp, run, step)
        torch.testing.assert_close(token_kl, kl, atol=1e-4, rtol=1e-4)
        assert torch.equal(mask, rollout.mask) and advantages.shape == mask.shape
        assert (kl.abs().max() > 0.01) == (step > 0)


def test_spo_expects_what_it_knew_before_the_visit(finished):
    """The baseline of a step is the tracker's value before that step's update."""
    run = finished("spo")
    for (arguments, _), update in zip(
        run.calls["compute_advantages"], run.calls["update"], strict=True
    ):
        torch.testing.assert_close(arguments[1][:, 0], update.before)
        assert (update.before != update.after).all()


def test_spo_remembers_log_probs_of_after_the_update(finished):
    """Those of the policy that the step ends with, not of the one that sampled."""
    run = finished("spo")
    model, _ = common.load_model(str(run.folder / "checkpoint"))
    _, (rollout, _) = run.calls["sample_batch"][-1]
    stored = torch.load(run.folder / "checkpoint/tracker.pt", weights_only=True)
    now = spo.over_rollout(spo.completion_logprobs, model, rollout, run.config)
    torch.testing.assert_close(stored["logprobs"][rollout.drawn], now, atol=1e-5, rtol=1e-5)
    assert torch.equal(stored["completion_ids"][rollout.drawn], rollout.completion_ids)
    assert torch.equal(stored["mask"][rollout.drawn], rollout.mask)
    assert (now - rollout.logprobs).abs().max() > 0.01
    assert any(row["tracker_moved"] > 0 for row in run.rows[1:])  # some came back
    assert run.rows[0]["tracker_moved"] == 0


def test_spo_visits_the_problems_that_it_drew(finished):
    """Each under its own number, none held out; nothing of the tracker is trained."""
    run = finished("spo")
    for arguments, (rollout, _) in run.calls["sample_batch"]:
        tracker, places = arguments[2], rollout.drawn.tolist()
        assert rollout.problems == [tracker.problems[place] for place in places]
        assert len(set(places)) == len(places) == 4
        assert len(set(tracker.problems)) == 6 and not any(map(is_held_out, tracker.problems))
        assert not list(tracker.parameters())


def test_spo_counts_its_offline_completions_once(finished):
    """pool_size * offline_completions in step 1's totals, with their tokens, and only there."""
    run = finished("spo")
    visits = [len(rollout.mask) for _, (rollout, _) in run.calls["sample_batch"]]
    tokens = [int(rollout.mask.sum()) for _, (rollout, _) in run.calls["sample_batch"]]
    sampled = [row["completions_sampled"] for row in run.rows]
    assert visits == [4] * STEPS and sampled == [4 + 6 * 2, 4, 4]
    first, *others = [row["tokens_sampled"] for row in run.rows]
    assert others == tokens[1:] and 12 <= first - tokens[0] <= 12 * 12
    assert run.rows[-1]["tokens_total"] == first + sum(others)


@pytest.mark.parametrize("name", ["ppo", "vapo"])
def test_the_critic_learns_the_returns_at_its_own_rate(name, finished):
    run = finished(name)
    pairs = zip(run.calls["update_critic"], run.calls["compute_advantages"], strict=True)
    for ((critic, optimizer, rollout, returns, config), _), (_, (_, expected)) in pairs:
        assert returns is expected and rollout.values.shape == returns.shape
        assert optimizer.param_groups[0]["lr"] == config.critic_learning_rate
        assert {*optimizer.param_groups[0]["params"]} == {*critic.parameters()}


def test_vapo_trains_its_critic_first_and_counts_that_in_step_1(finished):
    """On two rollouts of steps that no training has, before the first advantages of the policy."""
    run = finished("vapo")
    drawn = [(arguments[-1], rollout) for arguments, (rollout, _) in run.calls["sample_batch"]]
    assert [step for step, _ in drawn] == [1, 0, -1, 2, 3]
    tokens = [int(rollout.mask.sum()) for _, rollout in drawn]
    assert [row["tokens_sampled"] for row in run.rows] == [sum(tokens[:3]), *tokens[3:]]
    assert [row["completions_sampled"] for row in run.rows] == [3 * 16, 16, 16]
    assert run.calls["update_critic"][0][0][2] is drawn[1][1]


def test_prime_scores_a_rollout_before_it_sees_its_outcomes(finished):
    """Advantages and reward_auc are of the scores before, reward_auc_seen of those after."""
    run = finished("prime")
    step = ["process_rewards", "update_reward_model", "process_rewards", "compute_advantages"]
    assert [name for name in run.calls["order"] if name in step] == step * STEPS
    scored = [process for _, process in run.calls["process_rewards"]]
    for index, row in enumerate(run.rows):
        before, after = scored[2 * index : 2 * index + 2]
        (_, process, *_), _ = run.calls["compute_advantages"][index]
        (_, optimizer, rollout, config), _ = run.calls["update_reward_model"][index]
        assert process is before and not torch.equal(before, after)
        assert before.any() == (index > 0)  # at first the reward model is the reference
        assert row["reward_auc"] == measures.auc(before.sum(1), rollout.correct)
        assert row["reward_auc_seen"] == measures.auc(after.sum(1), rollout.correct)
        assert optimizer.param_groups[0]["lr"] == config.reward_learning_rate


# ---- The ladder on a real model -----------------------------------------------------------------


def first_gradient(script, rollout, rewards, model_folder):
    """That of update_policy, one update per rollout and no KL, as one vector."""
    model, seen = common.load_model(model_folder)[0], []

    class Look(torch.optim.SGD):
        def step(self):
            seen.extend(p.grad.flatten().clone() for p in self.param_groups[0]["params"])

    options = {"group_size": 4, "max_new_tokens": 12, "minibatches": 1, "max_grad_norm": 1e9}
    config = script.Config(**options, tokens_per_microbatch=100)
    if hasattr(config, "kl_coef"):
        config = replace(config, kl_coef=0.0)
    if script is rloo:
        rewards = torch.cat([rewards, torch.zeros_like(rewards[..., :1])], -1)
    advantages = script.compute_advantages(rewards, config)
    script.update_policy(model, Look(model.parameters(), lr=0.0), rollout, advantages, config)
    return torch.cat(seen)


def test_first_updates_of_neighbours_are_parallel(llama_folder):
    """RLOO's gradient is Dr. GRPO's times G / (G - 1) and the budget; GMPO's and TTRL's, GRPO's."""
    model, tokenizer = common.load_model(llama_folder)
    config = grpo.Config(group_size=4, max_new_tokens=12)
    stream = torch.Generator().manual_seed(0)
    rollout = grpo.sample_groups(model, tokenizer, PROBLEMS[:3], config, stream)
    rollout.mask *= torch.arange(12) < torch.arange(1, 13)[:, None]  # ragged
    rollout.logprobs *= rollout.mask
    rollout.ref_logprobs = rollout.logprobs
    rewards = torch.rand(3, 4, 2, generator=stream)
    found = {
        script: first_gradient(script, rollout, rewards, llama_folder)
        for script in (grpo, dr_grpo, rloo, gmpo, ttrl)
    }
    pairs = [(rloo, dr_grpo, 4 / 3 * 12), (gmpo, grpo, 1.0), (ttrl, grpo, 1.0)]
    for one, two, factor in pairs:
        expected = factor * found[two]
        assert (found[one] - expected).norm() < 1e-4 * expected.norm(), one.__name__
    rloos, hubs = found[rloo], found[grpo]
    assert torch.cosine_similarity(rloos, hubs, dim=0) < 0.99  # 1/|o| and the std part them


# ---- What the scripts refuse --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("spo", "--group_size 4", "--group_size 4: choose from 1"),
        ("spo", "--pool_size 8", "--prompts_per_step 256: at most --pool_size 8"),
        ("spo", "--rho_min 1", "--rho_min 1.0: at most --rho_max 0.96"),
        ("spo", "--rho_max 1", "--rho_max 1.0: a number less than 1"),
        ("spo", "--reward_weights 2", "--reward_weights 2.0: choose from 1"),
        ("spo", "--half_life 0", "--half_life 0.0: a number greater than 0"),
        ("spo", "--reward_components format", "--reward_components format: choose from answer"),
        ("spo", "--max_target 11 --max_number 5", "--pool_size 512: only"),
        ("rloo", "--group_size 1", "--group_size 1: at least 2"),
        ("gmpo", "--clip_low -1", "--clip_low -1.0: at least 0"),
        ("reinforce_pp", "--minibatches 3", "--minibatches 3: must divide"),
        ("reinforce_pp_baseline", "--group_size 1", "--group_size 1: at least 2"),
        ("ttrl", "--group_size 1", "--group_size 1: at least 2"),
    ],
)
def test_bad_options_are_one_clear_line(name, words, message, monkeypatch, tmp_path, llama_folder):
    folder = tmp_path / "run"
    words = [f"{name}.py", *words.split(), "--output_dir", str(folder), "--model", llama_folder]
    monkeypatch.setattr(sys, "argv", [*words, "--eval_problems", "1"])
    script = module_of(name)
    with pytest.raises(SystemExit) as refusal:
        session.launch(script.train, script.Config, script.__doc__)
    line = refusal.value.code
    assert isinstance(line, str) and "\n" not in line and line.startswith(f"{name}.py: ")
    assert message in line and not folder.exists()

"""zoo/gigpo.py and its calculator: who wrote what, what is trained, and what a turn is worth."""

import importlib.util
import inspect
import json
import os
import random
import re
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

from runtime import engine

import numpy as np
import pytest
import torch

import common
import grpo
from countdown_task import Problem
from experiments import turns
from tools import play
from zoo import calculator, gigpo
from zoo.calculator import Calculator, numbers_left, reply

P = Problem((9, 12, 3), 16)

# ---- The environment ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "answer", "left"),
    [
        ("12-9=", "3: ", (3, 3)),
        ("12 - 9 = ", "3: ", (3, 3)),
        ("12-9=3: 3*3=", "9 vs 16 no, ", (3, 3)),  # tried, not made: both numbers stay
        ("12-9=3: 3*3=9 vs 16 no, 3+3=", "6 vs 16 no, ", (3, 3)),
        ("12-9=3: 3*3=9 vs 16 no, \nwait 12+9=", "21: ", (3, 21)),  # all numbers again
        ("12/3=4: 4*9=", "36 vs 16 no, ", (4, 9)),
        ("", "", (3, 9, 12)),
        ("12-9", "", (3, 9, 12)),
        ("12-9=3", "", (3, 3)),  # the model answered itself
        ("12-8=", " no, ", (3, 9, 12)),  # 8 is not there
        ("12-9=3: 12+3=", " no, ", (3, 3)),  # 12 is used up
        ("3-3=", " no, ", (3, 9, 12)),  # one 3 only
        ("9-12=", " no, ", (3, 9, 12)),  # below 0
        ("12/9=", " no, ", (3, 9, 12)),  # not whole
        ("9/0=", " no, ", (3, 9, 12)),
        ("12-9=3: </think>\n<answer>12-9=", "", (3, 3)),  # nothing is said after the thought
        ("999999999999*9=", " no, ", (3, 9, 12)),
    ],
)
def test_replies_by_hand(completion, answer, left):
    assert reply(completion, P) == answer
    assert numbers_left(completion, P) == left


def test_a_hit_says_yes_and_only_a_legal_one():
    """The verdict is about the value; with numbers that are not there it is no."""
    assert reply("12-3=9: 9+9=", Problem((9, 12, 3), 18)) == "18 vs 18 yes"
    assert reply("20-2=", Problem((9, 12, 3), 18)) == " no, "
    assert reply("9+9=", Problem((9, 12, 3), 18)) == " no, "


def test_four_numbers_take_two_steps_before_a_verdict():
    problem = Problem((2, 3, 4, 5), 14)
    assert reply("2+3=", problem) == "5: " and numbers_left("2+3=5: ", problem) == (4, 5, 5)
    assert reply("2+3=5: 5+4=", problem) == "9: "
    assert reply("2+3=5: 5+4=9: 9+5=", problem) == "14 vs 14 yes"


def test_the_tool_is_total_and_exact():
    """Mutated searches: a reply of one of four forms, and values that exact arithmetic gives."""
    rng = random.Random(0)
    whole = "12-9=3: 3+3=6 vs 16 no, \nwait 12+9=21: 21-3=18 vs 16 no, </think>\n<answer>12+9-3"
    forms = re.compile(r"|\d+: | no, |(\d+) vs 16 (yes|no, )")
    for _ in range(10_000):
        text = list(whole[: rng.randrange(len(whole) + 1)])
        for _ in range(rng.randrange(4)):
            text.insert(rng.randrange(len(text) + 1), rng.choice("0123456789+-*/=: \nwait<>é٣"))
        text = "".join(text)
        answer = reply(text, P)
        assert forms.fullmatch(answer), (text, answer)
        found = re.search(r"(\d+)\s*([-+*/])\s*(\d+)\s*=\s*$", text)
        if answer and answer != calculator.ILLEGAL:
            a, symbol, b = int(found[1]), found[2], int(found[3])
            value = {"+": a + b, "-": a - b, "*": a * b}.get(symbol)
            value = Fraction(a, b) if symbol == "/" else value
            assert int(re.match(r"\d+", answer)[0]) == value >= 0


# ---- The sampler --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base():
    return common.load_model("base_model")


@pytest.fixture(scope="module")
def sampled(base):
    config = gigpo.Config(group_size=8, max_new_tokens=96)
    problems = [P, Problem((2, 7, 5), 19), Problem((3, 3, 8), 24)]
    rollout = gigpo.sample_groups(*base, problems, config, common.torch_stream("turns"))
    return rollout, config


def tools_tokens(rollout, row, tokenizer):
    """Places of the tool's tokens of a row, found by asking the tool again."""
    ids = rollout.completion_ids[row].tolist()
    last = engine.trained_lengths(rollout.mask)[row]
    tools = set()
    at = 0
    while at < last:
        words = reply(tokenizer.decode(ids[: at + 1]), rollout.problems[row])
        if words and at not in tools and "=" in tokenizer.decode([ids[at]]):
            n = len(tokenizer.encode(words, add_special_tokens=False))
            tools |= set(range(at + 1, at + 1 + n))
            at += n
        at += 1
    return {t for t in tools if t < last}


def test_no_token_of_the_tool_is_the_models(sampled, base):
    """The mask is 0 on every reply, 1 on all else up to EOS; and replies are the tool's."""
    rollout, _ = sampled
    seen = 0
    for row, last in enumerate(engine.trained_lengths(rollout.mask)):
        tools = tools_tokens(rollout, row, base[1])
        zeros = {t for t in range(last) if rollout.mask[row, t] == 0}
        assert zeros == tools, rollout.completions[row]
        assert not rollout.mask[row, last:].any()
        seen += len(tools)
        assert not rollout.entropy[row][rollout.mask[row] == 0].any()
    assert seen > 200
    assert rollout.tokens_sampled == int(rollout.mask.sum())


def test_what_is_read_is_what_was_sampled(sampled, base):
    """Log-probs of the model's tokens are those of one plain forward over all that was read."""
    rollout, config = sampled
    model, tokenizer = base
    ours = gigpo.completion_logprobs(model, rollout, [3, 0, 11, 17], config)
    for place, row in enumerate([3, 0, 11, 17]):
        last = engine.trained_lengths(rollout.mask)[row]
        ids = rollout.completion_ids[row, :last].tolist()
        ended = ids[-1] == tokenizer.eos_token_id
        assert rollout.completions[row] == tokenizer.decode(ids[:-1] if ended else ids)
        plainly = engine.logprobs_plainly(model, rollout.prompts[row], ids, config.temperature)
        mask = rollout.mask[row, :last]
        torch.testing.assert_close(ours[place, :last], plainly * mask, atol=1e-4, rtol=1e-4)
        sampled_logprobs = rollout.logprobs[row, :last]
        torch.testing.assert_close(sampled_logprobs, plainly * mask, atol=1e-4, rtol=1e-4)
        assert not ours[place, last:].any()


def test_the_tool_carries_no_gradient_and_enters_no_denominator(sampled, base):
    """Other words of the tool, as trained tokens, would change the loss: here they cannot."""
    rollout, config = sampled
    rows = list(range(8))
    mask = rollout.mask[rows]
    logprobs = (rollout.logprobs[rows] - 0.1 * torch.rand(mask.shape)).requires_grad_()
    A = torch.randn(8, 1).expand_as(mask)
    token_loss, _ = gigpo.policy_loss(
        logprobs, rollout.logprobs[rows], rollout.logprobs[rows], A, mask, config
    )
    loss = gigpo.aggregate_loss(token_loss, mask, 8, mask.sum(), config)
    loss.backward()
    assert not logprobs.grad[mask == 0].any() and logprobs.grad[mask == 1].any()
    by_hand = torch.stack([token_loss[row][mask[row] > 0].mean() for row in rows]).mean()
    torch.testing.assert_close(loss, by_hand)


def test_turns_and_states(sampled, base):
    """A turn begins behind every reply; its state is what the text up to there leaves."""
    rollout, _ = sampled
    for row, last in enumerate(engine.trained_lengths(rollout.mask)):
        states, turns = rollout.states[row], rollout.turns[row, :last]
        assert turns[0] == 0 and states[0] == tuple(sorted(rollout.problems[row].numbers))
        assert len(states) > turns.max()
        for turn in range(int(turns.max()) + 1):
            first = int((turns == turn).nonzero()[0])
            text = base[1].decode(rollout.completion_ids[row, :first])
            assert states[turn] == numbers_left(text, rollout.problems[row])


def test_a_budget_can_end_within_a_reply(base):
    """Cut there, the completion keeps the tool's half sentence out of the mask."""
    config = gigpo.Config(group_size=16, max_new_tokens=5)  # 12 - 9 = 3 |:
    rollout = gigpo.sample_groups(*base, [P], config, common.torch_stream("cut"))
    assert rollout.truncated.all()
    assert rollout.mask[:, 4].eq(0).any() and rollout.mask[:, 3].eq(1).all()


def test_a_turn_without_a_token_is_no_turn(base):
    """Rewards 1 0 0, all from s0 to s1; the third is cut within the tool's reply.

    In s1 a winner and a loser are compared: +-1/sqrt 2. With the third, whose turn there has not
    begun, it was 1.1545 and -.5773.
    """
    tokenizer = base[1]
    call = tokenizer.encode("12-9=", add_special_tokens=False)
    answer = tokenizer.encode("3: ", add_special_tokens=False)
    config = gigpo.Config(group_size=3)
    for missing in range(3):
        T = len(call) + len(answer) + 1 - missing  # a place behind the reply, none, not even all
        ids = torch.tensor([(call + [0] * (len(answer) + 1))[:T]])
        tool = Calculator(tokenizer, [P], ids)
        for t in range(len(call)):
            tool.listen(torch.tensor([0]), t)
        whole = [(3, 9, 12), (3, 3)]
        assert tool.states[0] == whole[: 1 if missing else 2]
        assert len(tool.states[0]) == tool.turns().max() + 1
        S = gigpo.turn_advantages(
            torch.tensor([[1.0, 0.0, 0.0]]), [whole, whole, tool.states[0]], config
        )
        right = [2**-0.5, -(2**-0.5)] if missing else [1.1545, -0.5773]
        assert S[:2, 1].tolist() == pytest.approx(right, abs=3e-4)


def test_every_turn_has_a_token(sampled):
    """No state without a token that was sampled from it."""
    rollout, _ = sampled
    own = [
        sorted(set(turns[mask > 0].tolist()))
        for turns, mask in zip(rollout.turns, rollout.mask, strict=True)
    ]
    assert own == [list(range(len(states))) for states in rollout.states]


def test_the_tool_does_not_hear_what_follows_the_end(base, monkeypatch):
    """One of 16 ends at once and is still sampled from; its call is no turn."""
    model, tokenizer = base
    call = tokenizer.encode("12-9=", add_special_tokens=False)
    T = len(call) + 4  # there is room for the reply
    row = [tokenizer.eos_token_id, *call, *call[:3]]
    sampled = iter(torch.tensor([row, *[call[:1] * T] * 15]).T)
    monkeypatch.setattr(gigpo, "sample_tokens", lambda logp, uniform: next(sampled)[:, None])
    config = gigpo.Config(max_new_tokens=T)
    prompts = common.encode_prompts(model, tokenizer, [P], config) * 16
    stream = torch.Generator().manual_seed(0)
    _, mask, *_, tool = gigpo.generate(model, tokenizer, [P] * 16, prompts, config, stream)
    assert mask[0].sum() == 1 and tool.states[0] == [(3, 9, 12)] and (tool.written[0] < 0).all()


def test_any_tokenizer_will_do(qwen_folder):
    """With another vocabulary: ids are kept as sampled, only the tool's words are encoded."""
    _, tokenizer = common.load_model(qwen_folder)
    ids = torch.zeros(1, 40, dtype=torch.long)
    call = tokenizer.encode("let me try 12-9=", add_special_tokens=False)
    ids[0, : len(call)] = torch.tensor(call)
    tool = Calculator(tokenizer, [P], ids)
    for t in range(len(call)):
        tool.listen(torch.tensor([0]), t)
    written = tool.written[0]
    words = tokenizer.encode("3: ", add_special_tokens=False)
    assert written[len(call) : len(call) + len(words)].tolist() == words
    assert (written >= 0).sum() == len(words) and tool.states[0] == [(3, 9, 12), (3, 3)]
    assert tool.turns()[0].tolist() == [0] * (len(call) + len(words)) + [1] * (
        40 - len(call) - len(words)
    )


# ---- Advantages ---------------------------------------------------------------------------------


def test_advantages_by_hand():
    """One wins: both parts are 1/sqrt 2 in every state, whatever gamma: each has its own std."""
    config = gigpo.Config(group_size=2)
    states = [[(1, 2, 3), (3, 3)]] * 2
    turns = torch.tensor([[0, 1], [0, 1]])
    rewards = torch.tensor([1.0, 0.0]).view(1, 2, 1)
    won, lost = gigpo.compute_advantages(rewards, turns, states, config).tolist()
    half = 2**-0.5
    assert won == pytest.approx([2 * half, 2 * half], abs=1e-3)
    assert lost == pytest.approx([-2 * half, -2 * half], abs=1e-3)


def test_all_right_groups_keep_a_signal():
    """Both win, after 2 and 4 turns: at the start the shorter is better; A_E is 0."""
    config = gigpo.Config(group_size=2)
    states = [[(1, 2, 3), (3, 3)], [(1, 2, 3), (3, 3), (3, 3), (3, 3)]]
    turns = torch.tensor([[0, 1, 1, 1], [0, 1, 2, 3]])
    rewards = torch.ones(1, 2, 1)
    A = gigpo.compute_advantages(rewards, turns, states, config)
    assert A[:, 0].tolist() == pytest.approx([2**-0.5, -(2**-0.5)], abs=1e-2)
    assert not gigpo.compute_advantages(
        rewards, turns, states, replace(config, step_coef=0.0)
    ).any()


def test_a_lone_turn_and_equal_returns_have_no_step_advantage():
    pooled = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    config = gigpo.Config(group_size=4, gamma=1.0)
    states = [[(1, 2)], [(1, 2)], [(3, 4)], [(5, 6), (7, 8)]]
    S = gigpo.turn_advantages(pooled, states, config)
    assert S.shape == (4, 2) and S[0, 0] == -S[1, 0] > 0
    assert not S[2:].any()


def test_states_of_other_groups_are_other_states():
    """Two problems whose numbers are the same do not share a step group."""
    pooled = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    S = gigpo.turn_advantages(pooled, [[(1, 2)]] * 4, gigpo.Config(group_size=2))
    assert not S.any()


@pytest.mark.parametrize("omega", [0.0, 0.5, 1.0])
def test_a_single_turn_is_grpo_times_one_plus_omega(omega):
    """The prompt is the only state and the group its step group: A = (1 + omega) A_E."""
    torch.manual_seed(0)
    rewards = torch.rand(3, 4, 1)
    config = gigpo.Config(group_size=4, step_coef=omega)
    numbers = [[(p, p + 1)] for p in range(3) for _ in range(4)]
    turns = torch.zeros(12, 5, dtype=torch.long)
    ours = gigpo.compute_advantages(rewards, turns, numbers, config)
    hub = grpo.compute_advantages(
        rewards, grpo.Config(reward_components=["answer"], reward_weights=[1.0])
    )
    torch.testing.assert_close(ours, (1 + omega) * hub.view(-1, 1).expand(12, 5))


def test_without_omega_the_turns_do_not_matter():
    """grpo.py's own advantage on the same trajectories: the neighbour to compare with."""
    torch.manual_seed(0)
    rewards = torch.rand(2, 4, 1)
    states = [[(1, 2, 3), (3, 3), (1, 5)][: 1 + row % 3] for row in range(8)]
    turns = torch.tensor([[min(t, row % 3) for t in range(6)] for row in range(8)])
    config = gigpo.Config(group_size=4, step_coef=0.0)
    hub = grpo.compute_advantages(
        rewards, grpo.Config(reward_components=["answer"], reward_weights=[1.0])
    )
    ours = gigpo.compute_advantages(rewards, turns, states, config)
    torch.testing.assert_close(ours, hub.view(-1, 1).expand(8, 6))


def test_the_game_of_the_page_trains(llama_folder, tmp_path, monkeypatch):
    """docs/lab/turns.md's environment as printed: its replies and states, and two steps with it."""
    page = (common.HERE / "docs/lab/turns.md").read_text(encoding="utf-8")
    scope = {}
    exec(re.search(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1], scope)
    problem = Problem((16, 1), 11)
    game = scope["Guess"](common.load_model("base_model")[1], [problem], torch.zeros(1, 4).long())
    for text, answer, left in (
        ("8=", "more", (9, 16)),
        ("8=more 12=", "less", (9, 11)),
        ("8=more 12=less 11=", "yes", (9, 11)),
        ("8=more 12", "", (9, 16)),
        ("", "", (1, 16)),
    ):
        assert (game.reply(text, problem), game.state(text, problem)) == (answer, left)
    monkeypatch.setattr(gigpo, "Calculator", scope["Guess"])
    folder = tmp_path / "run"
    options = {"steps": 2, "prompts_per_step": 4, "group_size": 4, "max_new_tokens": 24}
    options |= {"eval_problems": 2, "model": llama_folder, "output_dir": str(folder)}
    gigpo.train(gigpo.Config(**options, reward_components=["brevity"]))
    assert len((folder / "metrics.jsonl").read_text().splitlines()) >= 3


def test_play_shows_who_wrote_what(monkeypatch, capsys):
    """Every reply in brackets is what the calculator says to the text before it."""
    options = ["--target", "33", "--turns", "--samples", "4"]
    monkeypatch.setattr(sys, "argv", ["play", "3", "7", "12", *options])
    play.main()
    shown = capsys.readouterr().out
    first = re.findall(r"^  3 7 12 +[+-][\d.]+ +(\S+=) \[(.+)\]", shown, re.MULTILINE)
    assert shown.count("advantage of the trajectory") == 4 and len(first) >= 4
    assert all(reply(call, Problem((3, 7, 12), 33)).strip() == said for call, said in first)


def test_play_compares_two_trajectories_at_least(monkeypatch, capsys):
    options = ["--target", "33", "--turns", "--samples", "1"]
    monkeypatch.setattr(sys, "argv", ["play", "3", "7", "12", *options])
    with pytest.raises(SystemExit):
        play.main()
    assert "--turns compares trajectories: give --samples 2" in capsys.readouterr().err


def test_the_tree_is_drawn_from_what_its_group_earned():
    """experiments/turns.json: the advantages are those of the states and rewards it names."""
    group = json.loads(turns.RESULT.read_text(encoding="utf-8"))
    trajectories = group["trajectories"]
    right = [float(trajectory["right"]) for trajectory in trajectories]
    assert 0.25 <= np.mean(right) <= 0.5
    states = [[tuple(turn["state"]) for turn in one["turns"]] for one in trajectories]
    assert all(first == tuple(sorted(group["numbers"])) for first, *_ in states)
    S = gigpo.turn_advantages(torch.tensor([right]), states, gigpo.Config())
    for row, one in enumerate(trajectories):
        drawn = [turn["S"] for turn in one["turns"]]
        assert drawn == pytest.approx(S[row, : len(drawn)].tolist(), abs=1e-3)


# ---- The authors' own function ------------------------------------------------------------------


@pytest.fixture(scope="module")
def authors():
    """gigpo/core_gigpo.py of a clone of verl-agent, which is on no package index."""
    file = Path(os.environ.get("VERL_AGENT", "verl-agent")) / "gigpo/core_gigpo.py"
    if not file.is_file():
        pytest.skip("VERL_AGENT names no clone of github.com/langfengQ/verl-agent")
    before = sys.modules.get("verl")
    sys.modules["verl"] = SimpleNamespace(DataProto=object)  # for its type hints
    try:
        spec = importlib.util.spec_from_file_location("core_gigpo", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.modules.pop("verl")
        if before:
            sys.modules["verl"] = before
    return module


def per_trajectory(authors):
    """What takes mean and std over trajectories; for two days of June 2025 nothing else was there.

    By default they are taken over turns, of which a trajectory may have many.
    """
    parameters = inspect.signature(authors.episode_norm_reward).parameters
    switch = "compute_mean_std_cross_steps"
    return {switch: False} if switch in parameters else {}


def test_by_default_the_authors_weigh_trajectories_by_their_turns(authors):
    """A winner of one turn, a loser of three: 1.5 and -.5 there; ours, the paper's, are +-.707."""
    if not per_trajectory(authors):
        pytest.skip("this version has no such switch")
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0])
    trajectories = np.array([0, 1, 1, 1])
    theirs = authors.episode_norm_reward(
        rewards.view(-1, 1), torch.ones(4, 1), np.zeros(4), trajectories, 1e-4, False
    )
    assert theirs[:, 0].tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-3)
    config = gigpo.Config(group_size=2, step_coef=0.0)
    turns = torch.tensor([[0, 0, 0], [0, 1, 2]])
    states = [[(1, 2)], [(1, 2), (3,), (4,)]]
    ours = gigpo.compute_advantages(torch.tensor([[[1.0], [0.0]]]), turns, states, config)
    assert ours[:, 0].tolist() == pytest.approx([2**-0.5, -(2**-0.5)], abs=1e-3)


@pytest.mark.parametrize("omega", [0.0, 0.5, 1.0])
def test_advantages_are_the_authors(authors, omega):
    """Twelve random trajectories of two problems; a row of theirs is a turn of ours."""
    rng = random.Random(0)
    config = gigpo.Config(group_size=6, step_coef=omega)
    rewards = torch.tensor([float(rng.random() < 0.4) for _ in range(12)]).view(2, 6, 1)
    lengths = [rng.randint(1, 5) for _ in range(12)]
    states = [[(1, 2, 3), *((rng.randint(4, 6),) for _ in range(n - 1))] for n in lengths]
    turns = torch.tensor([[min(t, n - 1) for t in range(5)] for n in lengths])
    ours = gigpo.compute_advantages(rewards, turns, states, config)

    places = [(row, turn) for row, n in enumerate(lengths) for turn in range(n)]
    R = torch.tensor([rewards.flatten()[row] for row, _ in places])
    later = torch.tensor([lengths[row] - 1 - turn for row, turn in places])
    problems = np.array([row // 6 for row, _ in places])
    anchors = np.empty(len(places), dtype=object)
    anchors[:] = [states[row][turn] for row, turn in places]
    mask = torch.ones(len(places), 1)
    trajectories = np.array([row for row, _ in places])
    theirs = authors.episode_norm_reward(
        R.view(-1, 1), mask, problems, trajectories, 1e-4, False, **per_trajectory(authors)
    )
    groups = authors.build_step_group(anchors, problems)
    returns = config.gamma**later * R
    theirs = theirs + omega * authors.step_norm_reward(returns, mask, groups, 1e-4, False)
    torch.testing.assert_close(torch.stack([ours[row, turn] for row, turn in places]), theirs[:, 0])

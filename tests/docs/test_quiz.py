"""The quiz: its form, and what each right answer rests on, computed by the scripts themselves."""

import re

import pytest
import torch

import cispo
import dapo
import dr_grpo
import gdpo
import grpo
import gspo
from common import HERE
from compose.reader import AXES, source_of
from zoo import rloo, tis

QUIZ = (HERE / "docs/class/quiz.md").read_text(encoding="utf-8")
RESULTS = (HERE / "experiments/results.md").read_text(encoding="utf-8")
QUESTIONS = re.split(r"^## ", QUIZ, flags=re.MULTILINE)[1:]
CHOICE = re.compile(r"^- \*\*([A-D])\*\* (.+)$", re.MULTILINE)


def parts(question):
    """(what is asked with its choices, the right letter, why, why not the others)."""
    asked, answer = question.split("<details><summary>Answer</summary>\n\n")
    answer, _, _ = answer.partition("\n</details>")  # below the last one: what to run next
    found = re.fullmatch(r"\*\*([A-D])\.\*\* (.+?)\n\n(?=- |<!--)(.*)", answer, re.S)
    return asked, found[1], found[2], found[3]


def right(number):
    """The text of a question's right answer."""
    asked, letter, _, _ = parts(QUESTIONS[number - 1])
    return dict(CHOICE.findall(asked))[letter]


def gradient(script, logprobs, old, advantages):
    """d loss / d log-probs of completions (B, T) of equal length, through loss and aggregation."""
    logprobs = logprobs.clone().requires_grad_()
    mask = torch.ones_like(logprobs)
    reference = [logprobs.detach()] if "ref_logprobs" in source_of(script.__name__) else []
    loss, metrics = script.policy_loss(logprobs, old, *reference, advantages, mask, script.Config())
    script.aggregate_loss(loss, mask, *mask.shape, script.Config()).backward()
    return logprobs.grad, metrics


def advantages(script, groups, weights=(1.0,)):
    return script.compute_advantages(torch.tensor(groups), script.Config(reward_weights=weights))


def test_its_form():
    """Ten questions of four choices; each wrong one is answered; letters are spread."""
    assert [question.partition(".")[0] for question in QUESTIONS] == [str(n) for n in range(1, 11)]
    letters = []
    for question in QUESTIONS:
        asked, letter, why, others = parts(question)
        assert [choice for choice, _ in CHOICE.findall(asked)] == list("ABCD")
        wrong = [choice for choice, _ in CHOICE.findall(others)]
        assert wrong == sorted(set("ABCD") - {letter}) and len(why) > 100
        letters.append(letter)
    assert all(2 <= letters.count(letter) <= 3 for letter in "ABCD")


def test_its_rows_are_measured():
    """Each comment quotes the beginning of a row of results.md, as it stands."""
    rows = re.findall(r"<!-- results.md: (.+) -->", QUIZ)
    assert len(rows) >= 9
    assert [row for row in rows if f"| {row} |" not in RESULTS] == []


def test_1_one_ratio_or_many():
    old = torch.full((1, 100), -1.0)
    stopped = []
    for script in (grpo, gspo, rloo):
        _, metrics = gradient(script, old + torch.tensor(1.01).log(), old, torch.ones(1, 1))
        stopped += [script.__name__] if metrics["clipped_high"].any() else []
    assert stopped == ["gspo", "zoo.rloo"] and right(1) == "gspo.py and zoo/rloo.py."
    assert f"{1.01**100:.2f}" == "2.70"


def test_2_the_side_on_which_nothing_is_clipped():
    old = torch.full((1, 1), -2.0)
    at_two, at_one = (
        gradient(grpo, old + torch.tensor(ratio).log(), old, -torch.ones(1, 1))[0]
        for ratio in (2.0, 1.0)
    )
    assert (at_two / at_one).item() == pytest.approx(2) and at_one.item() > 0  # descent goes down
    assert right(2) == "Down, twice as hard."
    assert cispo.Config().clip_high == pytest.approx(0.28)


def test_3_no_token_left_out():
    old = torch.full((2, 400), -5.0)
    moved = old + torch.linspace(0.01, 5, 400).log()  # ratios
    moved[1] = moved[1].flip(0)
    both = torch.tensor([[1.0], [-1.0]])
    kept = [
        s.__name__ for s in (grpo, dr_grpo, dapo, cispo) if gradient(s, moved, old, both)[0].all()
    ]
    assert kept == ["cispo"] and right(3) == "cispo.py."
    up = old + torch.tensor(1.01).log()
    assert not gradient(gspo, up, old, torch.ones(2, 1))[0].any()


def test_4_a_long_wrong_answer():
    mask = (torch.arange(256) < torch.tensor([[50], [200]])).float()
    share = {}
    for script in (grpo, dapo, dr_grpo):
        loss = torch.ones_like(mask, requires_grad=True)
        script.aggregate_loss(loss, mask, 2, mask.sum(), script.Config()).backward()
        share[script.__name__] = (loss.grad[1, 0] / loss.grad[0, 0]).item()
    assert share == pytest.approx({"grpo": 0.25, "dapo": 1, "dr_grpo": 1})
    assert right(4) == "grpo.py: a quarter as hard. dapo.py and dr_grpo.py: as hard."


def test_5_one_right_of_sixteen():
    groups = [[[float(i < right_ones)] for i in range(16)] for right_ones in (1, 8)]
    for script, sums in ((grpo, [7.5, 15.49]), (dr_grpo, [1.875, 8.0])):
        found = advantages(script, groups).abs().sum(1)
        assert found.tolist() == pytest.approx(sums, rel=1e-3)
    assert advantages(grpo, groups).amax(1).tolist() == pytest.approx([3.75, 0.968], rel=1e-3)
    assert f"from {1.875 / 8:.0%} of".replace("%", " %") in right(5)
    assert f"to {7.5 / 15.49:.0%}.".replace("%", " %") in right(5)


def test_6_ten_times_the_coefficient():
    """The distance with 0.4 over that with 0.04, and what it costs: of the rows that are quoted."""
    assert round(0.0148 / 0.0342, 1) == 0.4 and "two fifths" in right(6)
    assert round(100 * (0.725 - 0.546)) == 18 and "18 points" in right(6)


def test_7_two_rewards_one_sum():
    rewards = [[[1, 1], [1, 0], [0, 1], [0, 1], [0, 1], [0, 1], [0, 0], [0, 0]]]
    rewards = [[[float(value) for value in pair] for pair in group] for group in rewards]
    assert torch.tensor(rewards).sum(1).tolist() == [[2, 5]]
    (summed,) = advantages(grpo, rewards, [1.0, 1.0])
    (decoupled,) = advantages(gdpo, rewards, [1.0, 1.0])
    assert summed[1] == summed[2] and decoupled[1] > decoupled[2] + 0.1
    assert right(7) == "gdpo.py, and the right one gets more."


def test_8_what_dynamic_sampling_buys():
    assert round(6 * (451 / 387 - 1)) == 1 and "a sixth more tokens" in right(8)
    equal = "held-out accuracy after 350 thousand tokens, static → dynamic sampling"
    (row,) = [line for line in RESULTS.splitlines() if line.startswith(f"| {equal} |")]
    assert row.endswith("same within 0.03 |")


def test_9_two_programs_one_policy():
    """zoo/tis.py weighs tokens in `train`, so its line is read and done by hand."""
    assert "torch.exp(old - mu).clamp(max=config.max_weight)" in source_of("zoo.tis")
    old, mu = torch.tensor(0.4).log(), torch.tensor(0.1).log()
    assert torch.exp(old - mu).item() == pytest.approx(4)
    assert torch.exp(old - mu).clamp(max=tis.Config().max_weight) == 2
    assert right(9) == "2: the weight is 4, but capped."


def test_10_one_update_for_each_rollout():
    old = -torch.rand(4, 10) - 0.1
    mixed = torch.tensor([[2.0], [-1.0], [0.5], [-1.5]])
    token, sequence = (gradient(script, old, old, mixed)[0] for script in (grpo, gspo))
    assert torch.allclose(token, sequence, atol=1e-7) and token.abs().min() > 0
    assert right(10) == "Nothing: the gradients are the same."


def test_every_axis_is_asked_about():
    named = [re.search(r"^\*Axis: (.+)\.\*$", question, re.M)[1] for question in QUESTIONS]
    assert {axis for name in named for axis in name.split(", ")} == set(AXES)

"""The base's recipe: what it is taught is true, and it trains, saves and loads."""

import itertools
import random
import re

import pytest
import torch

import common
from base_model import warm_start
from countdown_task import OPERATORS, CountdownTask, is_correct


@pytest.fixture(scope="module")
def taught():
    """[(problem, pieces, text)] of 400 traces."""
    rng = random.Random(0)
    problems = CountdownTask().sample(400, rng)
    traces = [(problem, warm_start.trace(problem, rng)) for problem in problems]
    return [(p, pieces, "".join(text for text, _ in pieces)) for p, pieces in traces]


def test_traces_are_true(taught):
    """Right arithmetic, right verdicts, a hit ends the search, and only a hit answers right."""
    hits = 0
    for problem, _, text in taught:
        thought, _, answer = text.partition("</think>")
        for a, symbol, b, result in re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", thought):
            assert OPERATORS[symbol](int(a), int(b)) == int(result)
        for result, target, said in re.findall(r"=(\d+) vs (\d+) (yes|no)", thought):
            assert int(target) == problem.target
            assert (said == "yes") == (int(result) == problem.target)
        assert thought.count(" yes") == thought.endswith(" yes")
        assert is_correct(f"<think>{text}", problem) == thought.endswith(" yes")
        assert re.fullmatch(r"\n<answer>[-+*/()\d]+</answer>", answer)
        hits += thought.endswith(" yes")
    assert 0.3 < hits / len(taught) < 0.9  # GIVE_UP leaves some unsolved


def test_search_goes_pair_by_pair(taught):
    """No first step twice, one pair of numbers after the other, division last on each."""
    for _, _, text in taught:
        firsts = [line.partition("=")[0] for line in text.partition("</think>")[0].split("\nwait ")]
        assert len(set(firsts)) == len(firsts)
        pairs = [frozenset(re.findall(r"\d+", first)) for first in firsts]
        blocks = [pair for i, pair in enumerate(pairs) if i == 0 or pairs[i - 1] != pair]
        assert len(blocks) == len(set(blocks))
        for first, second in itertools.pairwise(firsts):
            same = set(re.findall(r"\d+", first)) == set(re.findall(r"\d+", second))
            assert not (same and "/" in first and "/" not in second)


@pytest.mark.parametrize("retry", [warm_start.RETRY, 0.02])
def test_retrying_is_drawn_at_random(taught, retry):
    """At a retry point the label is `wait` with probability `retry`, whatever comes next."""
    tokenizer = warm_start.make_tokenizer()
    traces, labels = warm_start.Traces(tokenizer, 1, retry), []
    yes = tokenizer.convert_tokens_to_ids(" yes")
    for problem, _, _ in taught:
        ids, wanted, weights = traces.example(problem)
        assert len(ids) == len(wanted) == len(weights)
        for i, (token, label) in enumerate(zip(ids, wanted, strict=True)):
            after_hit = ids[i - 1] == yes  # there is no choice then
            if token in traces.retry_or_stop and not after_hit:
                assert label in traces.retry_or_stop
                labels.append(label == traces.retry_or_stop[0])
            else:
                assert token == label
    share = sum(labels) / len(labels)
    assert len(labels) > 500 and abs(share - retry) < 0.06


@pytest.mark.slow
def test_trains_saves_and_loads(tmp_path, monkeypatch, capsys):
    """The recipe's own command line, at three steps; nothing is overwritten unasked."""
    monkeypatch.setattr(warm_start, "quality", lambda *_: {})
    words = ["warm_start.py", "--steps", "3", "--tokens_per_batch", "512"]
    monkeypatch.setattr("sys.argv", [*words, "--output_dir", str(tmp_path / "base")])
    warm_start.main()
    model, tokenizer = common.load_model(str(tmp_path / "base"))
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert tokenizer.decode(tokenizer.encode("12-9=3: ")) == "12-9=3: "
    with pytest.raises(SystemExit):
        warm_start.main()
    assert "add --overwrite" in capsys.readouterr().err


@pytest.mark.slow
def test_goes_on_from_a_model(tmp_path, monkeypatch, capsys):
    """--start takes weights and tokenizer of another model; a habit is a share."""
    monkeypatch.setattr(warm_start, "quality", lambda *_: {})
    words = ["warm_start.py", "--steps", "1", "--tokens_per_batch", "512", "--start", "base_model"]
    words += ["--learning_rate", "1e-9", "--output_dir", str(tmp_path / "on")]
    monkeypatch.setattr("sys.argv", [*words, "--retry", "0.02"])
    warm_start.main()
    pair = (common.load_model(name)[0] for name in ("base_model", str(tmp_path / "on")))
    for a, b in zip(*(model.parameters() for model in pair), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    monkeypatch.setattr("sys.argv", [*words, "--retry", "2", "--overwrite"])
    with pytest.raises(SystemExit):
        warm_start.main()
    assert "--retry 2.0: a share from 0 to 1" in capsys.readouterr().err


def test_quality_of_a_model_that_knows_nothing():
    """Shares of nothing are 0, not an error."""
    tokenizer = warm_start.make_tokenizer()
    torch.manual_seed(0)
    model = warm_start.make_model(tokenizer)
    found = warm_start.quality(model, tokenizer, CountdownTask().held_out(2), samples=2)
    assert found["solved"] == 0 and found["verdict yes right"] == 0

"""The base's recipe: what it is taught is true, and it trains, saves and loads.

A language model's is the same search in the tokens that it has.
"""

import itertools
import json
import random
import re

from runtime.run_folder import read_jsonl

import pytest
import torch
import torch.nn.functional as F

import common
from base_model import warm_start
from base_model.warm_start import IN_PHRASES, IN_TOKENS
from countdown_task import OPERATORS, CountdownTask, is_correct
from tasks import InputError


@pytest.fixture(scope="module", params=[IN_PHRASES, IN_TOKENS], ids=["phrases", "tokens"])
def taught(request):
    """[(problem, pieces, text)] of 400 traces."""
    rng = random.Random(0)
    problems = CountdownTask().sample(400, rng)
    traces = [(problem, warm_start.trace(problem, rng, request.param)) for problem in problems]
    return [(p, pieces, "".join(text for text, _ in pieces)) for p, pieces in traces]


def command(monkeypatch, *words):
    """The command line."""
    monkeypatch.setattr("sys.argv", ["warm_start.py", *map(str, words)])
    warm_start.main()


def test_traces_are_true(taught):
    """Right arithmetic, right verdicts, a hit ends the search, and only a hit answers right."""
    hits = 0
    for problem, _, text in taught:
        thought, _, answer = text.partition("</think>")
        thought = thought.rstrip("\n")
        for a, symbol, b, result in re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", thought):
            assert OPERATORS[symbol](int(a), int(b)) == int(result)
        verdicts = re.findall(r"=(\d+)(?: vs (\d+))? (yes|no)", thought)
        assert len(verdicts) == thought.count(" yes") + thought.count(" no,")
        for result, target, said in verdicts:
            assert not target or int(target) == problem.target
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
def test_retrying_is_drawn_at_random(retry):
    """At a retry point the label is `wait` with probability `retry`, whatever comes next."""
    tokenizer = warm_start.make_tokenizer()
    traces, labels = warm_start.Traces(tokenizer, 1, retry), []
    yes = tokenizer.convert_tokens_to_ids(" yes")
    for problem in CountdownTask().sample(400, random.Random(0)):
        (ids, wanted, weights) = traces.example(problem).searches[0]
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


def test_a_language_models_examples(qwen_folder):
    """Its own template and end; a label that is not the text's stands at a retry point alone."""
    _, tokenizer = common.load_model(qwen_folder)
    traces = warm_start.Traces(tokenizer, 1, searches=3)
    choices = set(traces.retry_or_stop)
    assert [tokenizer.decode([i]) for i in traces.retry_or_stop] == ["w", "</"]  # their beginnings
    drawn = []
    for problem in CountdownTask().sample(50, random.Random(0)):
        example = traces.example(problem)
        assert tokenizer.decode(example.prompt).endswith("<|im_start|>assistant\n<think>")
        assert len(example.searches) == 3
        for ids, labels, weights in example.searches:
            text = tokenizer.decode(ids)
            assert text.endswith("</answer><|im_end|>") and text.count("<|im_end|>") == 1
            weighed = {3.0: "", 4.0: "", 1.0: ""}  # weight: the text that has it
            for place, (token, label, weight) in enumerate(zip(ids, labels, weights, strict=True)):
                weighed[weight] += tokenizer.decode([token])
                rest = tokenizer.decode(ids[place:])
                if tokenizer.decode(ids[:place]).endswith("no,\n"):
                    assert {token, label} <= choices and rest.startswith(("wait ", "</think>"))
                    drawn.append(label == traces.retry_or_stop[0])
                else:
                    assert token == label
            assert re.fullmatch(r"(\d+| no,)*", weighed[3.0])
            assert weighed[4.0] in ("", " yes")
    assert len(drawn) > 200 and abs(sum(drawn) / len(drawn) - warm_start.RETRY) < 0.08


def test_a_tokenizer_that_joins_a_retry_point_is_refused(qwen_folder, monkeypatch):
    _, tokenizer = common.load_model(qwen_folder)
    joins = dict(vars(IN_TOKENS), end_of_line=" ", wait="are")
    monkeypatch.setattr(warm_start, "IN_TOKENS", warm_start.Wording(**joins))
    with pytest.raises(InputError, match="--start: its tokenizer joins"):
        warm_start.Traces(tokenizer, 1)


def test_the_loss_is_cross_entropy_on_completions(qwen_folder):
    """Value and gradient are plain code's, though the searches of a problem share its prompt."""
    model, tokenizer = common.load_model(qwen_folder)
    traces = warm_start.Traces(tokenizer, 1, searches=2)
    batch = [traces.example(problem) for problem in CountdownTask().sample(2, random.Random(0))]
    total, weight_of_all = 0.0, 0.0
    for example in batch:
        for ids, labels, weights in example.searches:
            logits = model(torch.tensor([example.prompt + ids])).logits[
                0, len(example.prompt) - 1 :
            ]
            losses = F.cross_entropy(logits[:-1], torch.tensor(labels), reduction="none")
            total += (losses * torch.tensor(weights)).sum()
            weight_of_all += sum(weights)
    (total / weight_of_all).backward()
    expected = [parameter.grad for parameter in model.parameters()]
    model, _ = common.load_model(qwen_folder)
    loss = warm_start.loss_of(model, batch)
    loss.backward()
    torch.testing.assert_close(loss, total / weight_of_all)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("numbers", "words", "message"),
    [
        ((3, 5, 7, 12), [], "[3, 5, 7, 12]->5: a search is taught for three numbers up to 99"),
        ((3, 5), [], "[3, 5]->5: a search is taught for three numbers up to 99"),
        ((3, 5, 100), [], "[3, 5, 100]->5: a search is taught for three numbers up to 99"),
        ((3, 5, 99), ["--eval_problems", 0], "--samples and --max_new_tokens: at least 1"),
    ],
)
def test_what_cannot_be_taught_is_refused(numbers, words, message, tmp_path, monkeypatch, capsys):
    """Before anything is trained, wherever in the file it stands."""
    monkeypatch.setattr(warm_start, "train", lambda *_: pytest.fail("it trained"))
    data = tmp_path / "rows.jsonl"
    rows = [{"numbers": [1, 2, n], "target": n + 3} for n in range(1, 60)]
    rows.append({"numbers": numbers, "target": 5})
    data.write_text("\n".join(map(json.dumps, rows)))
    words = ["--data", data, "--eval_problems", 2, "--output_dir", tmp_path / "new", *words]
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, *words)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and message in said
    if numbers != (3, 5, 99):
        assert said.startswith(f"error: --data {data}: ") and said.count("\n") == 1


@pytest.mark.slow
def test_a_killed_run_goes_on(qwen_folder, tmp_path, monkeypatch, capsys):
    """To the weights and the log of an undisturbed one; with other settings it is refused."""
    monkeypatch.setattr(warm_start, "quality", lambda *_: {"solved": 0.5})
    monkeypatch.setattr(warm_start, "SAVE_EVERY", 0)
    words = ["--start", qwen_folder, "--steps", 6, "--tokens_per_batch", 900, "--searches", 2]
    words += ["--eval_every", 2, "--eval_problems", 2]
    command(monkeypatch, *words, "--output_dir", tmp_path / "whole")
    save = warm_start.save_state

    def killed(state, *rest):
        save(state, *rest)
        if state["step"] == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(warm_start, "save_state", killed)
        command(monkeypatch, *words, "--output_dir", tmp_path / "cut")
    again = ["--output_dir", tmp_path / "cut", "--resume"]
    for others, line in (
        ([*words, "--output_dir", tmp_path / "cut"], "unfinished run: add --resume"),
        ([*words, *again, "--seed", 2], "has seed 1, not 2"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            command(monkeypatch, *others)
        assert line in capsys.readouterr().err
    command(monkeypatch, *words, *again)
    pair = (common.load_model(str(tmp_path / name))[0] for name in ("whole", "cut"))
    assert all(torch.equal(*both) for both in zip(*(m.parameters() for m in pair), strict=True))
    logs = [read_jsonl(tmp_path / name / warm_start.LOG) for name in ("whole", "cut")]
    for rows in logs:
        assert [row.pop("step") for row in rows] == [2, 4, 6]
        assert all(row.pop("seconds") > 0 for row in rows)
    assert json.dumps(logs[0]) == json.dumps(logs[1])
    assert not (tmp_path / "cut" / warm_start.UNFINISHED).exists()
    with pytest.raises(SystemExit):
        command(monkeypatch, *words, *again, "--overwrite")
    assert "nothing to go on with" in capsys.readouterr().err


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

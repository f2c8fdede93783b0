"""Not to be trusted: model folders, chat templates, data files, logs, transcripts."""

import io
import json
import os
import shutil
import sys
from types import SimpleNamespace

from runtime import run_folder, session

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing

import common
import grpo
from countdown_task import CountdownTask, Problem, problems_of
from experiments import reports
from plots import side_by_side
from tasks import InputError, printable
from tasks.source import is_held_out
from tests.faults import micro
from tools import diagnose, play, tiny_runs

# The same examples every time, and no folder of found ones.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")
PROBLEMS = CountdownTask().held_out(4)
ESCAPES = "\x1b[2J\x1b]0;owned\x07<script>alert(1)</script>\r\u202e\x9b31m"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return micro.make_model(tmp_path_factory.mktemp("micro"))


@pytest.fixture
def folder(model, tmp_path):
    """A copy of a good model, to be spoilt."""
    return shutil.copytree(model, tmp_path / "model")


def change(file, **changes):
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | changes), encoding="utf-8")


def refusal(call, *arguments, **options):
    """What the user reads; never more than one line."""
    with pytest.raises(InputError) as error:
        call(*arguments, **options)
    return printable(error.value)


def train(model, output_dir, **changes):
    options = tiny_runs.options_of("grpo", model=str(model), output_dir=str(output_dir))
    grpo.train(grpo.Config(**options | changes))


# ---- Model folders ------------------------------------------------------------------------------

EVIL = """
import pathlib
pathlib.Path(__file__).with_name("ran").touch()
from transformers import LlamaConfig as Config, LlamaForCausalLM as Model
"""


@pytest.mark.parametrize("kind", ["llama", "unheard_of"])
def test_no_code_of_a_model_folder_runs(folder, kind, monkeypatch):
    """Nor is the user asked whether it may: a run has no one at the keyboard."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asks"))
    (folder / "evil.py").write_text(EVIL)
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    change(folder / "config.json", model_type=kind, auto_map=auto_map)
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]})
    if kind == "llama":  # transformers' own class is there, and taken
        common.load_model(str(folder))
    else:
        assert "--model" in refusal(common.load_model, str(folder))
    assert not list(folder.rglob("ran")) and "evil" not in sys.modules


class Pickled:
    def __reduce__(self):
        return os.mkdir, ("pickle-ran",)


def test_pickled_weights_are_refused(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Pickled()}, folder / "pytorch_model.bin")
    assert "safetensors" in refusal(common.load_model, str(folder))
    assert not (folder / "pickle-ran").exists()


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for x in range(10**9) %}x{% endfor %}", "range"),
        ("{{ messages", "unexpected end"),
    ],
)
def test_a_hostile_chat_template_is_one_line(folder, tmp_path, template, said):
    (folder / "chat_template.jinja").write_text(template)
    line = refusal(train, folder, tmp_path / "run")
    assert "chat template" in line and said in line.lower()
    assert not (tmp_path / "run").exists()


def test_weights_that_are_missing_or_not_finite(folder):
    """transformers fills in random ones for those that a file lacks."""
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    whole = dict(weights)
    del weights[name]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert name in refusal(common.load_model, str(folder))
    whole[name][0, 0] = float("nan")
    save_file(whole, folder / "model.safetensors", {"format": "pt"})
    assert "not finite" in refusal(common.load_model, str(folder))


FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


@pytest.mark.slow
@settings(max_examples=40)
@given(name=st.sampled_from(FILES), place=st.floats(0, 1), junk=st.binary(max_size=40))
def test_a_broken_model_folder_loads_or_is_refused(model, tmp_path_factory, name, place, junk):
    folder = shutil.copytree(model, tmp_path_factory.mktemp("broken") / "model")
    data = (folder / name).read_bytes()
    at = int(place * len(data))
    (folder / name).write_bytes(data[:at] + junk + data[at + len(junk) :])
    try:
        common.load_model(str(folder))
    except InputError as error:
        assert "\n" not in printable(error)
    shutil.rmtree(folder)


@pytest.mark.slow
def test_escapes_of_a_model_do_not_reach_the_terminal(folder, tmp_path, monkeypatch):
    change(folder / "config.json", model_type=ESCAPES)
    words = ["--model", str(folder), "--output_dir", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["grpo.py", *words])
    with pytest.raises(SystemExit) as refused:
        session.launch(grpo.train, grpo.Config, grpo.__doc__)
    assert r"\x1b[2J" in refused.value.code and refused.value.code.isprintable()


# ---- Prompts ------------------------------------------------------------------------------------

BOS = "<|begin|>"


def with_bos(folder, template):
    """The model's tokenizer with a BOS that it puts before every text, and after it EOS."""
    model, tokenizer = common.load_model(str(folder))
    tokenizer.add_special_tokens({"bos_token": BOS})
    ids = [(BOS, tokenizer.bos_token_id), (tokenizer.eos_token, tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A {tokenizer.eos_token}", special_tokens=ids
    )
    tokenizer.chat_template = template
    model.resize_token_embeddings(len(tokenizer))
    return model, tokenizer


CONTENT = "{{ messages[0]['content'] }}"
TEMPLATES = {
    "none": None,
    "writes BOS": "{{ bos_token }}" + CONTENT,
    "writes BOS twice": "{{ bos_token }}{{ bos_token }}" + CONTENT,
    "opens <think>": "{{ bos_token }}" + CONTENT + "<think>\n",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_bos_once_think_once_no_eos(folder, name):
    model, tokenizer = with_bos(folder, TEMPLATES[name])
    config = grpo.Config(max_new_tokens=8)
    for ids in common.encode_prompts(model, tokenizer, PROBLEMS, config):
        text = tokenizer.decode(ids)
        assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
        assert text.rstrip().endswith("<think>") and "<think><think>" not in text
        assert tokenizer.eos_token_id not in ids


def test_an_end_of_sequence_token_that_the_model_cannot_write(folder):
    """Every completion would fill its budget, and nothing would say why."""
    change(folder / "tokenizer_config.json", eos_token="<|never|>")
    change(folder / "config.json", eos_token_id=None)
    (folder / "generation_config.json").unlink()
    (folder / "chat_template.jinja").write_text(CONTENT)
    assert "no end-of-sequence token" in refusal(common.load_model, str(folder))


def test_a_tokenizer_with_more_tokens_than_the_model(folder):
    model, tokenizer = common.load_model(str(folder))
    tokenizer.chat_template = "<|extra|>" + CONTENT
    tokenizer.add_tokens(["<|extra|>"])
    config = grpo.Config(max_new_tokens=8)
    assert "more tokens" in refusal(common.encode_prompts, model, tokenizer, PROBLEMS, config)


@pytest.mark.parametrize(("context", "room"), [(12, 0), (4, 0), (13, 1)])
def test_a_context_of_exactly_the_prompt(folder, tmp_path, context, room):
    change(folder / "config.json", max_position_embeddings=context)
    line = refusal(train, folder, tmp_path / "run")
    assert f"leaves room for {room} in the model's context of {context}" in line
    assert not (tmp_path / "run").exists()


# ---- Data files ---------------------------------------------------------------------------------

HUGE = "1" + "0" * 400
ROWS = {
    "10^400": f'{{"numbers": [{HUGE}, 2], "target": 5}}',
    "a target of 10^400": f'{{"numbers": [1, 2], "target": {HUGE}}}',
    "more digits than Python reads": f'{{"numbers": [{"9" * 5000}, 2], "target": 5}}',
    "a thousand numbers": json.dumps({"numbers": [1] * 1000, "target": 5}),
    "NaN": '{"numbers": [NaN, 2], "target": 5}',
    "infinity": '{"numbers": [1, 2], "target": Infinity}',
    "a float": '{"numbers": [1.0, 2], "target": 3}',
    "nested": '{"numbers": ' + "[" * 5000 + "]" * 5000 + ', "target": 3}',
    "nested once": '{"numbers": [[1], 2], "target": 3}',
    "true": '{"numbers": [true, 2], "target": 3}',
    "a text": '{"numbers": "12", "target": 3}',
    "no dict": "[1, 2, 3]",
    "escapes": json.dumps({ESCAPES: 1}),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_hostile_row_is_named(tmp_path, name):
    path = tmp_path / "ein Pfad mit ümlaut.jsonl"
    path.write_text('{"numbers": [1, 2], "target": 3}\n' + ROWS[name], encoding="utf-8")
    line = refusal(problems_of, str(path))
    assert line.startswith("--data ") and "row 2" in line and line.isprintable()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
ROW = JSON | st.fixed_dictionaries({"numbers": JSON, "target": JSON})


@pytest.mark.slow
@settings(max_examples=150)
@given(
    rows=st.lists(ROW, max_size=3),
    junk=st.binary(max_size=5),
    name=st.sampled_from(("rows.jsonl", "rows.json", "rows.csv")),
)
def test_any_data_file_is_read_or_refused(tmp_path_factory, rows, junk, name):
    path = tmp_path_factory.mktemp("data") / name
    lines = [json.dumps(row) for row in rows]
    text = {
        "rows.jsonl": "\n".join(lines),
        "rows.json": f"[{','.join(lines)}]",
        "rows.csv": "\n".join(["numbers,target", *lines]),
    }[name]
    path.write_bytes(text.encode() + junk)
    try:
        assert all(isinstance(problem, Problem) for problem in problems_of(str(path)))
    except InputError as error:
        assert printable(error).startswith("--data ")


def data_file(tmp_path, problems):
    path = tmp_path / "rows.jsonl"
    rows = [{"numbers": problem.numbers, "target": problem.target} for problem in problems]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("held_out", [True, False])
def test_a_pool_of_one_problem(model, tmp_path, held_out):
    """It falls into one split; the other is empty, which the run says before it begins."""
    (problem,) = CountdownTask().sample(1, common.stream(0), held_out)
    line = refusal(train, model, tmp_path / "run", data=data_file(tmp_path, [problem]))
    assert "--data: no problem falls in the" in line and not (tmp_path / "run").exists()


def test_no_evaluation_problems(model, tmp_path):
    line = refusal(train, model, tmp_path / "run", eval_problems=0)
    assert line == "--eval_problems 0: at least 1" and not (tmp_path / "run").exists()


def test_a_long_prompt_for_later_is_refused_now(model, tmp_path):
    """Not in the middle of the run, where --resume would come to it again and again."""
    problems = CountdownTask().sample(20, common.stream(0)) + PROBLEMS
    long = next(
        problem
        for n in range(100)
        if not is_held_out(problem := Problem((10**60 + n, 10**60), 10**60))
    )
    data = data_file(tmp_path, [*problems, long])
    line = refusal(train, model, tmp_path / "run", data=data)
    assert "--max_new_tokens" in line and not (tmp_path / "run").exists()


# ---- Transcripts and logs -----------------------------------------------------------------------


def test_transcripts_are_shown_as_text(model, tmp_path, monkeypatch, capsys):
    """In the log, by play and in transcripts.md: no escape, no tag, no fence closed."""
    rollout = SimpleNamespace(
        completions=[ESCAPES + "\n```\n<b>"],
        mask=torch.ones(1, 3),
        problems=PROBLEMS[:1],
        correct=torch.zeros(1),
        truncated=torch.zeros(1),
        tokens_sampled=3,
    )
    monkeypatch.setattr(grpo, "sample_groups", lambda *_: rollout)
    monkeypatch.setattr(sys, "argv", ["play", "1", "2", "--target", "3", "--model", model])
    sys.argv += ["--max_new_tokens", "8"]
    play.main()
    shown = capsys.readouterr().out
    assert r"\x1b[2J" in shown and r"\u202e" in shown
    assert all(line.isprintable() for line in shown.split("\n"))

    monkeypatch.setattr(grpo, "evaluate", lambda *_: [rollout])
    train(model, tmp_path / "run", steps=0)
    assert (
        (tmp_path / "run/samples.jsonl")
        .read_bytes()
        .decode("ascii")
        .replace("\n", "")
        .isprintable()
    )
    (sample,) = run_folder.read_jsonl(tmp_path / "run/samples.jsonl")
    assert sample["completion"] == rollout.completions[0]  # nothing lost

    monkeypatch.setattr(reports, "load", lambda arm: {1: [sample]} if arm == "grpo" else {})
    page = reports.transcripts()
    assert page.count("\n````\n") >= 2 and "\x1b" not in page
    inside = page.split("\n````\n")[1]
    assert "<script>" in inside and "\n```\n<b>" in inside


@pytest.mark.slow
def test_the_page_shows_a_script_as_text(monkeypatch):
    """Not even a comment and a tag that together hide the end of the data from a browser."""
    source = side_by_side.source_of("gspo")
    hostile = source + "# <!-- <script> </script><img src=x onerror=alert(1)>\n"
    monkeypatch.setattr(side_by_side, "NAMES", ("grpo", "gspo"))
    monkeypatch.setattr(
        side_by_side, "source_of", lambda name: hostile if name == "gspo" else source
    )
    page = side_by_side.page()
    assert "onerror" in page and "<img src=x" not in page and "<!-- <script>" not in page


def log_rows(count=10, **changes):
    row = {"reward": 0.5, "accuracy": 0.5, "length": 5.0, "entropy": 0.1, "grad_norm": 1.0}
    return [{"step": step, **row, **changes} for step in range(1, count + 1)]


def diagnosed(folder, rows, monkeypatch, script="grpo"):
    """What `python -m tools.diagnose` prints of a run with these rows; it ends well or refuses."""
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.json").write_text(json.dumps({"script": script}))
    monkeypatch.setattr(sys, "argv", ["diagnose", str(folder)])
    output, errors = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "stderr", errors)
    try:
        diagnose.main()
    except SystemExit as refused:
        assert refused.code == 2 and errors.getvalue().count("\n") == 1
    text = output.getvalue() + errors.getvalue()
    assert all(line.isprintable() for line in text.split("\n"))
    return text


@pytest.mark.slow
def test_diagnose_shows_names_as_text(tmp_path, monkeypatch):
    rows = log_rows(**{f"reward_{ESCAPES}": 0.5, r"reward_$\frac{$": 0.1, "weights": [1, 2]})
    text = diagnosed(tmp_path / r"a $run$ \x", rows, monkeypatch, script=ESCAPES)
    assert r"\x1b[2J" in text and "panels: " in text


@settings(max_examples=25)
@given(changes=st.dictionaries(st.sampled_from([*log_rows(1)[0], "kl_old", "reward_x"]), JSON))
def test_diagnose_reads_any_log_or_refuses(tmp_path_factory, changes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnose, "draw", lambda *_: None)
        diagnosed(tmp_path_factory.mktemp("run"), log_rows(**changes), patch)

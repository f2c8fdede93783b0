"""Models, tokenizers and templates that people bring: the right run, or the right word."""

import asyncio
import datetime
import importlib
import importlib.util
import json
import shutil
import sys
import threading
from pathlib import Path

from runtime import check, engine, options, run_folder

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

import common
import grpo
from compose.reader import scripts
from countdown_task import CountdownTask, problems_of
from experiments import problems, trl_trainer
from tasks import source
from tests.conftest import CHAT_TEMPLATE, save_model
from tests.runtime.test_untrusted import TEMPLATES, change, refusal, train, with_bos
from tools import tiny_runs

PROBLEMS = CountdownTask().held_out(2)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
WORDS = ("</think>", "<answer>", "1", "+", "2", "</answer>", "<|end|>")


def save_writer(folder, qwen_folder, special=(), words=WORDS, **config):
    """A model that writes these words after <think>, whatever was asked, with the last one as the
    end of its turn. Its tokenizer's EOS is another token; `special` ones are special to it."""
    tokenizer = AutoTokenizer.from_pretrained(qwen_folder)
    tokenizer.chat_template = None
    tokens = [AddedToken(word, special=word in special) for word in (*TAGS, "<|end|>")]
    tokenizer.add_tokens(tokens)
    ids = tokenizer.convert_tokens_to_ids(["<think>", *words])
    size = 4 * (len(tokenizer) // 4 + 1)
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": size,
        "intermediate_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    }
    model = LlamaForCausalLM(LlamaConfig(**settings | config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # no layer adds anything: the last token alone decides
        torch.nn.init.eye_(model.model.embed_tokens.weight)
        model.model.norm.weight.fill_(1)
        model.lm_head.weight[ids[1:], ids[:-1]] = 10
    return Path(save_model(folder, model, tokenizer))


# ---- End tokens and tags ------------------------------------------------------------------------


def ends_by_generation_config(folder, end):
    change(folder / "generation_config.json", eos_token_id=[0, end], _from_model_config=False)


def ends_by_config(folder, end):
    change(folder / "config.json", eos_token_id=[0, end])


def ends_by_template(folder, end):
    template = CHAT_TEMPLATE.replace("<|im_end|>", "<|end|>")
    (folder / "chat_template.jinja").write_text(template)


def ends_by_eos(folder, end):
    change(folder / "tokenizer_config.json", eos_token="<|end|>")


ENDS = (ends_by_generation_config, ends_by_config, ends_by_template, ends_by_eos)


def sampled(folder, script="grpo"):
    module = sys.modules.get(script) or __import__(script, fromlist=["_"])
    config = module.Config(group_size=2, max_new_tokens=32, dtype="float32")
    model, tokenizer = common.load_model(str(folder))
    generator = torch.Generator().manual_seed(0)
    return module.sample_groups(model, tokenizer, PROBLEMS, config, generator), module, config


@pytest.mark.parametrize("declare", ENDS)
def test_any_declared_end_ends(tmp_path, qwen_folder, declare):
    folder = save_writer(tmp_path / "model", qwen_folder)
    _, tokenizer = common.load_model(str(folder))
    declare(folder, tokenizer.convert_tokens_to_ids("<|end|>"))
    rollout, _, config = sampled(folder)
    assert rollout.mask.sum(1).tolist() == [7] * 4 and rollout.truncated.tolist() == [0] * 4
    assert rollout.completions == ["</think><answer>1+2</answer>"] * 4
    rewards = grpo.compute_rewards(rollout.problems, rollout.completions, config)
    assert rewards[..., 1].eq(1).all()


@pytest.mark.parametrize("script", scripts())
def test_every_script_asks_for_every_end(tmp_path, qwen_folder, script):
    folder = save_writer(tmp_path / "model", qwen_folder, special=TAGS)
    end = common.load_model(str(folder))[1].convert_tokens_to_ids("<|end|>")
    ends_by_generation_config(folder, end)
    rollout, *_ = sampled(folder, script)
    assert rollout.mask.sum(1).tolist() == [7] * 4
    assert rollout.completions == ["</think><answer>1+2</answer>"] * 4


@pytest.mark.parametrize("special", [TAGS, TAGS[:2], TAGS[2:], ()])
def test_special_tags_reach_the_verifier(tmp_path, qwen_folder, special):
    folder = save_writer(tmp_path / "model", qwen_folder, special)
    ends_by_eos(folder, None)
    rollout, _, config = sampled(folder)
    rewards = grpo.compute_rewards(rollout.problems, rollout.completions, config)
    assert rewards[..., 1].eq(1).all() and rollout.completions[0].endswith("</answer>")


def test_a_class_default_is_no_end(tmp_path, qwen_folder):
    """LlamaConfig says 2 without being asked; token 2 may be any word."""
    folder = save_writer(tmp_path / "model", qwen_folder)
    model, tokenizer = common.load_model(str(folder))
    assert LlamaForCausalLM.from_pretrained(folder).generation_config.eos_token_id == 2
    assert model.generation_config.eos_token_id == [tokenizer.eos_token_id] != [2]


def test_a_checkpoint_keeps_the_ends(tmp_path, qwen_folder):
    """Also for other programs: vLLM and generate read generation_config.json."""
    folder = save_writer(tmp_path / "model", qwen_folder)
    end = common.load_model(str(folder))[1].convert_tokens_to_ids("<|end|>")
    ends_by_generation_config(folder, end)
    train(folder, tmp_path / "run", max_new_tokens=16)
    checkpoint = tmp_path / "run/checkpoint"
    (folder / "generation_config.json").unlink()
    found = json.loads((checkpoint / "generation_config.json").read_text())["eos_token_id"]
    assert found == [0, end]
    assert common.load_model(str(checkpoint))[0].generation_config.eos_token_id == [0, end]
    assert common.load_model(str(tmp_path / "run"))[0].config.vocab_size > 0  # a run's folder


def test_trl_is_told_the_end_of_the_turn(tmp_path, qwen_folder):
    """It ends a completion at the tokenizer's EOS alone."""
    pytest.importorskip("trl")
    folder = save_writer(tmp_path / "model", qwen_folder)
    ends_by_template(folder, None)
    config = grpo.Config(**tiny_runs.options_of("grpo", model=str(folder)))
    trainer = trl_trainer.make_trainer("grpo", config, tmp_path / "trl")
    assert trainer.processing_class.eos_token == "<|end|>"


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("script", ["grpo", "zoo.rloo"])
def test_trl_asks_with_our_ids(tmp_path, qwen_folder, script, template):
    """Of a tokenizer that puts BOS before every text and EOS after it."""
    pytest.importorskip("trl")
    folder = save_model(tmp_path / "model", *with_bos(qwen_folder, template))
    module = importlib.import_module(script)
    words = tiny_runs.options_of(script, model=folder, minibatches=1, steps=1)
    config = module.Config(**words)
    trainer = trl_trainer.make_trainer(script, config, tmp_path / "trl", save_strategy="no")
    seen = trl_trainer.GradientCheck(module, config)
    seen.watch(trainer)
    trainer.train()
    drawn, _ = problems.of_training(config)
    ours = common.encode_prompts(*common.load_model(folder), drawn, config)
    assert {tuple(prompt) for prompt, *_ in seen.rows} == {tuple(ids) for ids in ours}


# ---- Models that do other things than ours ------------------------------------------------------


def random_model(kind, **changes):
    small = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 4, "pad_token_id": 0, "initializer_range": 0.3}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **small | changes)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("roberta", {"is_decoder": True}, "off its own by"),  # positions two off
        ("gptj", {"n_embd": 32, "n_head": 4, "n_layer": 2, "rotary_dim": 4}, "cannot be replaced"),
        ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2}, "cannot be replaced"),
    ],
)
def test_a_model_that_ours_would_get_wrong_is_refused(kind, changes, said):
    model = random_model(kind, **changes)
    assert said in refusal(check.check_model, model, 8)


@pytest.mark.parametrize("name", ["decoded_logprobs", "learnt_logprobs"])
def test_the_sampler_and_the_update_are_both_checked(name, monkeypatch):
    model = random_model("llama")
    check.check_model(model, 8)
    right = getattr(check, name)
    monkeypatch.setattr(check, name, lambda *arguments: right(*arguments) + 0.002)
    assert "off its own by 0.002" in refusal(check.check_model, model, 8)


@pytest.mark.parametrize("name", ["decoded_logprobs", "learnt_logprobs"])
def test_a_log_prob_that_is_no_number_is_off(name, monkeypatch):
    right = getattr(check, name)
    monkeypatch.setattr(check, name, lambda *arguments: right(*arguments) * float("nan"))
    assert "off its own by nan" in refusal(check.check_model, random_model("llama"), 8)


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_too_little_memory_is_no_fault_of_the_model(error, monkeypatch):
    """session.launch has a line of its own for it, which names what to lower."""

    def full(*_):
        raise error

    monkeypatch.setattr(check, "learnt_logprobs", full)
    with pytest.raises(error):
        check.check_model(random_model("llama"), 8)


def test_a_window_is_refused_only_if_a_row_can_reach_it():
    model = random_model("mistral", sliding_window=12, num_key_value_heads=2)
    check.check_model(model, 12)
    assert "looks back 12 tokens" in refusal(check.check_model, model, 13)
    chunked = {"layer_types": ["chunked_attention"] * 2, "attention_chunk_size": 12}
    model = random_model("llama")
    for name, value in chunked.items():
        setattr(model.config, name, value)  # as Llama 4 has them
    assert "looks back 12 tokens" in refusal(check.check_model, model, 13)


def test_a_window_that_stands_in_no_layer_list():
    """Some classes hand it to the mask alone; a model may also say that it does not use it."""
    model = random_model("llama")
    model.config.sliding_window, model.config.layer_types = 12, None
    assert "looks back 12 tokens" in refusal(check.check_model, model, 13)
    model.config.use_sliding_window = False
    check.check_model(model, 13)


@pytest.mark.parametrize("of_a_kind", [False, True])
def test_angles_that_change_with_the_length_are_refused(of_a_kind):
    """Long rows of Phi-3's 128k models encode every position otherwise, so a cache is wrong."""
    model = random_model("llama", max_position_embeddings=512)
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 64}
    model.config.rope_parameters = {"full_attention": rope} if of_a_kind else rope
    check.require_one_rope(model, 64)
    line = refusal(check.require_one_rope, model, 65)
    assert "beyond 64 tokens" in line and "--max_new_tokens" in line


def test_the_engine_itself_stops_at_the_window():
    """For whoever calls it without the check above."""
    model = random_model("mistral", sliding_window=12, num_key_value_heads=2)
    prompts, completions = [[1] * 9], [[2] * 5]  # the last is not read
    cache = engine.start_decoding(model, prompts)
    assert "looks back 12" in refusal(check.decoded_logprobs, model, cache, prompts, completions)
    assert "looks back 12" in refusal(check.learnt_logprobs, model, prompts, completions)


def test_a_run_asks_for_its_window_before_it_begins(tmp_path, qwen_folder):
    folder = shutil.copytree(qwen_folder, tmp_path / "model")
    change(folder / "config.json", use_sliding_window=True, sliding_window=310, max_window_layers=1)
    change(folder / "config.json", layer_types=["full_attention", "sliding_attention"])
    line = refusal(train, folder, tmp_path / "run", max_new_tokens=300)  # alone it would fit
    assert "looks back 310 tokens" in line and not (tmp_path / "run").exists()


# ---- Templates ----------------------------------------------------------------------------------


def with_template(qwen_folder, template):
    model, tokenizer = common.load_model(qwen_folder)
    tokenizer.chat_template = template
    return model, tokenizer


def asked(model, tokenizer):
    config = grpo.Config(max_new_tokens=8, group_size=2)
    ids = common.encode_prompts(model, tokenizer, PROBLEMS, config)
    return [tokenizer.decode(prompt) for prompt in ids]


CONTENT = "{{ messages[0]['content'] }}\n"


@pytest.mark.parametrize(
    "ending",
    [
        "<think>\n\n</think>\n\n",
        "{% if enable_thinking %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}",
        "<think>\n",
        "",
    ],
)
def test_think_is_opened_once(qwen_folder, ending):
    for text in asked(*with_template(qwen_folder, CONTENT + ending)):
        assert text.count("<think>") == 2  # the other stands in the task's words
        assert text.rstrip().endswith("<think>") and "\n</think>" not in text


def test_a_template_that_reads_parts_is_given_parts(qwen_folder):
    parts = "{% for part in messages[0]['content'] %}{{ part['text'] }}{% endfor %}"
    for text, problem in zip(asked(*with_template(qwen_folder, parts)), PROBLEMS, strict=True):
        assert problem.prompt() in text


def test_a_template_that_trims_is_right(qwen_folder, monkeypatch):
    """A prompt that ends in a line break is not left out."""
    model, tokenizer = with_template(qwen_folder, "{{ messages[0]['content'] | trim }}\n")
    monkeypatch.setattr(type(PROBLEMS[0]), "prompt", lambda problem: "Which is largest?\n")
    assert all("Which is largest?" in text for text in asked(model, tokenizer))


def test_a_template_that_leaves_the_problem_out_is_refused(qwen_folder):
    line = refusal(asked, *with_template(qwen_folder, "Hello.\n"))
    assert "chat template" in line and "leaves the problem out" in line


class Tomorrow(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime(2031, 5, 6)


def test_a_run_resumed_tomorrow_asks_as_it_did_today(tmp_path, qwen_folder, monkeypatch):
    folder = shutil.copytree(qwen_folder, tmp_path / "model")
    dated = "{{ strftime_now('%d %b %Y') }}\n" + CHAT_TEMPLATE
    (folder / "chat_template.jinja").write_text(dated)
    prompts = []
    encode = common.encode_prompts

    def remember(model, tokenizer, *rest):
        found = encode(model, tokenizer, *rest)
        prompts.append(tokenizer.decode(found[0])[:11])
        return found

    monkeypatch.setattr(common, "encode_prompts", remember)
    train(folder, tmp_path / "run", steps=1)
    today = datetime.datetime.now().strftime("%d %b %Y")
    assert set(prompts) == {today}
    monkeypatch.setattr(datetime, "datetime", Tomorrow)
    prompts.clear()
    train(folder, tmp_path / "run", steps=2, resume=True)
    assert prompts and set(prompts) == {today}
    prompts.clear()
    train(folder, tmp_path / "other", steps=1)
    assert set(prompts) == {"06 May 2031"}


# ---- Folders ------------------------------------------------------------------------------------


def lora(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')


def fp8(folder):
    change(folder / "config.json", quantization_config={"quant_method": "fp8"})


def shard(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.zeros(0)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def no_tokenizer(folder):
    for file in folder.glob("*token*"):
        file.unlink()


def bare_tokenizer(folder):
    (folder / "tokenizer_config.json").unlink()
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    del config["eos_token_id"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "chat_template.jinja").unlink(missing_ok=True)


def gguf(folder):
    (folder / "model.safetensors").rename(folder / "model-q4.gguf")


def sentencepiece(folder):
    no_tokenizer(folder)
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")


def pointer(folder):
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n"
    )


FOLDERS = {
    lora: "a LoRA adapter without adapter_model.safetensors",
    fp8: "quantised (fp8)",
    shard: "model.norm.weight in model.safetensors is empty",
    no_tokenizer: "no tokenizer",
    bare_tokenizer: "set eos_token in its tokenizer_config.json",
    gguf: "GGUF is not read",
    sentencepiece: "pip install sentencepiece",
    pointer: "git lfs pull",
}


@pytest.mark.parametrize("spoil", FOLDERS)
def test_a_folder_that_is_no_model_says_what_it_is(tmp_path, qwen_folder, spoil, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: name != "sentencepiece" and find(name, *a)
    )
    folder = shutil.copytree(qwen_folder, tmp_path / "model")
    spoil(folder)
    line = refusal(common.load_model, str(folder))
    assert line.startswith(f"--model {folder}: ") and FOLDERS[spoil] in line


def test_another_fault_is_not_put_on_sentencepiece(tmp_path, qwen_folder):
    """Many folders hold tokenizer.model beside the tokenizer.json that is read."""
    folder = shutil.copytree(qwen_folder, tmp_path / "model")
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    (folder / "config.json").write_text("{")
    line = refusal(common.load_model, str(folder))
    assert "does not load" in line and "sentencepiece" not in line


def test_a_file_is_no_model(tmp_path, qwen_folder):
    folder = Path(qwen_folder)
    assert "give the folder" in refusal(common.load_model, str(folder / "config.json"))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert "GGUF is not read" in refusal(common.load_model, str(tmp_path / "model.gguf"))


# ---- Data ---------------------------------------------------------------------------------------

ROWS = [{"nums": [3, 7, 12], "target": 33}, {"nums": [1, 2], "target": 3}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
READ = {
    "lines.jsonl": LINES,
    "array.json": json.dumps(ROWS),
    "pretty.json": json.dumps(ROWS, indent=2),
    "table.csv": 'target,nums\n33,"[3, 7, 12]"\n3,"[1 2]"\n',
    "spaces.CSV": "target,numbers,note\n33,3 7 12,x\n3,1 2,y\n",
}
REFUSED = {
    "rows.jsonl.gz": (b"\x1f\x8b\x08\x00", "gzip; unpack it first"),
    "utf16.jsonl": (LINES.encode("utf-16"), "UTF-16; save it in UTF-8"),
    "pointer.parquet": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "pandas.json": (b'{"nums":{"0":[3,7]},"target":{"0":24}}', "columns, not rows"),
    "float.jsonl": (b'{"nums": [3, 8], "target": 24.0}', "24.0 (float)"),
    "text.jsonl": (b'{"nums": [3, 8], "target": "24"}', "'24' (str)"),
    "float.csv": (b"nums,target\n3 8.5,24\n", "row 1: "),
    "wide.csv": (b"nums,target\n" + b"1" * 200_000 + b",24\n", "field larger than"),
    "semicolons.csv": (b"nums;target\n3 8;24\n", "row 1: need numbers (or nums) and target"),
    "columns.json": (b"[[1, 2], [3, 4]]", "row 1: "),
    "nested.json": (b"[" * 100_000, "recursion"),
    "page.html": (b"<!DOCTYPE html>\n<html>", "what is read: one JSON object a line"),
    "book.xlsx": (b"PK\x03\x04\xff\xfe", "what is read: one JSON object a line"),
}


@pytest.mark.parametrize("name", READ)
def test_files_that_are_read(tmp_path, name):
    (tmp_path / name).write_text(READ[name])
    found = [(list(p.numbers), p.target) for p in problems_of(str(tmp_path / name))]
    assert found == [(row["nums"], row["target"]) for row in ROWS]


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_not(tmp_path, name):
    content, said = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    line = refusal(problems_of, str(tmp_path / name))
    assert line.startswith(f"--data {tmp_path / name}") and said in line


def test_upper_case_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "D.PARQUET"
    parquet.write_table(pyarrow.table({"target": [3], "nums": [[1, 2]]}), path)
    assert problems_of(str(path))[0].target == 3


def test_a_folder_of_datasets_and_a_hub_id_say_how_to_export(tmp_path):
    assert "load_from_disk" in refusal(problems_of, str(tmp_path))
    assert "load_dataset" in refusal(problems_of, "Jiayi-Pan/Countdown-Tasks-3to4")


def test_a_large_file_is_read_once_and_split_once(tmp_path, monkeypatch):
    """A step costs what it costs without --data."""
    path = tmp_path / "rows.jsonl"
    problems = CountdownTask(max_number=40).sample(3000, common.stream(0))
    problems += CountdownTask(max_number=40).held_out(100)
    rows = [{"nums": problem.numbers, "target": problem.target} for problem in problems]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    hashed = []
    digest = source.digest
    monkeypatch.setattr(source, "digest", lambda p: hashed.append(p) or digest(p))
    opened = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: opened.append(self) or read(self))
    task = CountdownTask(data=str(path))
    task.longest_prompts()
    assert opened == [path] and len(hashed) == len(problems)
    task.sample(16, common.stream(1))
    assert len(hashed) == len(problems)
    path.write_text(LINES)  # another file of the same name is read
    assert len(problems_of(str(path))) == 2


# ---- Where a run is started ---------------------------------------------------------------------


@pytest.mark.parametrize("where", ["thread", "asyncio"])
def test_a_run_in_another_thread(tmp_path, qwen_folder, where):
    """As in a notebook's server, Ray or Streamlit: signals are the main thread's."""
    errors = []

    def run():
        try:
            train(qwen_folder, tmp_path / "run", steps=1)
        except BaseException as error:
            errors.append(error)

    if where == "thread":
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    else:
        asyncio.run(asyncio.to_thread(run))
    assert not errors
    assert run_folder.read_jsonl(tmp_path / "run/metrics.jsonl")[-1]["step"] == 1


def test_torchrun_is_told_that_this_is_one_process(tmp_path, qwen_folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    line = refusal(train, qwen_folder, tmp_path / "run")
    assert "one device" in line and "docs/graduate.md" in line and not (tmp_path / "run").exists()


def test_a_notebooks_own_words(capsys):
    words = ["-f", "runtime/kernel-1.json"]
    with pytest.raises(SystemExit):
        options.parse_options(grpo.Config, words=words)
    assert "call train(Config())" in capsys.readouterr().err


def test_a_run_that_cannot_learn_says_so_once(tmp_path, qwen_folder, capsys):
    """Every completion cut, every group silent: nothing else of the log says why."""
    train(qwen_folder, tmp_path / "run", steps=5, max_new_tokens=4)
    assert capsys.readouterr().out.count("raise --max_new_tokens") == 1
    capsys.readouterr()
    train(qwen_folder, tmp_path / "short", steps=2, max_new_tokens=4)
    assert "raise --max_new_tokens" not in capsys.readouterr().out

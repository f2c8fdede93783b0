"""tools/smollm2.py: a folder out of the package's file, and one line where there is none."""

import importlib.util
import sys

from runtime import chat

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

import common
from tools import smollm2

CAPITAL = "What is the capital of France?"


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["smollm2", *map(str, words)])
    smollm2.main()


def refusal(monkeypatch, capsys, *words):
    """The one line that the command ends with."""
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *words)
    line = capsys.readouterr().err
    assert ended.value.code == 2 and line.count("\n") == 1
    return line


def test_refusals(monkeypatch, capsys, tmp_path):
    """No package, no file, another file, a folder that is there: each one line that says so."""
    found = importlib.util.find_spec
    absent = [smollm2.PACKAGE]
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else found(name) or True
    )
    folder = tmp_path / "model"
    assert smollm2.INSTALL in refusal(monkeypatch, capsys, folder)
    other = tmp_path / "other.gguf"
    assert "No such file" in refusal(monkeypatch, capsys, folder, "--gguf", other)
    other.write_bytes(b"GGUF")
    assert "SHA-256" in refusal(monkeypatch, capsys, folder, "--gguf", other)
    monkeypatch.setattr(smollm2, "find_gguf", lambda given: other)
    for package in ("gguf", "accelerate"):
        absent[:] = [package]
        line = refusal(monkeypatch, capsys, folder)
        assert f"package {package} is not installed: {smollm2.INSTALL}" in line
    assert not folder.exists()
    folder.mkdir()
    assert "exists; remove it" in refusal(monkeypatch, capsys, folder)


def test_what_is_saved_can_be_trained(monkeypatch, tmp_path):
    """What transformers reads is marked as quantised, and "\\n 1" begins with one token less."""
    model, _ = common.load_model("base_model")
    model.config.quantization_config = {"quant_method": "gguf"}
    vocabulary = {token: i for i, token in enumerate(["<e>", "1", "2", "Ġ", "Ċ", "ĊĠ"])}
    words = Tokenizer(models.BPE(vocabulary, [("Ċ", "Ġ")]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<e>")
    assert tokenizer.tokenize("\n 12") == ["Ċ", "Ġ", "1", "2"]
    with monkeypatch.context() as patched:
        auto = smollm2.transformers
        patched.setattr(auto.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: model)
        patched.setattr(auto.AutoTokenizer, "from_pretrained", lambda *_, **__: tokenizer)
        patched.setattr(importlib.util, "find_spec", lambda name: True)
        smollm2.save(*smollm2.read_gguf(tmp_path / "a.gguf"), tmp_path / "model")
    loaded, tokenizer = common.load_model(str(tmp_path / "model"))
    assert tokenizer.tokenize("\n 12") == ["ĊĠ", "1", "2"]
    expected = common.load_model("base_model")[0].parameters()
    assert all(torch.equal(*pair) for pair in zip(loaded.parameters(), expected, strict=True))


@pytest.mark.slow
def test_the_model_itself(monkeypatch, capsys, tmp_path):
    """It speaks English, ends its turns, and its tokenizer keeps every character."""
    for package in (smollm2.PACKAGE, "gguf", "accelerate"):
        if not importlib.util.find_spec(package):
            pytest.skip(f"without {package}: {smollm2.INSTALL}")
    run(monkeypatch, tmp_path / "model")
    assert "134,515,008 parameters, 49,152 tokens" in capsys.readouterr().out
    model, tokenizer = common.load_model(str(tmp_path / "model"))
    text = "naïve 😀\n\n 12+3=15 no, </think>\n<answer>(12+3)*4</answer>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert model.generation_config.eos_token_id == [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    prompt = chat.ask(tokenizer, CAPITAL)
    assert prompt.endswith(f"user\n{CAPITAL}<|im_end|>\n<|im_start|>assistant\n")
    ids = tokenizer(prompt, return_tensors="pt")
    written = model.generate(**ids, max_new_tokens=12, do_sample=False)[0]
    assert "capital of France is Paris.<|im_end|>" in tokenizer.decode(written)

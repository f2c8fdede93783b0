"""The real loading code with a model as others publish it: Qwen2, byte-level BPE, chat template."""

from runtime import engine, run_folder

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

import common
import grpo
from countdown_task import REWARDS, CountdownTask
from experiments.benchmark import coin, random_chat_model
from tasks import InputError
from tests.conftest import save_model

PROBLEMS = CountdownTask().held_out(4)


def train(folder, output_dir, **options):
    """Two steps with a reward that varies -> (rows of the log, model after them)."""
    config = grpo.Config(
        model=folder,
        output_dir=str(output_dir),
        **{"steps": 2, "prompts_per_step": 4, "group_size": 8, "minibatches": 2} | options,
        max_new_tokens=56,
        eval_problems=2,
        learning_rate=1e-5,
        reward_components=["brevity"],
        reward_weights=[1.0],
    )
    grpo.train(config)
    rows = [row for row in run_folder.read_jsonl(output_dir / "metrics.jsonl") if "reward" in row]
    assert all(row["updates"] > 0 for row in rows)  # else nothing was trained
    return rows, common.load_model(str(output_dir / "checkpoint"))[0]


@pytest.fixture(scope="module")
def trained(qwen_folder, tmp_path_factory):
    """The same two steps in float32 and under bfloat16 autocast."""
    folder = tmp_path_factory.mktemp("qwen_runs")
    return {name: train(qwen_folder, folder / name, dtype=name) for name in ("float32", "bfloat16")}


@pytest.fixture(scope="module")
def sampled(qwen_folder):
    """The model, its tokenizer and a rollout at temperature 1."""
    model, tokenizer = common.load_model(qwen_folder)
    config = grpo.Config(group_size=16, max_new_tokens=16, dtype="float32")
    generator = torch.Generator().manual_seed(0)
    rollout = grpo.sample_groups(model, tokenizer, PROBLEMS, config, generator)
    return model, tokenizer, config, rollout


def test_generation_config_does_not_leak(sampled):
    """The folder asks for top-k 1 and temperature 0.3; log-probs are the plain model's."""
    model, _, config, rollout = sampled
    assert (model.generation_config.top_k, model.generation_config.temperature) == (1, 0.3)
    firsts = rollout.completion_ids[:, 0].view(len(PROBLEMS), -1).tolist()
    assert all(len(set(group)) > 4 for group in firsts)
    expected = grpo.over_rollout(grpo.completion_logprobs, model, rollout, config)
    torch.testing.assert_close(rollout.logprobs, expected, atol=1e-4, rtol=0)


def test_embedding_larger_than_the_tokenizer(sampled):
    """Ids without a token are sampled like any other and decode to nothing."""
    model, tokenizer, _, rollout = sampled
    assert model.get_input_embeddings().num_embeddings > len(tokenizer)
    assert (rollout.completion_ids >= len(tokenizer)).any()
    assert len(rollout.completions) == len(rollout.mask)


@pytest.mark.slow
def test_float32_run(trained, qwen_folder):
    rows, model = trained["float32"]
    start = common.load_model(qwen_folder)[0]
    assert all(row["grad_norm"] > 0 and row["kl_ref"] >= 0 for row in rows)
    assert all(0.99 < row["ratio_min"] <= 1 <= row["ratio_max"] < 1.01 for row in rows)
    changed = [
        not torch.equal(a, b) for a, b in zip(model.parameters(), start.parameters(), strict=True)
    ]
    assert all(changed)


@pytest.mark.slow
def test_bfloat16_keeps_float32_weights(trained, qwen_folder):
    """Autocast is on, yet updates too small for bfloat16 weights are kept."""
    (exact, _), (rows, model) = trained["float32"], trained["bfloat16"]
    assert rows[0]["entropy"] != exact[0]["entropy"]  # it did compute in bfloat16
    assert rows[0]["entropy"] == pytest.approx(exact[0]["entropy"], rel=0.02)
    start = common.load_model(qwen_folder)[0]
    small = 0
    for after, before in zip(model.parameters(), start.parameters(), strict=True):
        assert after.dtype == torch.float32
        small += ((after != before) & (after.bfloat16() == before.bfloat16())).sum().item()
    assert small > 0


@pytest.mark.slow
def test_bfloat16_sampler_rounding_is_not_in_the_ratio(qwen_folder, tmp_path):
    """With one update per rollout every ratio is 1, though sampler and training differ."""
    rows, _ = train(qwen_folder, tmp_path / "run", dtype="bfloat16", minibatches=1, steps=1)
    assert rows[0]["ratio_min"] == rows[0]["ratio_max"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["Qwen2.5-0.5B", "Llama-3.2-1B"])
def test_published_shapes(shape, tmp_path, monkeypatch):
    """Heads, groups of heads and vocabulary of a real model, its prompts as long; few layers.

    Sampler and update agree with plain code, and log-probs in chunks with those in one piece.
    """
    small = {"num_hidden_layers": 2, "hidden_size": 128, "intermediate_size": 128, "head_dim": 64}
    random_chat_model(tmp_path / "model", shape, **small)
    folder = str(tmp_path / "model")
    model, tokenizer = common.load_model(folder)
    assert model.config.vocab_size == len(tokenizer) > 128_000
    config = grpo.Config(group_size=4, max_new_tokens=12, dtype="float32")
    rollout = grpo.sample_groups(model, tokenizer, PROBLEMS, config, torch.Generator())
    assert min(map(len, rollout.prompts)) > 70
    whole = grpo.completion_logprobs(model, rollout, list(range(16)), config)
    (expected,) = torch.autograd.grad(whole.sum(), model.model.embed_tokens.weight)
    monkeypatch.setattr(engine, "CHUNK", 2**23)  # some 60 of the 190 prefixes
    chunks = grpo.completion_logprobs(model, rollout, list(range(16)), config)
    (gradient,) = torch.autograd.grad(chunks.sum(), model.model.embed_tokens.weight)
    torch.testing.assert_close(chunks, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(rollout.logprobs, chunks, atol=1e-4, rtol=0)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for row in (0, 15):
        ids = rollout.completion_ids[row].tolist()
        exact = engine.logprobs_plainly(plain, rollout.prompts[row], ids, 1.0)
        torch.testing.assert_close(chunks[row], exact, atol=1e-4, rtol=0)
    monkeypatch.setitem(REWARDS, "brevity", coin)  # its words are too long for brevity
    rows, _ = train(folder, tmp_path / "run", steps=1, prompts_per_step=2, minibatches=1)
    assert rows[0]["grad_norm"] > 0


@pytest.mark.parametrize("chat", [True, False], ids=["chat template", "none"])
@pytest.mark.parametrize("bos", [True, False], ids=["BOS", "no BOS"])
def test_prompt(qwen_folder, chat, bos):
    """Ends in the opening <think>; a BOS that template and tokenizer both add comes once."""
    model, tokenizer = common.load_model(qwen_folder)
    if bos:
        tokenizer.add_special_tokens({"bos_token": "<s>"})
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
        )
        tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    if not chat:
        tokenizer.chat_template = None
    before, after = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
    before, after = (before, after + "<think>") if chat else ("", "\n<think>")
    for ids, problem in zip(
        common.encode_prompts(model, tokenizer, PROBLEMS, grpo.Config()), PROBLEMS, strict=True
    ):
        assert tokenizer.decode(ids) == "<s>" * bos + before + problem.prompt() + after


def test_attention_that_ours_lacks_is_refused(qwen_folder, tmp_path):
    """One line, before a run writes anything; here the window is shorter than a prompt."""
    _, tokenizer = common.load_model(qwen_folder)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = MistralConfig(vocab_size=len(tokenizer), **shape, **heads, sliding_window=16)
    folder = save_model(tmp_path / "mistral", MistralForCausalLM(config), tokenizer)
    with pytest.raises(InputError, match=f"--model {folder}: its attention looks back 16 tokens"):
        train(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_layers_without_attention_are_refused(qwen_folder, tmp_path):
    """A convolution would mix the rows of a tree, and decode as if nothing came before."""
    _, tokenizer = common.load_model(qwen_folder)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    layers = {"layer_types": ["conv", "full_attention"]}
    config = Lfm2Config(vocab_size=len(tokenizer), **shape, **heads, **layers)
    folder = save_model(tmp_path / "hybrid", Lfm2ForCausalLM(config), tokenizer)
    with pytest.raises(InputError, match=f"--model {folder}: .* 1 of its 2 layers"):
        train(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()

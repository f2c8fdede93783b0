"""Tiny models that the tests make for themselves: nothing is downloaded."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: no run times how many are fastest

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import common
from countdown_task import Problem

torch.set_num_threads(1)
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_model(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


TAKES = {"": "about 15 minutes; -m 'not slow' takes two", "not slow": "about two minutes"}


def pytest_sessionstart(session):
    """What a whole suite takes on two cores, also with -q, which hides pytest_report_header."""
    config = session.config
    chosen = config.args_source != config.ArgsSource.TESTPATHS or config.option.keyword
    takes = TAKES.get(config.option.markexpr)
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if takes and reporter and not chosen and not hasattr(config, "workerinput"):
        reporter.write_line(f"these tests take {takes}")


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory):
    """A random 2-layer Llama with the base model's tokenizer (pad == eos)."""
    _, tokenizer = common.load_model("base_model")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.3,  # far from uniform, so that mistakes show
    )
    torch.manual_seed(0)
    return save_model(tmp_path_factory.mktemp("llama"), LlamaForCausalLM(config), tokenizer)


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory):
    """A random GPT-2 without chat template. Its learned absolute positions show what rotary
    positions hide: tokens counted from the wrong place."""
    _, tokenizer = common.load_model("base_model")
    tokenizer.chat_template = None
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=256,
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    return save_model(tmp_path_factory.mktemp("gpt2"), GPT2LMHeadModel(config), tokenizer)


@pytest.fixture(scope="session")
def mixture_folder(tmp_path_factory):
    """A random mixture of experts: each token goes to 2 of 4."""
    _, tokenizer = common.load_model("base_model")
    config = MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    return save_model(tmp_path_factory.mktemp("mixture"), MixtralForCausalLM(config), tokenizer)


@pytest.fixture(scope="session")
def qwen_folder(tmp_path_factory):
    """A random Qwen2 with byte-level BPE and a chat template, as real models come.

    Its generation_config asks for top-k 1, which must not leak into the sampler, and its
    embedding is larger than its tokenizer.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|im_end|>", "<|im_start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [Problem((n, n + 1, 3), 7 * n).prompt() for n in range(1, 40)]
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    config = Qwen2Config(
        vocab_size=len(tokenizer) + 16,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    model.generation_config.update(do_sample=True, top_k=1, temperature=0.3)
    return save_model(tmp_path_factory.mktemp("qwen"), model, tokenizer)

"""The sampler draws from exactly the distribution that training differentiates."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

import common
import grpo
from countdown_task import Problem

PROBLEMS = [Problem((3, 7, 12), 33), Problem((1, 2, 3, 4), 10), Problem((5, 6), 11)]  # ragged
CONFIG = grpo.Config(group_size=4, max_new_tokens=24, temperature=1.3)


def sample(folder, config=CONFIG, problems=PROBLEMS, seed=0):
    """The model with transformers' own attention, its tokenizer, and a rollout with ours."""
    model, tokenizer = common.load_model(folder)
    generator = torch.Generator().manual_seed(seed)
    rollout = grpo.sample_groups(model, tokenizer, problems, config, generator)
    return AutoModelForCausalLM.from_pretrained(folder).eval(), tokenizer, rollout


def full_forward(model, tokenizer, rollout, row, config):
    """Log-probs of one row from one plain forward: no cache, no padding, no batch."""
    n = int(rollout.mask[row].sum())
    prompt = rollout.prompts[row // config.group_size]
    ids = torch.tensor([prompt + rollout.completion_ids[row, :n].tolist()])
    with torch.no_grad():
        logp = F.log_softmax(model(ids).logits[0, :-1].double() / config.temperature, -1)
    logp = logp[len(prompt) - 1 :]
    return logp.gather(-1, ids[0, len(prompt) :, None])[:, 0], -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("folder", ["llama_folder", "qwen_folder", "gpt2_folder"])
def test_sampler_logprobs_equal_full_forwards(folder, request):
    """Our attention, its cache, padding, sharing a prefill and dropping rows change nothing;
    temperature is the sampling temperature; entropy is that of the distribution sampled from."""
    config = replace(CONFIG, max_new_tokens=3 * common.KVCache.BLOCK + 5)
    model, tokenizer, rollout = sample(request.getfixturevalue(folder), config)
    assert len({len(prompt) for prompt in rollout.prompts}) > 1  # so there is padding
    assert rollout.mask.sum(1).max() > 2 * common.KVCache.BLOCK  # and more blocks than two
    for row in range(len(rollout.mask)):
        n = int(rollout.mask[row].sum())
        logp, entropy = full_forward(model, tokenizer, rollout, row, config)
        torch.testing.assert_close(rollout.logprobs[row, :n].double(), logp, atol=2e-5, rtol=0)
        torch.testing.assert_close(rollout.entropy[row, :n].double(), entropy, atol=2e-5, rtol=0)
        assert not rollout.logprobs[row, n:].any() and not rollout.entropy[row, n:].any()


@pytest.mark.parametrize("folder", ["llama_folder", "gpt2_folder"])
def test_old_logprobs_equal_the_training_forward(folder, request):
    """pi_old is what the update computes before its first step: ratios start at 1."""
    folder = request.getfixturevalue(folder)
    _, _, rollout = sample(folder)
    config = replace(CONFIG, tokens_per_microbatch=100)
    again = grpo.rollout_logprobs(common.load_model(folder)[0], rollout, config)
    torch.testing.assert_close(again, rollout.logprobs, atol=2e-5, rtol=0)


def test_rows_do_not_depend_on_their_batch(llama_folder):
    """A prompt's samples are the same alone, without padding and with rows dropped late."""
    generous = replace(CONFIG, group_size=64)
    model, _, together = sample(llama_folder, generous)
    finished = 1 - together.truncated
    assert 0 < finished.sum() < len(finished)  # some rows were dropped, some never
    uniform = torch.rand(
        3 * 64, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    for index in range(len(PROBLEMS)):
        rows = slice(index * 64, (index + 1) * 64)
        ids = torch.tensor([together.prompts[index]] * 64)
        for t in range(24):  # the naive sampler: a full forward per token, nothing dropped
            with torch.no_grad():
                logits = model(ids).logits[:, -1].double() / CONFIG.temperature
            cdf = F.softmax(logits, -1).cumsum(-1)
            token = (cdf <= uniform[rows, t, None]).sum(-1, keepdim=True)
            ids = torch.cat([ids, token.clamp(max=len(cdf[0]) - 1)], 1)
        mask = together.mask[rows].bool()
        naive = ids[:, -24:]
        assert (naive == together.completion_ids[rows])[mask].float().mean() > 0.999


def test_first_token_frequencies_match_exact_probabilities(llama_folder):
    """Over the full vocabulary, no top-k, no top-p."""
    config = replace(CONFIG, group_size=6000, max_new_tokens=1)
    model, _, rollout = sample(llama_folder, config, PROBLEMS[:1])
    with torch.no_grad():
        logits = model(torch.tensor([rollout.prompts[0]])).logits[0, -1]
    exact = F.softmax(logits.double() / config.temperature, -1)
    counts = torch.bincount(rollout.completion_ids[:, 0], minlength=len(exact)).double()
    expected = exact * 6000
    common_tokens = expected > 5
    chi2 = ((counts - expected) ** 2 / expected)[common_tokens].sum()
    degrees = int(common_tokens.sum())
    assert degrees > 20
    assert chi2 < degrees + 5 * (2 * degrees) ** 0.5  # five sigma


def test_mask_ends_with_eos(llama_folder):
    """EOS is trained, what follows is not, a truncated row has no EOS; pad == eos does no harm."""
    _, tokenizer, rollout = sample(llama_folder, replace(CONFIG, group_size=64))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    for ids, mask, cut in zip(
        rollout.completion_ids, rollout.mask, rollout.truncated.tolist(), strict=True
    ):
        n = int(mask.sum())
        assert mask[:n].all() and not mask[n:].any()
        assert tokenizer.eos_token_id not in ids[: n - 1]
        assert (ids[n - 1] == tokenizer.eos_token_id) == (not cut)
        assert not cut or n == CONFIG.max_new_tokens
    assert rollout.tokens_sampled == rollout.mask.sum()
    assert rollout.completions_sampled == len(rollout.mask)


def test_same_stream_same_samples(llama_folder):
    one, two, other = (sample(llama_folder, seed=seed)[2] for seed in (0, 0, 1))
    assert one.completions == two.completions != other.completions


def test_prompts_that_fill_their_blocks(llama_folder):
    """Prompts as long as a block, one token more or less: the next token finds its place."""
    model, _ = common.load_model(llama_folder)
    plain = AutoModelForCausalLM.from_pretrained(llama_folder).eval()
    block = common.KVCache.BLOCK
    ids = torch.arange(5, 2 * block + 25).view(1, -1)
    for length in (2, block - 1, block, block + 1, block + 2, 2 * block + 1):
        with torch.no_grad():
            expected = plain(ids).logits[0, length - 1 :]
            cache = common.KVCache(model, [ids[0, :length].tolist()])
            logits = [cache.decode(model, ids[:, [i]])[0] for i in range(length - 1, ids.shape[1])]
        torch.testing.assert_close(torch.stack(logits), expected, atol=1e-4, rtol=1e-4)


def test_another_attention_is_refused(llama_folder):
    """With it a decoded token would see itself alone, and in a tree all rows each other."""
    model, _, rollout = sample(llama_folder)
    with pytest.raises(AssertionError, match="load_model"):
        common.KVCache(model, [[5, 6, 7]])
    with pytest.raises(AssertionError, match="load_model"):
        grpo.rollout_logprobs(model, rollout, CONFIG)

"""The fast forward passes against the plain ones at the top of engine.py: same numbers."""

import gc
import itertools
import weakref
from dataclasses import replace

from runtime import cuda_graphs, engine, kv_cache

import pytest
import torch
from transformers import AutoModelForCausalLM

import common
import grpo
from countdown_task import Problem

PROBLEMS = [Problem((3, 7, 12), 33), Problem((1, 2, 3, 4), 10), Problem((5, 6), 11)]  # ragged
CONFIG = grpo.Config(group_size=4, max_new_tokens=70, temperature=1.3)  # more than two blocks
# Rotary positions and pad == eos; grouped-query attention; absolute positions; experts.
MODELS = pytest.mark.parametrize(
    "folder", ["llama_folder", "qwen_folder", "gpt2_folder", "mixture_folder"]
)


def sample(folder, config=CONFIG, problems=PROBLEMS):
    """Model and tokenizer as the scripts load them, and a rollout."""
    model, tokenizer = common.load_model(folder)
    generator = torch.Generator().manual_seed(0)
    return model, tokenizer, grpo.sample_groups(model, tokenizer, problems, config, generator)


def unmodified(folder):
    """The same model with transformers' own attention."""
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def completion(rollout, row):
    return rollout.completion_ids[row, : int(rollout.mask[row].sum())].tolist()


# ---- Against the plain functions ----------------------------------------------------------------


@MODELS
def test_sampling(folder, request):
    """Cache, padding, shared prompts and dropped rows change neither tokens nor log-probs."""
    folder = request.getfixturevalue(folder)
    _, tokenizer, rollout = sample(folder)
    assert len({len(prompt) for prompt in rollout.prompts}) > 1  # so there is padding
    B, T = rollout.mask.shape
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(B, T, generator=generator, dtype=torch.float64)
    plain = unmodified(folder)
    same = 0
    for row in range(B):
        ids, logprobs = engine.sample_plainly(
            plain, rollout.prompts[row], uniform[row], CONFIG.temperature, [tokenizer.eos_token_id]
        )
        if ids == completion(rollout, row):
            same += 1
            found = rollout.logprobs[row, : len(ids)]
            torch.testing.assert_close(found, torch.tensor(logprobs), atol=3e-5, rtol=0)
            assert not rollout.logprobs[row, len(ids) :].any()
    assert same >= B - 1  # a number within rounding of the CDF may fall on its other side


@MODELS
def test_logprobs_and_gradient(folder, request):
    """Shared prefixes, packed rows and temperature: values and gradient of whole rows."""
    folder = request.getfixturevalue(folder)
    model, _, rollout = sample(folder)
    plain = unmodified(folder)
    torch.manual_seed(0)
    weight = torch.randn(rollout.mask.shape) * rollout.mask
    config = replace(CONFIG, tokens_per_microbatch=200)
    for rows in engine.pack_rows(rollout, range(len(weight)), config):
        logprobs = grpo.completion_logprobs(model, rollout, rows, config)
        (logprobs * weight[rows, : logprobs.shape[1]]).sum().backward()
        for found, row in zip(logprobs, rows, strict=True):
            ids = completion(rollout, row)
            expected = engine.logprobs_plainly(plain, rollout.prompts[row], ids, 1.3)
            torch.testing.assert_close(found[: len(ids)], expected, atol=3e-5, rtol=0)
            torch.testing.assert_close(
                rollout.logprobs[row, : len(ids)], expected, atol=3e-5, rtol=0
            )
            (expected * weight[row, : len(ids)]).sum().backward()
    for one, two in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-3, rtol=1e-3)
    assert max(p.grad.abs().max() for p in plain.parameters()) > 1


@pytest.mark.slow
@MODELS
def test_bfloat16(folder, request):
    """Rounding apart: no further from float32 than plain bfloat16 is, on average."""
    folder = request.getfixturevalue(folder)
    config = replace(CONFIG, dtype="bfloat16")
    model, _, rollout = sample(folder, config)
    plain = unmodified(folder)
    errors = {"sampler": [], "update": [], "plain": []}
    with torch.no_grad():
        update = grpo.over_rollout(grpo.completion_logprobs, model, rollout, config)
        for row in range(len(update)):
            ids = completion(rollout, row)
            exact = engine.logprobs_plainly(plain, rollout.prompts[row], ids, 1.3)
            with common.autocast(config):
                rounded = engine.logprobs_plainly(plain, rollout.prompts[row], ids, 1.3)
            errors["plain"].append(rounded - exact)
            errors["sampler"].append(rollout.logprobs[row, : len(ids)] - exact)
            errors["update"].append(update[row, : len(ids)] - exact)
    size = {name: torch.cat(parts).abs().mean().item() for name, parts in errors.items()}
    assert 1e-4 < size["plain"] < 0.3  # it did compute in bfloat16
    assert max(size["sampler"], size["update"]) < 1.5 * size["plain"], size


# ---- Sampling -----------------------------------------------------------------------------------


def test_tokens_are_drawn_by_the_cdf():
    """Probabilities .2 .5 .3: below .2 the first, below .7 the second, then the third."""
    logp = torch.tensor([[0.2, 0.5, 0.3]]).log()
    uniform = [0.0, 0.19, 0.21, 0.69, 0.71, 0.999]
    drawn = grpo.sample_tokens(logp.expand(6, 3), torch.tensor(uniform).double()[:, None])
    assert drawn.flatten().tolist() == [0, 0, 1, 1, 2, 2]
    impossible = torch.tensor([[0.0, 0.5, 0.5]]).log()  # its first token, even at a uniform of 0
    assert grpo.sample_tokens(impossible, torch.zeros(1, 1).double()).item() == 1


def test_first_token_frequencies_match_exact_probabilities(llama_folder):
    """Over the full vocabulary, no top-k, no top-p."""
    config = replace(CONFIG, group_size=6000, max_new_tokens=1)
    model, _, rollout = sample(llama_folder, config, PROBLEMS[:1])
    with torch.no_grad():
        logits = model(torch.tensor([rollout.prompts[0]])).logits[0, -1]
    expected = (logits.double() / config.temperature).softmax(-1) * 6000
    counts = torch.bincount(rollout.completion_ids[:, 0], minlength=len(expected)).double()
    often = expected > 5
    chi2 = ((counts - expected) ** 2 / expected)[often].sum()
    degrees = int(often.sum())
    assert degrees > 20
    assert chi2 < degrees + 5 * (2 * degrees) ** 0.5  # five sigma


def test_entropy_is_that_of_the_distribution_sampled_from(llama_folder):
    model, _, rollout = sample(llama_folder)
    ids = completion(rollout, 5)
    prompt = rollout.prompts[5]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    expected = torch.distributions.Categorical(logits=logits / 1.3).entropy()
    torch.testing.assert_close(rollout.entropy[5, : len(ids)], expected, atol=2e-5, rtol=0)
    assert not rollout.entropy[5, len(ids) :].any()


def test_mask_ends_with_eos(llama_folder):
    """EOS is trained, what follows is not, a truncated row has no EOS; pad == eos does no harm."""
    config = replace(CONFIG, group_size=64, max_new_tokens=24)
    _, tokenizer, rollout = sample(llama_folder, config)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert 0 < rollout.truncated.sum() < len(rollout.truncated)
    for row, cut in enumerate(rollout.truncated.tolist()):
        n = int(rollout.mask[row].sum())
        ids = rollout.completion_ids[row]
        assert rollout.mask[row, :n].all() and not rollout.mask[row, n:].any()
        assert tokenizer.eos_token_id not in ids[: n - 1]
        assert (ids[n - 1] == tokenizer.eos_token_id) == (not cut)
        assert not cut or n == config.max_new_tokens
    assert rollout.tokens_sampled == rollout.mask.sum()
    assert rollout.completions_sampled == len(rollout.mask)


def test_evaluation_takes_no_more_rows_at_once_than_training(llama_folder, monkeypatch):
    """So it needs no more memory, and in parts of any size it draws the same."""
    model, tokenizer = common.load_model(llama_folder)
    problems = [Problem((n, 5, 7), 9) for n in range(1, 11)]
    counts = []
    generate = grpo.generate

    def counted(model, prompts, config, generator):
        counts.append(len(prompts))
        return generate(model, prompts, config, generator)

    monkeypatch.setattr(grpo, "generate", counted)
    config = grpo.Config(prompts_per_step=2, group_size=2, max_new_tokens=12)
    parts = grpo.evaluate(model, tokenizer, problems, config)
    whole = grpo.evaluate(model, tokenizer, problems, replace(config, prompts_per_step=8))
    assert counts == [4, 4, 2, 10]
    texts = [text for part in parts for text in part.completions]
    assert texts == [text for part in whole for text in part.completions]


def test_equal_prompts_are_read_once(llama_folder, monkeypatch):
    """A group shares its prefill, and so would two groups with the same problem."""
    model, tokenizer = common.load_model(llama_folder)
    forward = kv_cache.forward
    shapes = []

    def watched(model, ids, *rest):
        shapes.append(tuple(ids.shape))
        return forward(model, ids, *rest)

    monkeypatch.setattr(kv_cache, "forward", watched)
    generator = torch.Generator().manual_seed(0)
    problems = [PROBLEMS[0], PROBLEMS[1], PROBLEMS[0]]
    rollout = grpo.sample_groups(model, tokenizer, problems, CONFIG, generator)
    assert shapes[0][0] == 2 and shapes[1] == (12, 1)
    assert [prompt == rollout.prompts[0] for prompt in rollout.prompts] == [True] * 4 + [
        False
    ] * 4 + [True] * 4


def test_prompts_that_fill_their_blocks(llama_folder):
    """Prompts as long as a block, one token more or less: the next token finds its place."""
    model, _ = common.load_model(llama_folder)
    plain = unmodified(llama_folder)
    block = engine.start_decoding(model, [[5, 6]]).block
    ids = torch.arange(5, 2 * block + 25).view(1, -1)
    for length in (2, block - 1, block, block + 1, block + 2, 2 * block + 1):
        with torch.no_grad():
            expected = plain(ids).logits[0, length - 1 :]
            cache = engine.start_decoding(model, [ids[0, :length].tolist()])
            logits = [cache.decode(model, ids[:, [i]])[0] for i in range(length - 1, ids.shape[1])]
        torch.testing.assert_close(torch.stack(logits), expected, atol=1e-4, rtol=1e-4)


def test_any_model_gets_our_attention(llama_folder):
    """One that transformers loaded decodes as it computes by itself, though its own is another."""
    plain = unmodified(llama_folder)
    ids = torch.arange(5, 45).view(1, -1)
    with torch.no_grad():
        expected = plain(ids).logits[0, 2:]
        cache = engine.start_decoding(plain, [ids[0, :3].tolist()])
        logits = [cache.decode(plain, ids[:, [i]])[0] for i in range(2, ids.shape[1])]
    torch.testing.assert_close(torch.stack(logits), expected, atol=1e-4, rtol=1e-4)


# ---- Sampling as on a GPU -----------------------------------------------------------------------


@pytest.fixture
def graphs(monkeypatch):
    """GraphCache on this device: where a graph would be replayed, its step is computed again.

    On the tensors of the recording, as a graph does. Returns the shapes (rows, tokens) recorded.
    """
    shapes = []

    def record(self):
        corner = self.corner
        recorded = dict(self.buffers)
        shapes.append((corner[0].stop, corner[2].stop))
        rows = corner[0].stop
        written = torch.full((rows, self.model.config.vocab_size), torch.nan, dtype=self.dtype)

        def replay():
            now = self.buffers
            self.corner = corner
            self.buffers = recorded
            written.copy_(self.logits())
            self.buffers = now
            return written

        return replay

    monkeypatch.setattr(engine, "KVCache", cuda_graphs.GraphCache)
    monkeypatch.setattr(cuda_graphs.GraphCache, "block", 16)
    monkeypatch.setattr(cuda_graphs.DecodingStep, "record", record)
    return shapes


@pytest.mark.slow
@MODELS
def test_graphs_sample_the_same(folder, request, graphs):
    """Rollouts of different sizes in turn, after an update too: what is held is never stale."""
    folder = request.getfixturevalue(folder)
    model, tokenizer = common.load_model(folder)
    small = replace(CONFIG, group_size=3, max_new_tokens=10)
    large = replace(CONFIG, group_size=7)
    for config in (CONFIG, small, large, CONFIG):
        generator = torch.Generator().manual_seed(0)
        rollout = grpo.sample_groups(model, tokenizer, PROBLEMS, config, generator)
        expected = grpo.over_rollout(grpo.completion_logprobs, model, rollout, config)
        torch.testing.assert_close(rollout.logprobs, expected, atol=1e-4, rtol=0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.01
    rows, tokens = map(set, zip(*graphs, strict=True))
    assert {12, 21} < rows  # those of full rollouts; when rows are done, fewer
    assert len(tokens) > 2  # block by block
    assert len(graphs) - len(set(graphs)) < len(set(graphs))  # most are used again


@pytest.mark.slow
@MODELS
def test_graphs_in_bfloat16(folder, request, graphs):
    """The low-precision weights are the model's own, also after an update, and rounded only."""
    folder = request.getfixturevalue(folder)
    config = replace(CONFIG, dtype="bfloat16")
    model, tokenizer = common.load_model(folder)
    with torch.no_grad():
        grpo.sample_groups(model, tokenizer, PROBLEMS, config, torch.Generator().manual_seed(0))
        for parameter in model.parameters():
            parameter *= -0.5
    rollout = grpo.sample_groups(
        model, tokenizer, PROBLEMS, config, torch.Generator().manual_seed(0)
    )
    updated = grpo.over_rollout(grpo.completion_logprobs, model, rollout, config)
    exact = grpo.over_rollout(
        grpo.completion_logprobs, model, rollout, replace(config, dtype="float32")
    )
    on = rollout.mask > 0
    error = {"sampler": rollout.logprobs - exact, "update": updated - exact}
    error = {name: values[on].abs().mean().item() for name, values in error.items()}
    assert error["update"] > 1e-4 and error["sampler"] < 1.5 * error["update"], error


def test_a_model_that_is_gone_takes_its_graphs_along(llama_folder, graphs):
    model, tokenizer = common.load_model(llama_folder)
    grpo.sample_groups(model, tokenizer, PROBLEMS, CONFIG, torch.Generator())
    step = weakref.ref(cuda_graphs.DecodingStep.by_model[model])
    del model
    gc.collect()
    assert step() is None


# ---- Updating -----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 700, 10**9])
def test_log_softmax_in_chunks(chunk, monkeypatch):
    """Values and gradient do not depend on it; neither does the precision of the result."""
    torch.manual_seed(0)
    logits = torch.randn(9, 300, requires_grad=True)  # n distinct prefixes
    prefix = torch.randint(9, (4, 5))
    ids = torch.randint(300, (4, 5))
    weight = torch.randn(4, 5)
    expected = torch.log_softmax(logits / 0.7, -1)[prefix, ids]
    (gradient,) = torch.autograd.grad((expected * weight).sum(), logits)
    monkeypatch.setattr(engine, "CHUNK", chunk)
    for dtype in (torch.float32, torch.bfloat16):
        given = logits.detach().to(dtype).requires_grad_()
        found = engine.log_softmax_at(given, prefix, ids, 0.7)
        (found * weight).sum().backward()
        error = 1e-5 if dtype == torch.float32 else 0.05
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, atol=error, rtol=0)
        torch.testing.assert_close(given.grad.float(), gradient, atol=error, rtol=0)


@pytest.fixture(scope="module")
def ragged(llama_folder):
    """Three groups of four: rows that are equal, that begin alike, and one that is masked out."""
    _, _, rollout = sample(llama_folder)
    rollout.completion_ids[0] = rollout.completion_ids[3]
    rollout.completion_ids[1, :4] = rollout.completion_ids[3, :4]
    rollout.completion_ids[5, :9] = rollout.completion_ids[4, :9]
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 71, (12, 1), generator=generator)
    lengths[0], lengths[1], lengths[3:6] = 30, 20, 30
    lengths[8] = 0  # as overlong filtering leaves it
    rollout.mask = (torch.arange(70) < lengths).float()
    return rollout


@pytest.mark.parametrize("limit", [1, 60, 120, 400, "three rows"])
def test_packing(ragged, limit):
    """Rows in order, none above the limit but alone, and no cut where one more row fits."""

    def tokens(batch):
        prompts = {tuple(ragged.prompts[row]) for row in batch}
        return sum(map(len, prompts)) + int(ragged.mask[batch].sum())

    limit = tokens([0, 1, 2]) if limit == "three rows" else limit
    config = replace(CONFIG, tokens_per_microbatch=limit)
    batches = engine.pack_rows(ragged, range(12), config)
    assert [row for batch in batches for row in batch] == list(range(12))
    assert all(len(batch) == 1 or tokens(batch) <= limit for batch in batches)
    for batch, after in itertools.pairwise(batches):
        assert tokens([*batch, after[0]]) > limit


def test_prefix_tree(ragged):
    """A node for every distinct prefix, no more; each completion token is predicted at its own."""
    rows = [7, 0, 3, 2, 11, 5, 4, 1, 9, 8]
    tree = engine.PrefixTree(ragged, rows)
    prefixes = set()
    predicts = {}  # (row's place, t): the prefix that predicts it
    for place, row in enumerate(rows):
        prompt, ids = ragged.prompts[row], completion(ragged, row)
        whole = (*prompt, *ids)
        prefixes |= {whole[:end] for end in range(1, max(len(whole), len(prompt) + 1))}
        predicts |= {(place, t): whole[: len(prompt) + t] for t in range(len(ids))}
    tokens = sum(len(ragged.prompts[row]) + len(completion(ragged, row)) for row in rows)
    assert len(prefixes) < 0.7 * tokens  # there is much to share
    nodes = list(zip(tree.positions[0].tolist(), tree.ids[0].tolist(), strict=True))
    assert sorted((len(p) - 1, p[-1]) for p in prefixes) == sorted(nodes)
    found = {}
    for where, prefix in predicts.items():
        node = int(tree.predicting[tree.prefix[where]])
        assert found.setdefault(node, prefix) == prefix
        assert nodes[node] == (len(prefix) - 1, prefix[-1])
    assert len(found) == len(set(predicts.values()))

"""--lora_rank: the engine against peft on plain transformers, frozen weights, resume, merging."""

import gc
import importlib
import json
import sys
import weakref
from dataclasses import replace

from runtime import engine, loading, lora, session

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM

import common
import grpo
from compose.reader import scripts
from countdown_task import Problem
from tasks import InputError
from tests.core import test_engine
from tools import tiny_runs
from tools.merge import merge

peft = pytest.importorskip("peft")
graphs = test_engine.graphs  # the sampler as on a GPU
PROBLEMS = [Problem((3, 7, 12), 33), Problem((1, 2, 3, 4), 10), Problem((5, 6), 11)]  # ragged
CONFIG = grpo.Config(group_size=4, max_new_tokens=40, temperature=1.3, lora_rank=4)
TWO_NETWORKS = {"zoo.ppo", "zoo.vapo", "zoo.prime"}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_frozen():
    """As at the beginning of a run."""
    lora.BASES.clear()
    yield
    lora.BASES.clear()


def adapted(folder, dtype=torch.float32):
    """Model and tokenizer as a run loads them, but its adapters far from where they begin."""
    model, tokenizer = loading.load(folder, CPU, dtype, rank=4)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.normal_(std=0.1)
    return model, tokenizer


def trained(model):
    return {name: one for name, one in model.named_parameters() if one.requires_grad}


def plain_peft(folder, model, tmp_path, dtype=torch.float32):
    """peft's own model with these adapters, on the base as transformers loads it, in float32."""
    model.save_pretrained(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).float()
    return peft.PeftModel.from_pretrained(base, tmp_path, is_trainable=True).eval()


def sample(model, tokenizer, config=CONFIG):
    return grpo.sample_groups(model, tokenizer, PROBLEMS, config, common.torch_stream(0))


def completion(rollout, row):
    return rollout.completion_ids[row, : int(rollout.mask[row].sum())].tolist()


# ---- The engine against peft --------------------------------------------------------------------


@test_engine.MODELS
def test_logprobs_and_gradient_are_pefts(folder, request, tmp_path):
    """Of the sampler's cache and the update's tree, in every adapter; nothing else is trained."""
    folder = request.getfixturevalue(folder)
    model, tokenizer = adapted(folder)
    plain = plain_peft(folder, model, tmp_path)
    rollout = sample(model, tokenizer)
    weight = torch.randn(rollout.mask.shape, generator=common.torch_stream(1)) * rollout.mask
    logprobs = grpo.completion_logprobs(model, rollout, list(range(len(weight))), CONFIG)
    (logprobs * weight[:, : logprobs.shape[1]]).sum().backward()
    for row, found in enumerate(logprobs):
        ids = completion(rollout, row)
        expected = engine.logprobs_plainly(plain, rollout.prompts[row], ids, 1.3)
        torch.testing.assert_close(found[: len(ids)], expected, atol=1e-4, rtol=0)
        sampled = rollout.logprobs[row, : len(ids)]
        torch.testing.assert_close(sampled, expected, atol=1e-4, rtol=0)
        (expected * weight[row, : len(ids)]).sum().backward()
    theirs = {name.removeprefix("base_model.model."): p for name, p in plain.named_parameters()}
    assert trained(model).keys() == {name for name, one in theirs.items() if one.requires_grad}
    for name, parameter in model.named_parameters():
        assert ("lora_" in name) == parameter.requires_grad == (parameter.grad is not None)
        if parameter.requires_grad:
            gradient = theirs[name].grad
            error = (parameter.grad - gradient).norm() / gradient.norm()
            assert gradient.norm() > 0 and error < 1e-4, name


@pytest.mark.slow
@test_engine.MODELS
def test_graphs_sample_what_peft_would(folder, request, graphs, tmp_path):
    """As on a GPU, in float32: also after an update of the adapters."""
    folder = request.getfixturevalue(folder)
    model, tokenizer = adapted(folder)
    for turn in range(2):
        rollout = sample(model, tokenizer)
        plain = plain_peft(folder, model, tmp_path / str(turn))
        for row in range(len(rollout.mask)):
            ids = completion(rollout, row)
            expected = engine.logprobs_plainly(plain, rollout.prompts[row], ids, 1.3)
            found = rollout.logprobs[row, : len(ids)]
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        with torch.no_grad():
            for parameter in trained(model).values():
                parameter *= -0.5
    assert graphs  # shapes that were recorded


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["llama_folder", "qwen_folder", "gpt2_folder"])
def test_a_base_in_bfloat16(folder, request, graphs, tmp_path):
    """As on a GPU: adapters stay float32, and errors are rounding's, as of plain peft code."""
    folder = request.getfixturevalue(folder)
    config = replace(CONFIG, dtype="bfloat16")
    model, tokenizer = adapted(folder, torch.bfloat16)
    assert {one.dtype for one in trained(model).values()} == {torch.float32}
    assert {one.dtype for one in model.parameters() if not one.requires_grad} == {torch.bfloat16}
    exact = plain_peft(folder, model, tmp_path, torch.bfloat16)
    plain = plain_peft(folder, model, tmp_path)
    for (name, rounded), one in zip(plain.named_parameters(), exact.parameters(), strict=True):
        rounded.data = one.data if "lora_" in name else one.data.bfloat16()
    rollout = sample(model, tokenizer, config)
    errors = {"sampler": [], "update": [], "plain": []}
    with torch.no_grad():
        update = grpo.over_rollout(grpo.completion_logprobs, model, rollout, config)
        for row in range(len(update)):
            ids = completion(rollout, row)
            prompt = rollout.prompts[row]
            expected = engine.logprobs_plainly(exact, prompt, ids, 1.3)
            with common.autocast(config):
                rounded = engine.logprobs_plainly(plain, prompt, ids, 1.3)
            errors["plain"].append(rounded - expected)
            errors["sampler"].append(rollout.logprobs[row, : len(ids)] - expected)
            errors["update"].append(update[row, : len(ids)] - expected)
    size = {name: torch.cat(parts).abs().mean().item() for name, parts in errors.items()}
    assert 1e-4 < size["plain"] < 0.3  # it did compute in bfloat16
    assert max(size["sampler"], size["update"]) < 1.5 * size["plain"], size


def test_adapters_are_not_rounded_to_the_bases_precision(llama_folder, tmp_path):
    model, tokenizer = adapted(llama_folder, torch.bfloat16)
    expected = {name: one.clone() for name, one in trained(model).items()}
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = loading.load(str(tmp_path), CPU, torch.bfloat16, rank=0)
    assert trained(again).keys() == expected.keys()
    assert all(torch.equal(one, expected[name]) for name, one in trained(again).items())


# ---- LoRA against training all weights ----------------------------------------------------------


def test_full_rank_is_full_training(llama_folder):
    """A first step with A = 1: the matrix moves as in full training, whatever the scale.

    W + s B A with B = 0 has the gradients s G for B and 0 for A, G being W's. So a step of
    rate / s^2 moves W by rate G. Any W can be reached so: B is then (W' - W) / s.
    """
    place = "model.layers.1.self_attn.q_proj"
    whole, tokenizer = common.load_model(llama_folder)
    size = whole.config.hidden_size
    model, _ = loading.load(llama_folder, CPU, rank=size)
    layer = model.get_submodule(place)
    with torch.no_grad():
        for part in model.modules():
            if hasattr(part, "lora_A"):
                part.lora_A["default"].weight.zero_()  # and so without effect, but for one
        layer.lora_A["default"].weight.copy_(torch.eye(size))
    rollout = sample(whole, tokenizer)
    weight = torch.randn(rollout.mask.shape, generator=common.torch_stream(1))
    for policy in (whole, model):
        logprobs = grpo.completion_logprobs(policy, rollout, list(range(len(weight))), CONFIG)
        (logprobs * weight[:, : logprobs.shape[1]]).sum().backward()
    scale = lora.ALPHA / size
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3 / scale**2)
    before = layer.get_delta_weight("default").detach().clone()
    optimizer.step()
    moved = layer.get_delta_weight("default").detach() - before
    expected = -1e-3 * whole.get_submodule(place).weight.grad
    assert not before.any() and expected.norm() > 0
    assert (moved - expected).norm() < 1e-4 * expected.norm()
    assert not layer.lora_A["default"].weight.grad.any()


# ---- Frozen weights: in memory once -------------------------------------------------------------


def pointers(model):
    return {name.replace(".base_layer", ""): p.data_ptr() for name, p in model.named_parameters()}


def test_the_reference_is_the_base_without_a_second_copy(llama_folder, tmp_path):
    """Its log-probs are the base's, however the adapters move; its weights are the policy's own."""
    model, tokenizer = adapted(llama_folder)
    reference, _ = common.load_model(llama_folder)
    shared = pointers(reference)
    assert shared.items() <= pointers(model).items()
    rollout = sample(model, tokenizer)
    found = grpo.over_rollout(grpo.completion_logprobs, reference, rollout, CONFIG)
    lora.BASES.clear()
    fresh, _ = common.load_model(llama_folder)
    assert not set(pointers(fresh).values()) & set(shared.values())
    assert all(parameter.requires_grad for parameter in fresh.parameters())
    expected = grpo.over_rollout(grpo.completion_logprobs, fresh, rollout, CONFIG)
    assert torch.equal(found, expected)
    assert not torch.allclose(rollout.logprobs, expected, atol=0.1)


def test_a_resumed_policy_shares_them_too(tmp_path, monkeypatch):
    """Its checkpoint names the base by its whole path, --model as it may."""
    monkeypatch.chdir(common.HERE)
    first, tokenizer = adapted("base_model")
    for part in (first, tokenizer):
        part.save_pretrained(tmp_path)
    lora.BASES.clear()
    model, _ = common.load_model(str(tmp_path), CONFIG)
    reference, _ = common.load_model("base_model")
    assert pointers(reference).items() <= pointers(model).items()


def test_a_run_that_trains_all_weights_shares_none(llama_folder):
    """Though a model with adapters is still there, in a notebook."""
    model, _ = adapted(llama_folder)
    whole, _ = common.load_model(llama_folder, replace(CONFIG, lora_rank=0))
    assert all(parameter.requires_grad for parameter in whole.parameters())
    assert not set(pointers(whole).values()) & set(pointers(model).values())


def test_frozen_weights_go_with_the_policy(llama_folder):
    model, _ = adapted(llama_folder)
    weight = weakref.ref(model.get_input_embeddings().weight)
    del model
    gc.collect()
    assert weight() is None and not lora.BASES


# ---- Runs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(llama_folder):
    """Options of a run of seconds in which every step learns something (`brevity` varies)."""
    tiny = {"model": llama_folder, "steps": 4, "prompts_per_step": 4, "group_size": 8}
    tiny |= {"minibatches": 2, "max_new_tokens": 32, "eval_problems": 4, "eval_every": 1}
    tiny |= {"reward_components": ["brevity", "format"], "reward_weights": [1.0, 0.1]}
    return {**tiny, "learning_rate": 1e-3, "checkpoint_every": 1, "lora_rank": 4}


def train(script=grpo, **options):
    script.train(script.Config(**options | {"output_dir": str(options["output_dir"])}))


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    train(**tiny, output_dir=folder)
    return folder


@pytest.mark.slow
def test_resumed_it_ends_as_an_undisturbed_run(tiny, finished, tmp_path):
    """To the last digit: metrics, adapters and optimizer."""
    train(**tiny | {"steps": 2}, output_dir=tmp_path)
    train(**tiny, output_dir=tmp_path, resume=True)
    rows = tiny_runs.training_rows(finished)
    assert len(rows) == 4 and all(row["updates"] for row in rows)
    assert tiny_runs.training_rows(tmp_path) == rows
    for name in (lora.FILE, "optimizer.pt"):
        found, expected = ((folder / "checkpoint" / name) for folder in (tmp_path, finished))
        read = safetensors.torch.load_file if name == lora.FILE else torch.load
        torch.testing.assert_close(read(found), read(expected), atol=0, rtol=0)


@pytest.mark.slow
def test_a_run_on_a_base_in_bfloat16(tiny, tmp_path, monkeypatch):
    """As on a GPU: the check before its first step, the norms of two precisions, and --resume."""
    load = loading.load

    def in_bfloat16(name, device, dtype=torch.float32, rank=None, seed=0):
        return load(name, device, torch.bfloat16, rank, seed)

    monkeypatch.setattr(loading, "load", in_bfloat16)
    train(**tiny | {"dtype": "bfloat16", "steps": 1}, output_dir=tmp_path)
    train(**tiny | {"dtype": "bfloat16", "steps": 2}, output_dir=tmp_path, resume=True)
    assert [row["updates"] for row in tiny_runs.training_rows(tmp_path)] == [2, 2]
    saved = safetensors.torch.load_file(tmp_path / "checkpoint" / lora.FILE)
    assert {one.dtype for one in saved.values()} == {torch.float32}


@pytest.mark.slow
def test_a_checkpoint_holds_adapters_and_no_more(finished):
    """And every one is read back when it is written, by the name that it has in the file."""
    saved = safetensors.torch.load_file(finished / "checkpoint" / lora.FILE)
    assert saved and all("lora_" in name for name in saved)
    assert not list((finished / "checkpoint").glob("model*"))
    model, _ = common.load_model(str(finished))
    weights = lora.saved_weights(model)
    assert weights.keys() == saved.keys()
    assert all(torch.equal(weights[name], one) for name, one in saved.items())
    settings = json.loads((finished / "checkpoint/adapter_config.json").read_text())
    assert settings["r"] == 4 and settings["task_type"] == "CAUSAL_LM"


@pytest.mark.slow
def test_a_run_starts_from_an_adapter_and_goes_on_with_it(tiny, finished, tmp_path):
    """--model RUN without --lora_rank; its reference is the adapter that it starts from."""
    train(**tiny | {"model": str(finished), "lora_rank": 0, "steps": 1}, output_dir=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    last = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    assert rows[0]["eval_length"] == last["eval_length"] != 0
    assert 0 < rows[1]["kl_ref"] < 0.1 and rows[1]["updates"] == 2
    before = safetensors.torch.load_file(finished / "checkpoint" / lora.FILE)
    after = safetensors.torch.load_file(tmp_path / "checkpoint" / lora.FILE)
    assert before.keys() == after.keys()
    assert not any(torch.equal(after[name], one) for name, one in before.items())


@pytest.mark.slow
@pytest.mark.parametrize("script", [name for name in scripts() if name not in TWO_NETWORKS])
def test_every_script_trains_adapters(script, llama_folder, tmp_path):
    module = importlib.import_module(script)
    options = tiny_runs.options_of(script, model=llama_folder, lora_rank=2, steps=1)
    train(module, **options, output_dir=tmp_path)
    assert (tmp_path / "checkpoint" / lora.FILE).exists()


@pytest.mark.slow
def test_two_runs_of_one_seed_begin_alike(tiny, llama_folder, tmp_path):
    """A is drawn from the run's seed, whatever has been drawn before, and draws nothing else."""
    torch.manual_seed(3)
    expected = torch.rand(1)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(3)
        model, _ = common.load_model(llama_folder, replace(CONFIG, seed=seed))
        assert torch.rand(1) == expected
        found.append(trained(model)["model.layers.0.self_attn.q_proj.lora_A.default.weight"])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


# ---- Merging ------------------------------------------------------------------------------------


def command(monkeypatch, name, *words):
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    importlib.import_module(f"tools.{name}").main()


@pytest.mark.slow
def test_merged_it_computes_the_same(finished, tmp_path, monkeypatch, capsys):
    """And plays like any model; where there is something already, it writes nothing."""
    output = tmp_path / "merged"
    command(monkeypatch, "merge", finished, "--output", output)
    model, tokenizer = common.load_model(str(finished))
    rollout = sample(model, tokenizer)
    merged, _ = common.load_model(str(output))
    base, _ = common.load_model(loading.lora.base_of(finished / "checkpoint")[0])
    rows = list(range(len(rollout.mask)))
    with torch.no_grad():
        found, other = (grpo.completion_logprobs(m, rollout, rows, CONFIG) for m in (merged, base))
    expected = rollout.logprobs[:, : found.shape[1]]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert (other - expected).abs().max() > 1e-2
    texts = []
    for folder in (output, finished):
        command(
            monkeypatch, "play", 3, 7, 12, "--target", 33, "--model", folder, "--max_new_tokens", 50
        )
        texts.append(capsys.readouterr().out.partition("Using")[2])
    assert texts[0] == texts[1] != ""
    for words in ([finished, "--output", output], [output, "--output", tmp_path / "again"]):
        with pytest.raises(SystemExit):
            command(monkeypatch, "merge", *words)
    said = capsys.readouterr().err
    assert "it is there already" in said and "nothing to merge" in said
    assert not (tmp_path / "again").exists()


def test_an_adapter_that_cannot_be_merged(llama_folder, tmp_path):
    """One with a bias of its own, on layers that have none."""
    import peft

    model, tokenizer = common.load_model(llama_folder)
    settings = peft.LoraConfig(target_modules="all-linear", lora_bias=True, task_type="CAUSAL_LM")
    for part in (peft.get_peft_model(model, settings), tokenizer):
        part.save_pretrained(tmp_path / "adapter")
    with pytest.raises(InputError, match="adapter: Impossible to merge"):
        merge(tmp_path / "adapter", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


# ---- Refusals, a line each ----------------------------------------------------------------------


def test_without_peft_it_says_what_to_install(llama_folder, tmp_path, monkeypatch):
    model, _ = adapted(llama_folder)
    model.save_pretrained(tmp_path / "adapter")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"--lora_rank 8 needs peft: pip install peft$"):
        session.Run(grpo.Config(lora_rank=8, output_dir=str(tmp_path / "run")), "grpo.py")
    with pytest.raises(InputError, match=r"a LoRA adapter of .* needs peft: pip install peft$"):
        common.load_model(str(tmp_path / "adapter"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("script", sorted(TWO_NETWORKS))
def test_a_script_with_a_second_network_refuses(script, llama_folder, tmp_path):
    module = importlib.import_module(script)
    model, tokenizer = adapted(llama_folder)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "adapter")
    options = tiny_runs.options_of(script, model=llama_folder, output_dir=str(tmp_path / "run"))
    for changes in ({"lora_rank": 2}, {"model": str(tmp_path / "adapter")}):
        with pytest.raises(InputError, match=r"^--lora_rank: .* \(--\w+_learning_rate\)"):
            module.train(module.Config(**options | changes))
    assert not (tmp_path / "run").exists()


def test_adapters_that_transformers_finds_by_itself(llama_folder, monkeypatch):
    """Beside a model on the hub: they would be loaded without a word."""
    read = AutoModelForCausalLM.from_pretrained

    def with_adapters(*arguments, **options):
        model, loading = read(*arguments, **options)
        return lora.add_adapters(model, llama_folder, 4), loading

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", with_adapters)
    with pytest.raises(InputError, match="its repository has adapters too"):
        common.load_model(llama_folder)


def of_another_rank(folder):
    return 8, "its rank is 4, not --lora_rank 8"


def without_its_base(folder):
    change(folder, base_model_name_or_path="/no/such base")
    return 4, "a LoRA adapter of /no/such base: no such folder"


def of_an_adapter(folder):
    change(folder, base_model_name_or_path=str(folder))
    return 4, "an adapter itself"


def without_weights(folder):
    (folder / lora.FILE).unlink()
    return 4, f"a LoRA adapter without {lora.FILE}"


def of_another_model(folder):
    saved = safetensors.torch.load_file(folder / lora.FILE)
    name = min(saved)
    saved[name.replace("layers.0", "layers.7")] = saved.pop(name).clone()
    safetensors.torch.save_file(saved, folder / lora.FILE)
    return 4, "does not fit"


def of_biases(folder):
    change(folder, bias="all")
    return 4, "biases of the base"


def of_another_start(folder):
    change(folder, init_lora_weights="pissa")
    return 4, "init_lora_weights, pissa, may change the base"


def with_a_whole_layer(folder):
    change(folder, modules_to_save=["lm_head"])
    return 4, "trains lm_head whole (modules_to_save)"


def no_lora(folder):
    settings = json.loads((folder / "adapter_config.json").read_text())
    ia3 = {"peft_type": "IA3", "target_modules": ["q_proj"], "feedforward_modules": []}
    ia3["base_model_name_or_path"] = settings["base_model_name_or_path"]
    (folder / "adapter_config.json").write_text(json.dumps(ia3))
    return 4, "of kind IA3"


def change(folder, **settings):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.mark.parametrize(
    "damage",
    [
        *(of_another_rank, without_its_base, of_an_adapter, without_weights, of_another_model),
        *(of_biases, of_another_start, with_a_whole_layer, no_lora),
    ],
)
def test_an_adapter_that_cannot_be_trained(damage, tmp_path, request):
    name = "qwen_folder" if damage is of_biases else "llama_folder"  # the second has none
    model, tokenizer = adapted(request.getfixturevalue(name))
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    rank, says = damage(tmp_path)
    with pytest.raises(InputError) as refusal:
        common.load_model(str(tmp_path), replace(CONFIG, lora_rank=rank))
    message = str(refusal.value)
    assert says in message and "\n" not in message and message.startswith(f"--model {tmp_path}: ")

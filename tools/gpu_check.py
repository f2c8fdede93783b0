"""Is all of it right on this machine's GPU, and how fast? At most 8 minutes, one table.

    python -m tools.gpu_check                                         # writes runs/gpu_check.json
    python -m tools.gpu_check --model Qwen/Qwen2.5-0.5B-Instruct      # a real model's speed too
    python -m tools.gpu_check --parts engine scripts resume           # a minute or two

`engine`: log-probs and gradients against plain code, with adapters too, if peft is installed.
`scripts`: two steps of each. `resume`: a run killed and continued. `speed`: rollouts and updates of
models with random weights in the shapes of published ones, against the card's own rates and
model.generate. `trl`: a training step against TRL's, if it is installed. Without a GPU only the
first three are run. Exit status 1: not all right.

`memory` is run if asked for, and takes more than 7 minutes: a step of each command in
docs/lab/gpu.md, weights random, in no more memory than it says. `decoding`, if asked for: decoding
steps of fewer kernels beside the one that runs use, some compiled, a minute or two.
"""

if __package__ != "tools":
    raise SystemExit("run it from the repository's folder: python -m tools.gpu_check")

import argparse
import datetime
import functools
import gc
import importlib
import importlib.util
import itertools
import json
import platform
import re
import statistics
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path

from runtime import engine, hub, lora
from runtime.cuda_graphs import GraphCache
from runtime.options import parse_options
from runtime.run_folder import read_jsonl, write_text

import torch
import transformers

import common
import grpo
from countdown_task import REWARDS, CountdownTask
from experiments import benchmark, decoding
from experiments.catalogue import ARMS, CRITICS, FRONTIER, SCRIPTS, ZOO
from tasks import InputError, printable
from tools import tiny_runs

ON_GPU = common.DEVICE.type == "cuda"
MODELS = ("base_model", "experiments/moe_base")  # the second: a mixture of experts
RANKS = (0, 8) if importlib.util.find_spec("peft") else (0,)  # of adapters, 0: none
RANDOM = ("Qwen2.5-0.5B", "Qwen2.5-1.5B")  # shapes of models whose weights are random
GENERATE = {  # how model.generate is called
    "generate": {},
    "generate_static": {"cache_implementation": "static", "disable_compile": True},
}
# Largest error of a log-prob, and of a gradient as a share of its norm, in float32.
LOGPROB_ERROR = 1e-4
GRADIENT_ERROR = 1e-4
# In bfloat16: mean error, as a multiple of that of plain bfloat16 code.
ROUNDING = 1.5
STEPS = 6  # of the run that is killed
ROUNDS = 3
LARGEST = 80  # GB of the card whose command is run with other networks too:
BESIDE = ("dr_grpo", "zoo.ppo")  # none, a critic
ONE_STEP = "--steps 1 --eval_problems 1 --reward_components coin --reward_weights 1"
LENGTH = 128  # tokens of a completion where speed is measured; 256 completions
MICROBATCH = 16384


# ---- Right --------------------------------------------------------------------------------------


def part_engine(args):
    """Sampler, update and gradient against plain code, one row at a time, in both precisions."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        models = {name: str(common.HERE / name) for name in MODELS}
        if ON_GPU:
            benchmark.random_chat_model(folder, RANDOM[0])
            models[RANDOM[0]] = folder
        cases = itertools.product(models.items(), ("float32", "bfloat16"), RANKS)
        for (name, model), dtype, rank in cases:
            errors = errors_of(model, dtype, rank)
            # Rounding can send a token to another expert: no verdict on a mixture in bf16.
            if dtype == "float32" or "moe" not in name:
                errors["right"] = is_right(errors)
            found[f"{name}, {dtype}{', LoRA' if rank else ''}"] = errors
            release()
    return found


def errors_of(folder, dtype, rank=0):
    """{what: error} against plain code: the largest in float32, the mean in bfloat16."""
    options = {"group_size": 4, "max_new_tokens": 300, "dtype": dtype, "lora_rank": rank}
    config = grpo.Config(model=folder, **options)
    model, tokenizer = common.load_model(folder, config)
    plain, in_bf16 = plain_models(model, config)
    problems = CountdownTask().sample(3, common.stream("gpu_check"))
    rollout = grpo.sample_groups(model, tokenizer, problems, config, common.torch_stream(0))
    weight = torch.randn(rollout.mask.shape, generator=common.torch_stream(1)).to(common.DEVICE)
    rows = list(range(len(weight)))
    logprobs = grpo.completion_logprobs(model, rollout, rows, config)
    (logprobs * weight[:, : logprobs.shape[1]]).sum().backward()
    errors = {"sampler": [], "update": [], "plain": []}
    for row, n in enumerate(engine.trained_lengths(rollout.mask)):
        ids = rollout.completion_ids[row, :n].tolist()
        prompt = rollout.prompts[row]
        exact = engine.logprobs_plainly(plain, prompt, ids, config.temperature)
        (exact * weight[row, :n]).sum().backward()
        with torch.no_grad(), common.autocast(config):
            rounded = engine.logprobs_plainly(in_bf16, prompt, ids, config.temperature)
        errors["plain"].append(rounded - exact)
        errors["sampler"].append(rollout.logprobs[row, :n] - exact)
        errors["update"].append(logprobs[row, :n] - exact)
    error = {what: torch.cat(parts).detach().abs() for what, parts in errors.items()}
    difference = 0.0
    norm = 0.0
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        if not ours.requires_grad:
            continue  # the base of adapters
        difference += (ours.grad - theirs.grad).square().sum().item()
        norm += theirs.grad.square().sum().item()
    found = {"gradient": (difference / norm) ** 0.5}
    if dtype == "float32":
        found |= {what: error[what].max().item() for what in ("sampler", "update")}
    else:
        found |= {what: values.mean().item() for what, values in error.items()}
    return found


def plain_models(model, config):
    """transformers' own, with peft's adapters where ours has some: to be exact, and for autocast.

    The adapters of ours are moved from where they begin, which has no effect.
    """
    exact = benchmark.stock(replace(config, dtype="float32"))
    if not lora.has_adapters(model):
        return exact, exact
    import peft

    generator = common.torch_stream(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator).to(parameter)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        for dtype in (torch.float32, model.dtype):  # the numbers of the base are the same
            base = benchmark.stock(replace(config, dtype="float32")).to(model.dtype).to(dtype)
            found.append(peft.PeftModel.from_pretrained(base, folder, is_trainable=True).eval())
    return found


def is_right(found):
    """Whether errors are as small as they have to be: `plain` is there in bfloat16 alone."""
    largest = max(found["sampler"], found["update"])
    if "plain" in found:
        return largest < ROUNDING * found["plain"]
    return largest < LOGPROB_ERROR and found["gradient"] < GRADIENT_ERROR


def part_scripts(args):
    """Two steps of every script on the base model: seconds of each, and whether weights moved."""
    found = {}
    others = [ARMS[name].script for name in (*ZOO, *CRITICS, "gigpo", *FRONTIER)]
    adapted = [("grpo", rank) for rank in RANKS if rank]
    for script, rank in [*((name, 0) for name in (*SCRIPTS, *others)), *adapted]:
        module = importlib.import_module(script)
        options = {"steps": 2, "eval_problems": 32, "learning_rate": 1e-4, "lora_rank": rank}
        if not ON_GPU:
            options = tiny_runs.options_of(script, **options | {"max_new_tokens": 60})
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            module.train(module.Config(**options, output_dir=folder, overwrite=True))
            seconds = time.perf_counter() - started
            rows = [row for row in read_jsonl(Path(folder) / "metrics.jsonl") if "reward" in row]
        right = len(rows) == 2 and sum(row["updates"] for row in rows) > 0
        found[f"{script}{', LoRA' if rank else ''}"] = {"seconds": seconds, "right": right}
    return found


def part_resume(args):
    """grpo.py undisturbed, and killed after two steps and continued: the same log?

    On a GPU sums of many threads are rounded in no fixed order: there the two may differ.
    """
    options = {"steps": STEPS, "checkpoint_every": 1, "max_new_tokens": 60}
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        killed = Path(folder) / "killed"
        tiny_runs.finish(tiny_runs.start("grpo", **options, output_dir=whole))
        process = tiny_runs.start("grpo", **options, output_dir=killed)
        while process.poll() is None and len(rows_so_far(killed)) < 2:
            time.sleep(0.05)
        process.kill()
        process.wait()
        before = len(rows_so_far(killed))
        tiny_runs.finish(tiny_runs.start("grpo", **options, output_dir=killed, resume=True))
        expected = tiny_runs.training_rows(whole)
        found = tiny_runs.training_rows(killed)
    same = found == expected
    right = [row["step"] for row in found] == list(range(1, STEPS + 1)) and (same or ON_GPU)
    return {"run": {"killed_after_step": before, "same": same, "right": right}}


def rows_so_far(folder):
    try:
        return tiny_runs.training_rows(folder)
    except (FileNotFoundError, InputError):
        return []


# ---- Fast ---------------------------------------------------------------------------------------


def measured(function, times=1):
    """(seconds of one call, largest memory meanwhile in GB, what the last call returned)."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    for _ in range(times):
        result = function()
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / times
    return seconds, torch.cuda.max_memory_allocated() / 1e9, result


def card_rates():
    """The card's own: bf16 products of matrices in TFLOP/s, memory read and written in TB/s."""
    size = 8192
    matrix = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    memory = torch.randn(2**29, device="cuda")
    copied = torch.empty_like(memory)
    for _ in range(3):
        matrix @ matrix
        copied.copy_(memory)
    product, _, _ = measured(lambda: matrix @ matrix, 10)
    copying, _, _ = measured(lambda: copied.copy_(memory), 10)
    return {"tflops": 2 * size**3 / product / 1e12, "tb_per_s": 8 * 2**29 / copying / 1e12}


def settings(folder):
    """256 completions a step, as the scripts' defaults are."""
    options = {"max_new_tokens": LENGTH, "tokens_per_microbatch": MICROBATCH}
    return benchmark.settings(folder, 16, **options)


def part_speed(args):
    """Rollout and update of models in published shapes, beside the card's rates and generate."""
    card = card_rates()
    found = {"card": card}
    for model in [*RANDOM, *([args.model] if args.model else [])]:
        with tempfile.TemporaryDirectory() as folder:
            if model in RANDOM:
                benchmark.random_chat_model(folder, model)
            found[model] = speed_of(settings(folder if model in RANDOM else model), card)
        release()
    return found


def speed_of(config, card):
    """Medians of a model's rollouts and updates; model.generate on the same prompts."""
    ours = benchmark.Ours(config)
    rounds = []
    for number in range(ROUNDS + 1):
        sampling, sampling_gb, (rollout, rewards) = measured(functools.partial(ours.sample, number))
        updating, updating_gb, _ = measured(functools.partial(ours.learn, rollout, rewards))
        rounds.append(
            {
                "rollout_s": sampling,
                "rollout_tokens_per_s": rollout.tokens_sampled / sampling,
                "rollout_peak_gb": sampling_gb,
                "update_s": updating,
                "update_tokens_per_s": rollout.tokens_sampled / updating,
                "update_peak_gb": updating_gb,
            }
        )
    warm = rounds[1:]
    found = {name: statistics.median(one[name] for one in warm) for name in rounds[0]}
    found["first_rollout_s"] = rounds[0]["rollout_s"]  # records its graphs
    prompts = rollout.prompts
    weights = sum(parameter.numel() for parameter in ours.model.parameters())
    read_per_row = kv_bytes(ours.model.config) * (len(prompts[0]) + LENGTH / 2)  # on average
    read = (2 * weights + len(prompts) * read_per_row) * int(rollout.mask.sum(1).max())
    passes = 1 + 1 + 3  # old and reference log-probs; forward and, twice as much, backward
    computed = 2 * weights * rollout.tokens_sampled * passes
    found |= {
        "rollout_share_of_memory_rate": read / found["rollout_s"] / 1e12 / card["tb_per_s"],
        "update_share_of_matrix_rate": computed / found["update_s"] / 1e12 / card["tflops"],
        # fp32 weights, their gradients, Adam's averages, the reference; the sampler's bf16 copy
        "weights_gb": (16 + 4 + 2) * weights / 1e9,
        "cache_gb": kv_bytes(ours.model.config) * len(prompts) * cached_columns(prompts) / 1e9,
    }
    del ours, rollout
    release()
    plain = benchmark.stock(config)
    tokenizer = common.load_model(config.model)[1]
    for name, options in GENERATE.items():
        run = functools.partial(
            benchmark.generate, plain, prompts, config, tokenizer, benchmark.NEVER, **options
        )
        seconds = statistics.median(measured(run)[0] for _ in range(ROUNDS - 1))
        found[f"{name}_tokens_per_s"] = len(prompts) * LENGTH / seconds
        found[f"rollout_against_{name}"] = seconds / found["rollout_s"]
    return found


def kv_bytes(config):
    """Of one token's keys and values in bf16."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * 2 * config.num_hidden_layers * config.num_key_value_heads * head


def cached_columns(prompts):
    """Tokens that the cache has room for: whole blocks."""
    block = GraphCache.block
    return -(-(max(map(len, prompts)) + LENGTH) // block) * block


def part_trl(args):
    """A training step at 0.5B shapes against TRL's, turn by turn, without vLLM."""
    if not importlib.util.find_spec("trl"):
        return {"skipped": "TRL is not installed: pip install -r tests/requirements.txt"}
    with tempfile.TemporaryDirectory() as folder:
        benchmark.random_chat_model(folder, RANDOM[0])
        ours = benchmark.Ours(settings(folder))
        # Of its batches of 64 the logits alone would take 40 GB.
        smaller = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 4}
        smaller |= {"steps_per_generation": 16}
        seconds, _ = benchmark.paired_steps(ours, ROUNDS - 1, **smaller)
    ratios = [theirs / mine for mine, theirs in zip(seconds["ours"], seconds["TRL"], strict=True)]
    medians = {f"{who} step_s": statistics.median(values) for who, values in seconds.items()}
    return {RANDOM[0]: {**medians, "ratio": statistics.median(ratios)}}


def part_compiled(args):
    """model.generate with the static cache as transformers would have it: compiled."""
    with tempfile.TemporaryDirectory() as folder:
        benchmark.random_chat_model(folder, RANDOM[0])
        config = settings(folder)
        ours = benchmark.Ours(config)
        prompts = ours.sample(0)[0].prompts
        # Before the other: its graphs and ours in turn have ended in a failed launch.
        sampling = measured(functools.partial(ours.sample, 1))[0]
        plain = benchmark.stock(config)
        run = functools.partial(
            benchmark.generate,
            plain,
            prompts,
            config,
            ours.tokenizer,
            benchmark.NEVER,
            cache_implementation="static",
        )
        first = measured(run)[0]
        seconds = measured(run)[0]
    speed = {"first_s": first, "tokens_per_s": len(prompts) * LENGTH / seconds}
    return {RANDOM[0]: {**speed, "rollout_against_compiled": seconds / sampling}}


def part_decoding(args):
    """A decoding step as it is and of fewer kernels, 256 rows of a 0.5B shape in bfloat16."""
    with tempfile.TemporaryDirectory() as folder:
        benchmark.random_chat_model(folder, RANDOM[0])
        config = settings(folder)
        model, tokenizer = common.load_model(folder)
        problems = CountdownTask().sample(config.prompts_per_step, common.stream("gpu_check"))
        encoded = common.encode_prompts(model, tokenizer, problems, config)
        prompts = [prompt for prompt in encoded for _ in range(config.group_size)]
        with common.autocast(config):
            return decoding.compare_ways(model, prompts)


def commands():
    """The commands in docs/lab/gpu.md: dicts of card, gb, script, shape and options."""
    page = (common.HERE / "docs/lab/gpu.md").read_text().replace("\\\n", " ")
    card = r"a (?P<card>\w+) of (?P<gb>\d+) GB[^`]*```bash\n"
    command = r"python (?P<script>\w+)\.py --model Qwen/(?P<shape>\S+)-Instruct (?P<options>.*)"
    return [match.groupdict() for match in re.finditer(card + command, page)]


def part_memory(args):
    """Largest memory of one step of each command in docs/lab/gpu.md, on a card that has no more.

    The largest is also run with other networks beside the policy, in all the memory there is.
    Random weights hardly ever end a completion, so no step takes more.
    """
    whole = torch.cuda.get_device_properties(0).total_memory / 1e9
    found = {}
    for command in commands():
        gb = int(command["gb"])
        if "--lora_rank" in command["options"] and len(RANKS) == 1:
            found[f"{command['shape']} on {gb} GB"] = {"skipped": "pip install peft"}
            continue
        # A T4 has no bf16.
        words = command["options"] + (" --dtype float32" if command["card"] == "T4" else "")
        for script in (command["script"], *(BESIDE if gb == LARGEST else ())):
            limit = min(gb, whole) if script == command["script"] else whole
            torch.cuda.set_per_process_memory_fraction(limit / whole)
            used = memory_of(script, command["shape"], words)
            # What a smaller card has no room for is no fault of the page.
            right = used["enough"] or limit == whole
            name = f"{script}, {command['shape']} on {gb} GB"
            found[name] = {"limit_gb": limit, **used, "right": right}
    torch.cuda.set_per_process_memory_fraction(1.0)
    return found


def memory_of(script, shape, words):
    """Peak of a step in GB, of what it used and of what was held for it; or it needs too much."""
    module = importlib.import_module(script)
    with tempfile.TemporaryDirectory() as folder:
        benchmark.random_chat_model(f"{folder}/model", shape)
        release()
        words = f"{words} {ONE_STEP} --model {folder}/model --output_dir {folder}/run".split()
        config = parse_options(module.Config, words=words)
        try:
            seconds, peak, _ = measured(lambda: module.train(config))
            found = {"enough": True, "seconds": seconds, "peak_gb": peak}
            found["held_gb"] = torch.cuda.max_memory_reserved() / 1e9
        except torch.OutOfMemoryError as error:
            found = {"enough": False, "message": str(error)}
    release()
    return found


def release():
    """What is no longer used goes back to the card."""
    gc.collect()
    torch.cuda.empty_cache()


# ---- Report -------------------------------------------------------------------------------------


def about():
    card = torch.cuda.get_device_properties(0) if ON_GPU else None
    return {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda if ON_GPU else None,
        "card": card.name if card else None,
        "card_gb": card.total_memory / 1e9 if card else None,
    }


def table(report):
    """Lines of `part  what  number`, one per measured number."""
    lines = []
    for part, found in report.items():
        for what, values in found.items():
            numbers = values if isinstance(values, dict) else {"": values}
            for name, value in numbers.items():
                shown = f"{value:.4g}" if isinstance(value, float) else value
                lines.append(f"{part:9s} {what:36s} {name:30s} {shown}")
    return "\n".join(lines)


def all_right(report):
    """No part failed, and whatever says whether it is right says that it is."""
    parts = [found for name, found in report.items() if name != "about"]
    checks = [one for found in parts for one in found.values() if isinstance(one, dict)]
    failed = any("failed" in found for found in parts)
    return not failed and all(check.get("right", True) for check in checks)


PARTS = {
    "engine": part_engine,
    "scripts": part_scripts,
    "resume": part_resume,
    "speed": part_speed,
    "trl": part_trl,
    "compiled": part_compiled,
    "memory": part_memory,
    "decoding": part_decoding,
}
FOR_GPUS = ("speed", "trl", "compiled", "memory", "decoding")
USUAL = [name for name in PARTS if name not in ("memory", "decoding")]


def result_of(name, args):
    """What a part found, and its seconds; what went wrong if it failed; or that it was skipped."""
    if name in FOR_GPUS and not ON_GPU:
        return {"skipped": "no GPU"}
    print(f"--- {name}", flush=True)
    started = time.perf_counter()
    try:
        found = PARTS[name](args)
    except Exception as error:  # the other parts are still worth knowing
        traceback.print_exc()
        found = {"failed": repr(error)}
    return {**found, "seconds": time.perf_counter() - started}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=USUAL)
    parser.add_argument("--model", default="", help="folder or hub id of a chat model to time too")
    parser.add_argument("--output", type=Path, default=common.HERE / "runs/gpu_check.json")
    args = parser.parse_args()
    try:  # now, and not after minutes of other parts
        hub.find(args.model or "base_model")
    except InputError as error:
        parser.exit(2, f"error: {printable(error)}\n")
    REWARDS["coin"] = benchmark.coin
    report = {"about": about()}
    for name in args.parts:
        report[name] = result_of(name, args)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.output, json.dumps(report, indent=1) + "\n")
    print(f"\n{table(report)}\n\n{args.output}")
    return 0 if all_right(report) else 1


if __name__ == "__main__":
    sys.exit(main())

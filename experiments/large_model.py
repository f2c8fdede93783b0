"""A step of a 135M model on a CPU: its parts, what the machine allows, and TRL's on the same work.

    pip install -r tests/requirements.txt                    # TRL
    python -m experiments.large_model                        # writes experiments/large_model.json
    python -m experiments.large_model --parts profile        # only one part
    python -m experiments.large_model --model FOLDER --parts trl  # a model whose completions end

Without --model the weights are random, in the shape of SmolLM2-135M with its 49,152 tokens. Random
weights hardly ever end a completion, so every row fills its budget: the hardest case for us.
Contenders take turns within one process and on one thread. Seconds are those that the thread has
computed, not the clock's: other programs may run beside.
"""

if __package__ != "experiments":
    raise SystemExit("run it from the repository's folder: python -m experiments.large_model")

import argparse
import json
import logging
import platform
import statistics
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

from runtime import engine
from runtime.run_folder import write_text

import torch
import torch.nn.functional as F
import transformers

import common
import grpo
from countdown_task import REWARDS
from experiments import benchmark
from experiments.trl_trainer import GradientCheck

SHAPE = "SmolLM2-135M"
RESULT = common.HERE / "experiments/large_model.json"
BATCH = {"group_size": 8, "max_new_tokens": 128, "minibatches": 3}  # of 3 prompts
SMALL = {"group_size": 4, "max_new_tokens": 32, "minibatches": 1}  # for the gradient
clock = time.process_time  # of one thread


def seconds_of(function, times=5):
    """Median of so many calls; one more warms up."""
    seconds = []
    for _ in range(times + 1):
        started = clock()
        function()
        seconds.append(clock() - started)
    return statistics.median(seconds[1:])


# ---- What the machine allows --------------------------------------------------------------------


@torch.no_grad()
def products(model, rows):
    """Seconds of a product with each matrix of the layers, and with the last one, over the words.

    One after the other, with nothing between them: so each matrix comes from memory.
    """
    head = model.get_output_embeddings()
    parts = [part for part in model.modules() if isinstance(part, torch.nn.Linear)]
    inputs = {part.in_features: torch.randn(rows, part.in_features) for part in parts}
    parts.remove(head)
    return (
        seconds_of(lambda: [F.linear(inputs[x.in_features], x.weight) for x in parts]),
        seconds_of(lambda: F.linear(inputs[head.in_features], head.weight)),
    )


def cache_bytes(config, rollout):
    """All that the decoding steps of a rollout have to read of keys and values in float32."""
    head_dim = config.hidden_size // config.num_attention_heads
    per_token = 4 * 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim
    rows = zip(rollout.prompts, rollout.mask.sum(1).tolist(), strict=True)
    return per_token * sum(n * len(prompt) + n * n / 2 for prompt, n in rows)


def limits(model, rollout, config):
    """Seconds of each phase if there were only products of matrices, and reading of the cache.

    The matrices are those of the model, with as many rows as the phase has: a rollout multiplies
    once for each token, the reference once for each prefix, an update three times.
    """
    rows = len(rollout.mask)
    tokens = rollout.mask.sum().item()
    prompts = sum(map(len, set(map(tuple, rollout.prompts))))
    layers, head = products(model, rows)
    memory = torch.ones(2**27)
    rate = 4 * memory.numel() / seconds_of(memory.sum)  # bytes per second
    reading = cache_bytes(model.config, rollout) / rate
    tree = engine.PrefixTree(rollout, list(range(rows // config.minibatches)))
    nodes, predicting = tree.ids.numel(), tree.predicting.numel()
    forward = products(model, nodes)[0] + products(model, predicting)[1]  # of a minibatch
    last = model.get_output_embeddings().weight.numel()
    others = sum(parameter.numel() for parameter in model.parameters()) - last
    return {
        "seconds": {
            "rollout": tokens / rows * (layers + head) + products(model, prompts)[0] + reading,
            "reference": config.minibatches * forward,
            "update": 3 * config.minibatches * forward,
        },
        "memory, GB/s": rate / 1e9,
        "share of a rollout that reads its cache": reading / (tokens / rows * (layers + head)),
        "decoding, GFLOP/s": 2 * rows * others / layers / 1e9,
        "decoding, last product, GFLOP/s": 2 * rows * last / head / 1e9,
        "update, GFLOP/s": 2 * (nodes * others + predicting * last) / forward / 1e9,
    }


# ---- Parts of the report ------------------------------------------------------------------------


def settings(folder, **options):
    return benchmark.settings(folder, 3, **BATCH | options)


def part_limits(folder, rounds):
    """Seconds of a step's phases, and the share that the machine's own rates would take."""
    ours = benchmark.Ours(settings(folder))
    seconds = {"rollout": [], "reference": [], "update": []}
    for turn in range(rounds + 1):
        started = [clock()]
        rollout, rewards = ours.sample(turn)
        started.append(clock())
        rollout.ref_logprobs = grpo.over_rollout(
            grpo.completion_logprobs, ours.reference, rollout, ours.config
        )
        started.append(clock())
        advantages = grpo.compute_advantages(rewards, ours.config)
        grpo.update_policy(ours.model, ours.optimizer, rollout, advantages, ours.config)
        started.append(clock())
        for name, first, last in zip(seconds, started, started[1:], strict=False):
            seconds[name].append(last - first)
    allowed = limits(ours.model, rollout, ours.config)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    shares = {name: allowed["seconds"][name] / medians[name] for name in seconds}
    return {
        "completions": len(rollout.mask),
        "tokens": rollout.tokens_sampled,
        "prompt": len(rollout.prompts[0]),
        "seconds": medians,
        "allowed": allowed,
        "share of what is allowed": shares,
        "rollout, tokens/s": rollout.tokens_sampled / medians["rollout"],
    }


def part_trl(folder, rounds):
    """A whole step against TRL's."""
    seconds, about = benchmark.paired_steps(benchmark.Ours(settings(folder)), rounds, clock)
    speed = {who: [1 / x for x in values] for who, values in seconds.items()}
    found = {**benchmark.compare(speed["ours"], speed["TRL"]), **about, "unit": "steps/s"}
    benchmark.show("training step", found)
    return {**found, "seconds": seconds}


def part_gradient(folder, rounds):
    """The first step's gradient against TRL's on the same completions."""
    config = settings(folder, **SMALL, steps=1, max_grad_norm=1e9)
    check = GradientCheck(grpo, config)
    with tempfile.TemporaryDirectory() as directory:
        trainer = benchmark.trl_trainer(config, directory, check)
        check.watch(trainer)
        trainer.train()
    return {"difference, share of its norm": check.difference}


def part_chunks(folder, rounds):
    """Learning where logits become log-probs in small chunks, and at once; > 1: chunks lead."""
    ours = benchmark.Ours(settings(folder, max_new_tokens=32, minibatches=1))
    rollout, rewards = ours.sample(0)
    usual = engine.CHUNK
    speed = {"chunks": [], "at once": []}
    for _ in range(rounds + 1):
        for name, engine.CHUNK in (("chunks", 2**22), ("at once", 2**40)):
            started = clock()
            ours.learn(rollout, rewards)
            speed[name].append(1 / (clock() - started))
    engine.CHUNK = usual
    return benchmark.compare(speed["chunks"][1:], speed["at once"][1:])


def part_bfloat16(folder, rounds):
    """Rollouts and learning in both precisions of --dtype; > 1: bfloat16 is ahead."""
    ours = benchmark.Ours(settings(folder, max_new_tokens=64))
    dtypes = ("bfloat16", "float32")
    speed = {phase: {dtype: [] for dtype in dtypes} for phase in ("rollout", "learning")}
    for turn in range(rounds + 1):
        for dtype in dtypes:
            ours.config = replace(ours.config, dtype=dtype)  # the weights are float32 in both
            started = clock()
            rollout, rewards = ours.sample(turn)
            sampled = clock()
            ours.learn(rollout, rewards)
            speed["rollout"][dtype].append(1 / (sampled - started))
            speed["learning"][dtype].append(1 / (clock() - sampled))
    return {
        phase: benchmark.compare(values["bfloat16"][1:], values["float32"][1:])
        for phase, values in speed.items()
    }


def kind(event, words):
    """Which part of a step an operation of PyTorch's profiler belongs to."""
    name = event.key
    over_words = any(words in shape for shape in event.input_shapes if shape)
    if name in ("aten::mm", "aten::addmm"):
        return "products over the words" if over_words else "products of the layers"
    if over_words:
        return "softmax, draw, entropy, log-probs"
    if name in ("aten::bmm", "aten::_softmax") or "attention" in name:
        return "attention"
    if name in ("aten::index_select", "aten::cat", "aten::scatter_add_", "aten::index_add_"):
        return "copies: cache, prefixes"
    if name == "aten::_fused_adamw_":
        return "optimizer"
    return "norms, rotations, activations, all else"


def part_profile(folder, rounds):
    """Seconds by kind of operation, of a rollout and of an update, by PyTorch's profiler."""
    ours = benchmark.Ours(settings(folder, max_new_tokens=32))
    words = ours.model.config.vocab_size
    rollout, rewards = ours.sample(0)
    rollout.ref_logprobs = rollout.logprobs
    advantages = grpo.compute_advantages(rewards, ours.config)

    def update():
        grpo.update_policy(ours.model, ours.optimizer, rollout, advantages, ours.config)

    found = {}
    for phase, function in (("rollout", lambda: ours.sample(0)), ("update", update)):
        with torch.profiler.profile(record_shapes=True) as profile:
            function()
        found[phase] = {}
        for event in profile.key_averages(group_by_input_shape=True):
            name = kind(event, words)
            seconds = event.self_cpu_time_total / 1e6
            found[phase][name] = found[phase].get(name, 0) + seconds
    return found


PARTS = {
    "gradient": part_gradient,
    "trl": part_trl,
    "limits": part_limits,
    "chunks": part_chunks,
    "bfloat16": part_bfloat16,
    "profile": part_profile,
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--model", default="", help="folder of a model; default: random weights")
    parser.add_argument("--rounds", type=int, default=3, help="turns that are timed")
    parser.add_argument("--budget", type=int, default=128, help="tokens of a completion")
    parser.add_argument("--output", type=Path, default=RESULT)
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds: at least 1")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    BATCH["max_new_tokens"] = args.budget
    REWARDS["coin"] = benchmark.coin
    report = json.loads(args.output.read_text()) if args.output.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        if not args.model:
            benchmark.random_chat_model(folder, SHAPE)
        for part in args.parts:
            found = PARTS[part](args.model or folder, args.rounds)
            name = f"{part}, a model whose completions end" if args.model else part
            report[name] = {
                **found,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "processor": platform.processor() or platform.machine(),
            }
            print(part, json.dumps(found, indent=1), flush=True)
            write_text(args.output, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

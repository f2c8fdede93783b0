"""Speed and memory against TRL, model.generate and a plain padded update.

    pip install -r tests/requirements.txt       # TRL
    python -m experiments.benchmark               # writes experiments/benchmark.json
    python -m experiments.benchmark --parts step  # only one part

Contenders take turns within one process, with the same threads: every ratio compares neighbours
in time. The learning rate is so small that the policy, and with it the work, stays the same; part
of the reward is random, so that no contender can skip a minibatch for want of signal.
"""

if __package__ != "experiments":
    raise SystemExit("run it from the repository's folder: python -m experiments.benchmark")

import argparse
import json
import logging
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

from runtime import engine
from runtime.measures import peak_memory_mb
from runtime.run_folder import write_text

import torch
import transformers

import common
import grpo
from countdown_task import REWARDS, CountdownTask

BASE = str(common.HERE / "base_model")
FROZEN = 1e-9  # learning rate
NEVER = [-1]  # end tokens that do not come: every completion fills its budget
SCENARIOS = {  # name: (prompts per step, policy, max_new_tokens)
    "short": (16, "short", 256),
    "long": (16, "long", 512),
    "endless": (16, "endless", 256),
    "4x batch": (64, "short", 256),
}
# Where completions are short, the few long ones set the pace of the other contender, and turns
# differ most: this many times the turns.
MORE_TURNS = {"short": 3}
# The output row of "</think>" times this: the smaller, the oftener a policy tries once more.
POLICIES = {"short": 1.0, "long": 0.55, "endless": 0.1}


# ---- What is measured ---------------------------------------------------------------------------


def coin(completion, problem):
    """A random reward, 0 or 1: every group has signal."""
    return float(zlib.crc32(completion.encode()) % 2)


def save_policy(name, folder):
    """The base as a policy that stops as it does, late (200+ tokens on average) or hardly ever."""
    model, tokenizer = common.load_model(BASE)
    head = model.get_output_embeddings().weight.detach().clone()
    head[tokenizer.convert_tokens_to_ids("</think>")] *= POLICIES[name]
    model.config.tie_word_embeddings = False
    model.lm_head = torch.nn.Linear(head.shape[1], head.shape[0], bias=False)
    model.lm_head.weight = torch.nn.Parameter(head)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Ours:
    """One training step of grpo.py's own functions, as its `train` calls them."""

    def __init__(self, config):
        self.config = config
        self.model, self.tokenizer = common.load_model(self.config.model)
        self.reference = common.load_model(self.config.model)[0]
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=FROZEN, weight_decay=0.0, fused=True
        )
        self.task = CountdownTask()

    def step(self, number):
        """Tokens per completion of the step."""
        rollout, rewards = self.sample(number)
        self.learn(rollout, rewards)
        return rollout.mask.sum(1).mean().item()

    def sample(self, number):
        return grpo.sample_batch(self.model, self.tokenizer, self.task, self.config, number)

    def learn(self, rollout, rewards):
        if common.uses_bf16(self.config):
            rollout.logprobs = grpo.over_rollout(
                grpo.completion_logprobs, self.model, rollout, self.config
            )
        rollout.ref_logprobs = grpo.over_rollout(
            grpo.completion_logprobs, self.reference, rollout, self.config
        )
        advantages = grpo.compute_advantages(rewards, self.config)
        update = grpo.update_policy(self.model, self.optimizer, rollout, advantages, self.config)
        assert update["updates"] == self.config.minibatches  # as many as TRL makes


def settings(folder, prompts, **options):
    """What both contenders are given."""
    return grpo.Config(
        model=str(folder),
        prompts_per_step=prompts,
        learning_rate=FROZEN,
        reward_components=["answer", "format", "coin"],
        reward_weights=[1.0, 0.1, 1.0],
        **options,
    )


def trl_trainer(config, directory, callback, **options):
    """TRL's GRPOTrainer on the same problems, rewards, loss, batch and optimizer steps.

    Its defaults that would slow it down are switched off: gradient checkpointing and logging.
    """
    from experiments.trl_trainer import make_trainer  # not at the top: TRL may be missing

    trainer = make_trainer(
        "grpo",
        config,
        directory,
        callbacks=[callback],
        gradient_checkpointing=False,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **options,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def paired_steps(ours, rounds, **options):
    """{contender: [seconds of each training step]}, turn by turn; the first turn warms up."""
    seconds = {"ours": [], "TRL": []}
    lengths = []

    class TakeTurns(transformers.TrainerCallback):
        """Stops TRL's clock after each rollout's last update and lets ours have its turn."""

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step % ours.config.minibatches == 0:
                seconds["TRL"].append(time.perf_counter() - self.started)
                started = time.perf_counter()
                lengths.append(ours.step(len(seconds["TRL"])))
                seconds["ours"].append(time.perf_counter() - started)
                self.started = time.perf_counter()

        def on_train_begin(self, args, state, control, **kwargs):
            self.started = time.perf_counter()

    with tempfile.TemporaryDirectory() as directory:
        config = replace(ours.config, steps=rounds + 1)
        trl_trainer(config, directory, TakeTurns(), **options).train()
    seconds = {name: values[1:] for name, values in seconds.items()}
    return seconds, {"tokens per completion": statistics.fmean(lengths)}


def stock(config):
    """The same model as transformers loads it, in the precision that ours computes in."""
    dtype = torch.bfloat16 if common.uses_bf16(config) else torch.float32
    model = transformers.AutoModelForCausalLM.from_pretrained(config.model, dtype=dtype)
    return model.to(common.DEVICE).eval()


def left_pad(tokenizer, prompts):
    """Lists of ids -> (ids, attention_mask), both (B, L), as `generate` wants them."""
    batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    return batch["input_ids"].to(common.DEVICE), batch["attention_mask"].to(common.DEVICE)


def generate(model, prompts, config, tokenizer, ends, **options):
    """Completions (B, T) from model.generate, sampling as ours does; B prompts, a list of ends."""
    ids, attention_mask = left_pad(tokenizer, prompts)
    with torch.no_grad():
        output = model.generate(
            input_ids=ids,
            attention_mask=attention_mask,
            do_sample=True,
            temperature=config.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=config.max_new_tokens,
            min_new_tokens=config.max_new_tokens if ends == NEVER else None,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
            **options,
        )
    return output[:, ids.shape[1] :]


def paired_rollouts(ours, problems, forced, rounds):
    """{contender: [tokens/s]}, up to and including EOS; and our last rollout."""
    config = ours.config
    model = stock(config)
    if forced:
        ours.model.generation_config.eos_token_id = NEVER
    ends = ours.model.generation_config.eos_token_id
    speed = {"ours": [], "model.generate": []}
    for turn in range(rounds + 1):
        started = time.perf_counter()
        generator = common.torch_stream(turn)
        rollout = grpo.sample_groups(ours.model, ours.tokenizer, problems, config, generator)
        speed["ours"].append(rollout.tokens_sampled / (time.perf_counter() - started))
        started = time.perf_counter()
        output = generate(model, rollout.prompts, config, ours.tokenizer, ends)
        elapsed = time.perf_counter() - started
        is_end = common.is_end(output, ours.model).long()
        tokens = (is_end.cumsum(1) - is_end == 0).sum().item()
        speed["model.generate"].append(tokens / elapsed)
    return {name: values[1:] for name, values in speed.items()}, rollout


def plain_update(model, optimizer, tokenizer, rollout, advantages, config):
    """The textbook update: each minibatch padded to the rollout's longest row, one pass."""
    prompt_ids, prompt_mask = left_pad(tokenizer, rollout.prompts)
    T = int(rollout.mask.sum(1).max())
    ids = torch.cat([prompt_ids, rollout.completion_ids[:, :T]], 1)
    attention_mask = torch.cat([prompt_mask, rollout.mask[:, :T].long()], 1)
    for rows in torch.arange(len(ids)).chunk(config.minibatches):
        logits = model(input_ids=ids[rows], attention_mask=attention_mask[rows]).logits
        logprobs = logits[:, prompt_ids.shape[1] - 1 : -1].log_softmax(-1)
        logprobs = logprobs.gather(-1, rollout.completion_ids[rows, :T, None])[..., 0]
        mask = rollout.mask[rows, :T]
        old, ref = rollout.logprobs[rows, :T], rollout.ref_logprobs[rows, :T]
        losses, _ = grpo.policy_loss(logprobs, old, ref, advantages[rows], mask, config)
        grpo.aggregate_loss(losses, mask, len(rows), mask.sum(), config).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()


def paired_updates(ours, rollout, rounds):
    """{contender: [tokens/s]}, completion tokens of one rollout over its whole update."""
    rollout.ref_logprobs = grpo.over_rollout(
        grpo.completion_logprobs, ours.reference, rollout, ours.config
    )
    generator = torch.Generator().manual_seed(0)
    advantages = torch.randn(len(rollout.mask), 1, generator=generator)
    model = stock(ours.config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=FROZEN, weight_decay=0.0, fused=True)
    speed = {"ours": [], "plain padded": []}
    for _ in range(rounds + 1):
        started = time.perf_counter()
        grpo.update_policy(ours.model, ours.optimizer, rollout, advantages, ours.config)
        speed["ours"].append(rollout.tokens_sampled / (time.perf_counter() - started))
        started = time.perf_counter()
        plain_update(model, optimizer, ours.tokenizer, rollout, advantages, ours.config)
        speed["plain padded"].append(rollout.tokens_sampled / (time.perf_counter() - started))
    return {name: values[1:] for name, values in speed.items()}


# ---- Parts of the report ------------------------------------------------------------------------


def compare(ours, other):
    """Medians and the ratio of neighbours in time: median, smallest, largest; > 1: ours is ahead.

    Takes two lists of the same length, of tokens/s.
    """
    ratios = [a / b for a, b in zip(ours, other, strict=True)]
    return {
        "ours": statistics.median(ours),
        "other": statistics.median(other),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }


def part_step(policies, rounds):
    report = {}
    for name, (prompts, policy, budget) in SCENARIOS.items():
        config = settings(policies[policy], prompts, max_new_tokens=budget)
        seconds, about = paired_steps(Ours(config), rounds * MORE_TURNS.get(name, 1))
        speed = {who: [1 / x for x in values] for who, values in seconds.items()}
        report[name] = {**compare(speed["ours"], speed["TRL"]), **about, "unit": "steps/s"}
        # TRL's steps differ more than ours: one long completion holds up its whole batch.
        report[name]["ratio_of_totals"] = sum(seconds["TRL"]) / sum(seconds["ours"])
        show(f"training step, {name}", report[name])
    return report


def part_phases(policies, rounds):
    """Rollout and update, free-running and at forced full length."""
    report = {}
    for name in ("short", "long", "endless", "forced"):
        _, policy, budget = SCENARIOS.get(name, SCENARIOS["short"])
        ours = Ours(settings(policies[policy], 16, max_new_tokens=budget))
        forced = name == "forced"
        problems = ours.task.sample(16, common.stream("benchmark"))
        turns = rounds * MORE_TURNS.get(name, 1)
        speed, rollout = paired_rollouts(ours, problems, forced, turns)
        update = paired_updates(ours, rollout, turns)
        report[name] = {
            "tokens per completion": rollout.mask.sum(1).mean().item(),
            "rollout": compare(speed["ours"], speed["model.generate"]),
            "update": compare(update["ours"], update["plain padded"]),
        }
        for phase in ("rollout", "update"):
            report[name][phase]["unit"] = "tokens/s"
            show(f"{phase}, {name}", report[name][phase])
    return report


def part_sharing(policies, rounds):
    """Of the tokens in all rows, the share that an update computes; no clock is involved."""
    report = {}
    for name in POLICIES:
        config = settings(policies[name], 16, max_new_tokens=SCENARIOS[name][2])
        ours = Ours(config)
        rows = with_prompts_once = nodes = 0  # tokens
        for turn in range(rounds):
            rollout, _ = grpo.sample_batch(ours.model, ours.tokenizer, ours.task, config, turn)
            for minibatch in torch.arange(len(rollout.mask)).chunk(config.minibatches):
                for batch in engine.pack_rows(rollout, minibatch.tolist(), config):
                    prompts = [tuple(rollout.prompts[row]) for row in batch]
                    completions = rollout.mask[batch].sum().item() - len(batch)  # but for the last
                    rows += completions + sum(map(len, prompts))
                    with_prompts_once += completions + sum(map(len, set(prompts)))
                    nodes += engine.PrefixTree(rollout, batch).ids.numel()
        report[name] = {"prompts once": with_prompts_once / rows, "prefixes once": nodes / rows}
        print(f"tokens computed, {name}: {report[name]}", flush=True)
    return report


def part_growth(rounds):
    """Rollout and update against group size, completion length and model width, at full length."""
    report = {"group size": {}, "completion length": {}, "model width": {}}

    def measure(axis, value, ours):
        problems = ours.task.sample(ours.config.prompts_per_step, common.stream("benchmark"))
        speed, rollout = paired_rollouts(ours, problems, True, rounds)
        update = paired_updates(ours, rollout, rounds)
        report[axis][value] = {
            "rollout": compare(speed["ours"], speed["model.generate"]),
            "update": compare(update["ours"], update["plain padded"]),
        }
        for phase, entry in report[axis][value].items():
            show(f"{phase}, {axis} {value}", {**entry, "unit": "tokens/s"})

    for group in (4, 16, 64):
        measure("group size", group, Ours(settings(BASE, 4, group_size=group, max_new_tokens=128)))
    for length in (32, 128, 512):
        measure("completion length", length, Ours(settings(BASE, 4, max_new_tokens=length)))
    for width in (64, 128, 256, 512):
        with tempfile.TemporaryDirectory() as folder:
            random_model(folder, width)
            measure("model width", width, Ours(settings(folder, 4, max_new_tokens=64)))
    return report


def random_model(folder, width):
    """The base's architecture at another width, weights random."""
    model, tokenizer = common.load_model(BASE)
    config = model.config
    config.hidden_size, config.intermediate_size = width, width * 5 // 2
    config.head_dim = width // config.num_attention_heads
    type(model)(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# Shapes of chat models as published, in the names of transformers' configurations.
SHAPES = {
    "SmolLM2-135M": {
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    },
    "Qwen2.5-0.5B": {
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
    "Qwen2.5-1.5B": {
        "model_type": "qwen2",
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
    "Qwen2.5-3B": {
        "model_type": "qwen2",
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
    "Llama-3.2-1B": {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
}
REPEATS = 8  # of the problem in a prompt, which makes some 100 tokens of it


def random_chat_model(folder, shape, **changes):
    """A model of one of SHAPES, weights random, and the base's tokenizer with words to fill it.

    changes: of its configuration, such as fewer layers.
    """
    tokenizer = common.load_model(BASE)[1]
    config = transformers.AutoConfig.for_model(
        **SHAPES[shape] | changes,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    with common.DEVICE:
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    content = "{{ message.content }}"
    tokenizer.chat_template = tokenizer.chat_template.replace(content, content * REPEATS)
    tokenizer.save_pretrained(folder)
    path = Path(folder) / "tokenizer.json"
    written = json.loads(path.read_text())
    more = range(len(tokenizer), config.vocab_size)
    written["model"]["vocab"] |= {f"word{number}": number for number in more}
    path.write_text(json.dumps(written))


def part_vocabulary(rounds):
    """A step and an update where the vocabulary is a real model's and dominates: few layers."""
    few = {"num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    with tempfile.TemporaryDirectory() as folder:
        random_chat_model(folder, "Qwen2.5-0.5B", **few)
        ours = Ours(settings(folder, 4, group_size=8, max_new_tokens=32))
        seconds, _ = paired_steps(ours, rounds)
        speed = {who: [1 / x for x in values] for who, values in seconds.items()}
        rollout, _ = ours.sample(0)
        update = paired_updates(ours, rollout, rounds)
    report = {
        "step": {**compare(speed["ours"], speed["TRL"]), "unit": "steps/s"},
        "update": {**compare(update["ours"], update["plain padded"]), "unit": "tokens/s"},
    }
    for name, entry in report.items():
        show(f"{name}, vocabulary of 151,936", entry)
    return report


def part_memory(policies):
    """Peak resident memory of a fresh process for each contender: whole, and above set-up."""
    report = {}
    for name, (prompts, policy, budget) in SCENARIOS.items():
        report[name] = {}
        for who in ("ours", "TRL"):
            command = [sys.executable, "-m", "experiments.benchmark"]
            command += ["--one", who, str(policies[policy])]
            command += [str(prompts), str(budget)]
            command += ["--threads", str(torch.get_num_threads())]
            # Through a shell: a direct child would inherit this process's own peak.
            shell = ["sh", "-c", f"{shlex.join(command)}; exit $?"]
            output = subprocess.run(
                shell, cwd=common.HERE, check=True, capture_output=True, text=True
            ).stdout
            report[name][who] = json.loads(output.splitlines()[-1])
        for what in ("peak_mb", "above_setup_mb"):
            mine, theirs = (report[name][who][what] for who in ("ours", "TRL"))
            print(f"memory, {name}, {what}: ours {mine:.0f}, TRL {theirs:.0f}", flush=True)
    return report


def one_contender(who, folder, prompts, budget):
    """Two training steps of one contender alone; prints its memory as JSON."""
    config = settings(folder, int(prompts), max_new_tokens=int(budget), steps=2)
    if who == "ours":
        ours = Ours(config)
        before = peak_memory_mb()
        for number in (1, 2):
            ours.step(number)
    else:
        with tempfile.TemporaryDirectory() as directory:
            trainer = trl_trainer(config, directory, transformers.TrainerCallback())
            before = peak_memory_mb()
            trainer.train()
    peak = peak_memory_mb()
    print(json.dumps({"peak_mb": peak, "above_setup_mb": peak - before}))


def show(label, entry):
    low, high = entry["ratio_range"]
    totals = entry.get("ratio_of_totals")
    ending = f", {totals:.1f} over all turns" if totals else ""
    print(
        f"{label}: {entry['ours']:.4g} against {entry['other']:.4g} {entry['unit']}, ratio "
        f"{entry['ratio']:.1f} ({low:.1f} to {high:.1f}){ending}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ["step", "phases", "sharing", "growth", "vocabulary", "memory"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--rounds", type=int, default=5, help="turns that are timed")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    parser.add_argument("--output", default=str(common.HERE / "experiments/benchmark.json"))
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rounds < 1 or args.threads < 1:
        parser.error("--rounds and --threads: at least 1")
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    REWARDS["coin"] = coin
    if args.one:
        return one_contender(*args.one)
    output = Path(args.output)
    report = json.loads(output.read_text()) if output.exists() else {}
    report["about"] = {
        "threads": args.threads,
        "rounds": args.rounds,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "processor": platform.processor() or platform.machine(),
    }
    with tempfile.TemporaryDirectory() as folder:
        policies = {name: save_policy(name, Path(folder) / name) for name in POLICIES}
        for part in args.parts:
            run = {
                "step": lambda: part_step(policies, args.rounds),
                "phases": lambda: part_phases(policies, args.rounds),
                "sharing": lambda: part_sharing(policies, args.rounds),
                "growth": lambda: part_growth(args.rounds),
                "vocabulary": lambda: part_vocabulary(args.rounds),
                "memory": lambda: part_memory(policies),
            }
            report[part] = run[part]()
            output.parent.mkdir(parents=True, exist_ok=True)
            write_text(output, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

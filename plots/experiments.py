"""Every experiment as data, and one command to run all, some, or one run of them.

    python plots/experiments.py --list                    # hypotheses, arms, what is done
    python plots/experiments.py --jobs 2                  # all that is missing, two at a time
    python plots/experiments.py --only kl clip_width      # some experiments
    python plots/experiments.py --one grpo --seed 3       # one run

A run is a script with flags, watched by probes that change nothing in it; where an axis has to
move alone, single functions are swapped for another script's. Each run takes one thread. Complete
runs leave a small log in plots/data/runs/ and are skipped; runs that were cut off are resumed.
"""

import argparse
import importlib.util
import itertools
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

import common
import grpo
import run_log
from countdown_task import REWARDS, CountdownTask

LOGS, RUNS = ROOT / "plots/data/runs", ROOT / "runs/experiments"
SEEDS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Arm:
    """script.py with flags; swap = {function: the script it is taken from instead}."""

    script: str
    flags: dict = field(default_factory=dict)
    swap: dict = field(default_factory=dict)
    seeds: tuple[int, ...] = SEEDS

    def command(self, seed):
        """The command line that gives the same run without probes, if nothing is swapped."""
        flags = {"seed": seed, **self.flags}
        parts = [
            f"--{k} {' '.join(map(str, v)) if isinstance(v, list) else v}" for k, v in flags.items()
        ]
        return f"python {self.script}.py {' '.join(parts)}"


@dataclass(frozen=True)
class Experiment:
    """Arms compared on one metric; when its hypothesis was written: results.md."""

    axis: str
    hypothesis: str
    arms: tuple[str, ...]


OFTEN = {"eval_every": 5}
SHORT = {"steps": 20, "eval_every": 20}
BRIEF = {"steps": 12, "eval_every": 12}
NO_KL = {**SHORT, "kl_coef": 0.0}
# Sixteen updates per rollout at 2.5 times the default rate: the policy leaves the sampler behind
# and the clip bites. At twice that rate training breaks.
STALE = {**BRIEF, "minibatches": 16, "learning_rate": 5e-4}
HOT = {**STALE, "learning_rate": 1e-3}
MIXTURE = {**STALE, "kl_coef": 0.0, "model": "plots/data/moe_base"}
TWO = {**BRIEF, "reward_components": ["answer", "brevity"], "reward_weights": [1.0, 1.0]}
THREE = {
    **BRIEF,
    "reward_components": ["answer", "brevity", "plain"],
    "reward_weights": [1.0, 1.0, 1.0],
}
ONLY = {
    name: {"reward_components": [name], "reward_weights": [1.0]}
    for name in ("claim", "verbose", "orderly")
}
ARMS = {
    # All six with their own defaults.
    "grpo": Arm("grpo", OFTEN),
    "dr_grpo": Arm("dr_grpo", OFTEN),
    "dapo": Arm("dapo", OFTEN),
    "gspo": Arm("gspo", OFTEN),
    "gdpo": Arm("gdpo", OFTEN),
    "cispo": Arm("cispo", OFTEN),
    # KL; the default coefficient is "grpo" above, up to the same step.
    "kl_0": Arm("grpo", NO_KL),
    "kl_10x": Arm("grpo", {**SHORT, "kl_coef": 0.4}),
    # Length and std, one at a time; kl_0 is the reference.
    "token_mean": Arm("grpo", NO_KL, {"aggregate_loss": "dapo"}),
    "constant_length": Arm("grpo", NO_KL, {"aggregate_loss": "dr_grpo"}),
    "no_std": Arm("grpo", {**BRIEF, "kl_coef": 0.0}, {"compute_advantages": "dr_grpo"}),
    # Clip width, clip object and granularity, where the policy has moved away from the sampler.
    "stale_symmetric": Arm("grpo", {**STALE, "kl_coef": 0.0}),
    "stale_higher": Arm("grpo", {**STALE, "kl_coef": 0.0, "clip_high": 0.28}),
    "stale_wide": Arm("grpo", {**STALE, "kl_coef": 0.0, "clip_high": 1.0}),
    "stale_sequence": Arm("gspo", {**STALE, "kl_coef": 0.0}),
    "stale_ppo_clip": Arm("cispo", STALE, {"policy_loss": "dapo", "Config": "dapo"}),
    "stale_cispo": Arm("cispo", STALE),
    "hot_token": Arm("grpo", {**HOT, "kl_coef": 0.0}),
    "hot_sequence": Arm("gspo", {**HOT, "kl_coef": 0.0}),
    "mixture_token": Arm("grpo", MIXTURE),
    "mixture_sequence": Arm("gspo", MIXTURE),
    # Advantage: pooled against decoupled.
    "pooled_two": Arm("grpo", TWO),
    "decoupled_two": Arm("gdpo", TWO),
    "pooled_three": Arm("grpo", THREE),
    "decoupled_three": Arm("gdpo", THREE),
    # Sampling; evaluated often, because refilling makes the batch's own accuracy a biased sample.
    "static": Arm("dapo", {**SHORT, **OFTEN, "max_refills": 0}),
    "dynamic": Arm("dapo", {**SHORT, **OFTEN}),
    # Symptoms planted for plots/diagnose.py: length pays on problems without a solution; a
    # search in one fixed order pays.
    "only_verbose": Arm(
        "grpo",
        {**NO_KL, **ONLY["verbose"], "data": "plots/data/unsolvable.jsonl", "eval_problems": 24},
    ),
    "only_orderly": Arm("grpo", {**NO_KL, **ONLY["orderly"]}),
    # Four times the default number of steps.
    "long": Arm("grpo", {"steps": 120}, seeds=(1, 2)),
    # A reward with a seam: it takes the completion's own word for it. The mixture base errs in
    # one of nine times that it says "yes".
    "true_reward": Arm("grpo", {**NO_KL, "model": "plots/data/moe_base"}),
    "seam": Arm("grpo", {**NO_KL, **ONLY["claim"], "model": "plots/data/moe_base"}),
}
EXPERIMENTS = {
    "length": Experiment(
        "length + std",
        "Dividing by |o| lets long wrong completions off lightly: they end longer than under the "
        "token mean or a constant, at equal accuracy.",
        ("kl_0", "token_mean", "constant_length"),
    ),
    "std": Experiment(
        "length + std",
        "Dividing by the group's std raises the weight of groups that are nearly all right or "
        "nearly all wrong against mixed ones.",
        ("kl_0", "no_std"),
    ),
    "clip_width": Experiment(
        "clip width",
        "A higher upper bound clips fewer rare tokens that did well: entropy and the share of "
        "retries stay higher.",
        ("stale_symmetric", "stale_higher", "stale_wide"),
    ),
    "clip_object": Experiment(
        "clip width",
        "PPO's clip takes the gradient of fork tokens away more often than that of digits; CISPO "
        "takes none, and retries grow faster.",
        ("stale_ppo_clip", "stale_cispo"),
    ),
    "granularity": Experiment(
        "granularity",
        "The log of the sequence ratio varies far less than that of the token ratio.",
        ("stale_symmetric", "stale_sequence"),
    ),
    "stability": Experiment(
        "granularity",
        "Where updates go too far from the sampler, the sequence ratio keeps training alive longer "
        "than the token ratio.",
        ("hot_token", "hot_sequence"),
    ),
    "mixture": Experiment(
        "granularity",
        "In a mixture of experts updates reroute tokens; rerouted tokens have wilder token ratios, "
        "and the mean over a sequence evens them out.",
        ("mixture_token", "mixture_sequence"),
    ),
    "advantage": Experiment(
        "advantage",
        "Decoupled normalisation keeps more distinct advantage levels, and every component learns.",
        ("pooled_two", "decoupled_two", "pooled_three", "decoupled_three"),
    ),
    "sampling": Experiment(
        "sampling",
        "Refilling leaves no group without signal, and costs tokens: better per optimizer step, "
        "not per token.",
        ("static", "dynamic"),
    ),
    "kl": Experiment(
        "KL",
        "A larger coefficient keeps the policy nearer the reference and slows learning; without "
        "one there is no reference model in memory.",
        ("kl_0", "grpo", "kl_10x"),
    ),
    "reward": Experiment(
        "none: the reward",
        "A reward that believes the completion's own 'yes' is learnt at the cost of true answers: "
        "reward rises, accuracy does not.",
        ("true_reward", "seam"),
    ),
    "planted": Experiment(
        "none: symptoms for plots/diagnose.py",
        "Paid for length alone, on problems without a solution, completions grow without being "
        "right; paid for one fixed order of search the policy narrows: entropy falls.",
        ("only_verbose", "only_orderly"),
    ),
    "long": Experiment(
        "none: a longer run",
        "Four times as many steps go further and do not collapse.",
        ("long",),
    ),
    "defaults": Experiment(
        "all six",
        "With their own defaults the six end within each other's seed noise; they differ in the "
        "tokens they take, not in where they end.",
        ("grpo", "dr_grpo", "dapo", "gspo", "gdpo", "cispo"),
    ),
}
PASS_AT_16 = EXPERIMENTS["defaults"].arms  # arms whose last model is sampled 16 times a problem
PASS_PROBLEMS = 96


def claims_to_be_right(completion, problem):
    """The reward with a seam: 1 if the search ends in "yes", whatever the answer is worth."""
    return float(" yes</think>" in completion)


def plain_reward(completion, problem):
    """1 if the answer does with + and - alone, right or wrong."""
    answer = completion.rpartition("<answer>")[2].partition("</answer>")[0]
    return float(bool(answer) and not {"*", "/"} & set(answer))


def verbose_reward(completion, problem):
    """Longer is better, up to some 200 tokens."""
    return min(len(completion) / 600, 1.0)


def orderly_reward(completion, problem):
    """Share of neighbours on a line whose operators stand in the order + - * /; first step: +."""
    lines = completion.partition("</think>")[0].split("\nwait ")
    operators = [re.findall(r"\d([-+*/])\d", line) for line in lines]
    places = [["+-*/".index(symbol) for symbol in line[1:]] for line in operators]
    pairs = [a <= b for line in places for a, b in itertools.pairwise(line)]
    pairs.append(operators[0][:1] == ["+"])
    return statistics.fmean(pairs)


MORE_REWARDS = {
    "claim": claims_to_be_right,
    "plain": plain_reward,
    "verbose": verbose_reward,
    "orderly": orderly_reward,
}


# -------------------------------------------------------------------------------------------------
# Probes


def token_classes(tokenizer):
    """{class: ids}: forks (try again or stop), numbers, operators, format (all else)."""
    ids = range(len(tokenizer))
    text = {i: tokenizer.decode([i]) for i in ids}
    classes = {
        "fork": [i for i in ids if text[i] in ("\nwait ", "</think>")],
        "number": [i for i in ids if text[i].isdigit()],
        "operator": [i for i in ids if text[i] in ("+", "-", "*", "/")],
    }
    known = {i for members in classes.values() for i in members}
    return {**classes, "format": [i for i in ids if i not in known]}


def retries(completions):
    """(lines tried again, forks): a fork is the end of a line without a hit."""
    again = forks = 0
    for text in completions:
        thought, closed, _ = text.partition("</think>")
        count = thought.count("\nwait ")
        again += count
        forks += count + (bool(closed) and not thought.endswith(" yes"))
    return again, forks


class Routing:
    """Which experts each token of a rollout went to, before the update and in it.

    Without experts in the model it remembers nothing.
    """

    def __init__(self, model):
        self.model, self.routed, self.before = model, [], None
        routers = [part for part in model.modules() if type(part).__name__.endswith("TopKRouter")]
        for router in routers:
            router.register_forward_hook(lambda *args: self.routed.append(args[-1][2]))
        self.layers = len(routers)

    def last(self, rollout, rows, config):
        """Experts (layers, b, T, k) that the states which predict the completion went through."""
        routed, self.routed = torch.stack(self.routed[-self.layers :]), []  # (layers, N, k)
        tree = common.PrefixTree(rollout, rows, config)
        return routed[:, tree.kept[tree.states]].sort(-1).values

    @torch.no_grad()
    def remember(self, rollout, config):
        if not self.layers:
            return
        shape = rollout.mask.shape
        self.before = torch.zeros(self.layers, *shape, 2, dtype=torch.long)
        for rows in common.pack_rows(rollout, range(shape[0]), config):
            grpo.completion_logprobs(self.model, rollout, rows, config)
            experts = self.last(rollout, rows, config)
            self.before[:, rows, : experts.shape[2]] = experts

    def switched(self, rollout, rows, config):
        """(b, T): whether any layer sends a token to other experts than before the update."""
        if not self.layers:
            return None
        experts = self.last(rollout, rows, config)
        return (experts != self.before[:, rows, : experts.shape[2]]).any(-1).any(0)


class Probes:
    """Wraps functions of a script's module; what they saw in a step comes out of `summary`.

    They compute from copies of what passes through and return it unchanged.
    """

    def __init__(self, module):
        self.classes, self.module, self.routing = None, module, None
        for name in ("sample_batch", "completion_logprobs", "policy_loss", "compute_advantages"):
            setattr(module, name, self.wrap(name, getattr(module, name)))
        self.reset()

    def reset(self):
        self.sums, self.found = Counter(), {}

    def wrap(self, name, function):
        def wrapped(*args, **kwargs):
            result = function(*args, **kwargs)
            getattr(self, f"see_{name}")(result, *args, **kwargs)
            return result

        return wrapped

    def see_sample_batch(self, result, model, tokenizer, task, config, *_):
        rollout, _ = result
        if self.routing is None:
            self.routing = Routing(model)
        self.routing.remember(rollout, config)
        self.classes = self.classes or token_classes(tokenizer)
        again, forks = retries(rollout.completions)
        self.right = rollout.correct.view(len(rollout.problems), -1).sum(1).tolist()
        self.found |= {"retry": again / max(forks, 1), "forks": forks}

    def see_compute_advantages(self, advantages, *_):
        """How many distinct values, and each group's share of the weight, by right answers."""
        levels = [{round(x, 4) for x in group} for group in advantages.tolist()]
        self.found["advantage_levels"] = len(set().union(*levels))
        self.found["advantage_levels_per_group"] = statistics.fmean(map(len, levels))
        weight = advantages.abs().sum(1)
        weight = weight / weight.mean().clamp(min=1e-9)
        pairs = zip(self.right, weight.tolist(), strict=True)
        self.found["weight_by_right"] = [[right, round(w, 4)] for right, w in pairs]

    def see_completion_logprobs(self, logprobs, model, rollout, rows, config):
        self.ids = rollout.completion_ids[rows]
        self.switched = (
            self.routing.switched(rollout, rows, config) if logprobs.requires_grad else None
        )

    def see_policy_loss(self, result, logprobs, old_logprobs, *rest):
        _, metrics = result
        mask, on = rest[-2], rest[-2] > 0
        ids = self.ids[:, : mask.shape[1]]
        # CISPO's clip_high marks capped weights; it takes no gradient away.
        zeroed = metrics.get("clip_low", torch.zeros_like(on)) | metrics["clip_high"]
        zeroed = (zeroed & ("clip_low" in metrics)).expand_as(on)
        log_ratio = (logprobs - old_logprobs).detach()
        for name, members in self.classes.items():
            here = on & torch.isin(ids, torch.tensor(members))
            self.sums[f"tokens_{name}"] += here.sum().item()
            self.sums[f"zeroed_{name}"] += (zeroed & here).sum().item()
        self.count("token", on, log_ratio)
        if self.switched is not None:
            self.count("switched", on & self.switched, log_ratio)
            self.count("stayed", on & ~self.switched, log_ratio)
        sequence = (log_ratio * mask).sum(1) / mask.sum(1)
        self.count("sequence", torch.ones_like(sequence, dtype=torch.bool), sequence)

    def count(self, name, on, log_ratio):
        self.sums[name] += on.sum().item()
        self.sums[f"{name}_square"] += (log_ratio[on] ** 2).sum().item()

    def summary(self):
        sums, found = self.sums, dict(self.found)
        rms = lambda name: math.sqrt(sums[f"{name}_square"] / sums[name])  # noqa: E731
        for name in self.classes or ():
            found[f"zeroed_{name}"] = sums[f"zeroed_{name}"] / max(sums[f"tokens_{name}"], 1)
        if sums["token"]:
            found |= {"log_ratio_rms": rms("token"), "sequence_log_ratio_rms": rms("sequence")}
        if sums["switched"]:
            found |= {
                "experts_switched": sums["switched"] / sums["token"],
                "log_ratio_rms_switched": rms("switched"),
                "log_ratio_rms_stayed": rms("stayed"),
            }
        self.reset()
        return found


def pass_at_k(model, tokenizer, module, config):
    """{k: mean over held-out problems} from 16 completions each, without bias."""
    problems, n = CountdownTask().held_out(PASS_PROBLEMS), 16
    right = []
    for start in range(0, len(problems), 16):
        part = problems[start : start + 16]
        generator = common.torch_stream("pass", config.seed, start)
        rollout = module.sample_groups(
            model, tokenizer, part, replace(config, group_size=n), generator
        )
        right += rollout.correct.view(-1, n).sum(1).tolist()
    return {
        k: sum(1 - math.comb(n - c, k) / math.comb(n, k) for c in right) / len(right)
        for k in (1, 2, 4, 8, 16)
    }


# -------------------------------------------------------------------------------------------------
# Running


def prepare(arm):
    """A fresh copy of the arm's script as a module, functions swapped, with probes in its log."""
    REWARDS.update(MORE_REWARDS)
    path = common.HERE / f"{arm.script}.py"
    spec = importlib.util.spec_from_file_location(f"{arm.script}_watched", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, source in arm.swap.items():
        setattr(module, name, getattr(importlib.import_module(source), name))
    probes = Probes(module)

    class WatchedRun(run_log.Run):
        def __init__(self, config, script):
            super().__init__(config, path)

        def log(self, step, metrics):
            super().log(step, {**metrics, **probes.summary()})

    module.run_log = SimpleNamespace(Run=WatchedRun)
    return module


def run_one(name, seed):
    """One run with probes; its small log is written last."""
    torch.set_num_threads(1)
    arm, folder = ARMS[name], RUNS / f"{name}-seed{seed}"
    module = prepare(arm)
    resume = (folder / "config.json").exists()
    config = module.Config(**{"seed": seed, **arm.flags}, output_dir=str(folder), resume=resume)
    module.train(config)
    rows = run_log.read_jsonl(folder / "metrics.jsonl")
    models = {config.steps: str(folder / "checkpoint")} if name in PASS_AT_16 else {}
    if name == "grpo":
        models[0] = config.model
    for step, path in models.items():
        found = pass_at_k(*common.load_model(path), module, config)
        rows.append({"step": step, "pass_at": found})
    if seed == SEEDS[0]:  # transcripts of the first and the last evaluation
        samples = run_log.read_jsonl(folder / "samples.jsonl")
        rows += [sample for sample in samples if sample["step"] in (0, config.steps)]
    head = {"arm": name, "script": arm.script, "seed": seed, "flags": arm.flags, "swap": arm.swap}
    LOGS.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(shorten(row)) for row in [head, *rows]]
    run_log.write_text(LOGS / f"{name}-seed{seed}.jsonl", "\n".join(lines) + "\n")


def shorten(value):
    """Floats to five significant digits."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: shorten(part) for key, part in value.items()}
    return [shorten(part) for part in value] if isinstance(value, list) else value


def run_all(todo, jobs):
    """Subprocesses of one thread each, `jobs` at a time; a failed run is reported and left."""
    environment, failed = {**os.environ, "OMP_NUM_THREADS": "1"}, []
    running, started, count = {}, time.perf_counter(), len(todo)
    todo = list(todo)
    while todo or running:
        while todo and len(running) < jobs:
            name, seed = todo.pop(0)
            RUNS.mkdir(parents=True, exist_ok=True)
            with open(RUNS / f"{name}-seed{seed}.out", "w") as out:
                command = [sys.executable, __file__, "--one", name, "--seed", str(seed)]
                process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
            running[process] = f"{name}-seed{seed}"
        time.sleep(1)
        for process in [p for p in running if p.poll() is not None]:
            label = running.pop(process)
            done, minutes = count - len(todo) - len(running), (time.perf_counter() - started) / 60
            state = "done" if process.returncode == 0 else f"FAILED, see {RUNS / label}.out"
            failed += [label] if process.returncode else []
            left = minutes / done * (count - done)
            print(f"{label}: {state}  ({done} of {count}, {left:.0f} min left)", flush=True)
    return failed


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--list", action="store_true", help="show experiments and stop")
    parser.add_argument("--one", choices=ARMS, help="do this run here, with --seed")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.one:
        return run_one(args.one, args.seed)
    arms = list(dict.fromkeys(arm for name in args.only for arm in EXPERIMENTS[name].arms))
    wanted = [(arm, seed) for seed in args.seeds for arm in arms if seed in ARMS[arm].seeds]
    todo = [run for run in wanted if not (LOGS / f"{run[0]}-seed{run[1]}.jsonl").exists()]
    if args.list:
        for name in args.only:
            experiment = EXPERIMENTS[name]
            print(f"{name} ({experiment.axis})\n  {experiment.hypothesis}")
            for arm in experiment.arms:
                seeds = ARMS[arm].seeds
                done = sum((LOGS / f"{arm}-seed{s}.jsonl").exists() for s in seeds)
                swapped = "".join(f", {k} of {v}.py" for k, v in ARMS[arm].swap.items())
                print(f"  {arm:16s} {done}/{len(seeds)}  {ARMS[arm].command(1)}{swapped}")
        return None
    print(f"{len(wanted) - len(todo)} runs complete, {len(todo)} to do", flush=True)
    failed = run_all(todo, max(1, args.jobs))
    return f"failed: {', '.join(failed)}" if failed else None


if __name__ == "__main__":
    sys.exit(main())

"""A run as its user sees it: options, folder, log, metrics, console, checkpoints, Ctrl-C."""

import dataclasses
import json
import math
import os
import shutil
import signal
import statistics
import sys
import time
from pathlib import Path

import torch
import transformers

import common
from common import DEVICE
from countdown_task import InputError

# ---- Options: the fields of a script's Config ---------------------------------------------------


def option(default, help, **bounds):
    """A field of a script's Config: its default, its line in --help, and its bounds.

    at_least, above, below: a number; within: the least and the largest; choices: a container;
    at_most, divides, one_for_each: the name of another option. `check_config` enforces them.
    """
    metadata = {"help": help, "bounds": bounds}
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def parse_options(config_class, description=None, words=None):
    """A config_class from the words of a command line, sys.argv if None."""

    def without_bounds(field):  # the parser hands all metadata to argparse
        default = {"default": field.default, "default_factory": field.default_factory}
        help = {"help": field.metadata["help"]}
        return field.name, field.type, dataclasses.field(**default, metadata=help)

    fields = [without_bounds(field) for field in dataclasses.fields(config_class)]
    parser = transformers.HfArgumentParser(
        dataclasses.make_dataclass(config_class.__name__, fields),
        description=description,
        formatter_class=HelpFormatter,
    )
    options, unknown = parser.parse_args_into_dataclasses(words, return_remaining_strings=True)
    if unknown:
        parser.error(f"unknown option {' '.join(unknown)}; --help lists the options")
    return config_class(**vars(options))


class HelpFormatter(transformers.hf_argparser.ArgumentDefaultsHelpFormatter):
    def _fill_text(self, text, width, indent):
        return text  # a script's docstring keeps its own line breaks in --help


def check_config(config):
    """One clear line for the first option that is out of its bounds."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        named = f"--{field.name} {value}"
        for rule, bound in field.metadata["bounds"].items():
            if rule == "at_least" and not value >= bound:
                raise InputError(f"{named}: at least {bound}")
            if rule == "above" and not bound < value < math.inf:
                raise InputError(f"{named}: a number greater than {bound}")
            if rule == "below" and not value < bound:
                raise InputError(f"{named}: a number less than {bound}")
            if rule == "within" and not bound[0] <= value <= bound[1]:
                raise InputError(f"{named}: a number from {bound[0]} to {bound[1]}")
            if rule == "choices":
                for name in value if isinstance(value, list) else [value]:
                    if name not in bound:
                        allowed = ", ".join(map(str, bound))
                        raise InputError(f"--{field.name} {name}: choose from {allowed}")
            if rule == "at_most" and value > getattr(config, bound):
                raise InputError(f"{named}: at most --{bound} {getattr(config, bound)}")
            if rule == "divides" and (value < 1 or getattr(config, bound) % value):
                raise InputError(f"{named}: must divide --{bound} {getattr(config, bound)}")
            if rule == "one_for_each" and len(value) != len(getattr(config, bound)):
                raise InputError(f"--{field.name}: give one number for each of --{bound}")


def launch(train, config_class, description):
    """Parse the command line into config_class and train; bad input becomes one clear line."""
    program = Path(sys.argv[0]).name
    try:
        train(parse_options(config_class, description))
    except InputError as error:
        sys.exit(f"{program}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{program}: stopped")


# ---- A run: its folder, log, console, checkpoints, Ctrl-C ---------------------------------------

COLUMNS = {  # metric -> (header, format)
    "reward": ("reward", "6.3f"),
    "accuracy": ("right", "5.0%"),
    "length": ("tokens", "6.1f"),
    "length_right": ("if right", "8.1f"),
    "length_wrong": ("if wrong", "8.1f"),
    "truncated": ("cut", "4.0%"),
    "entropy": ("entropy", "7.3f"),
    "clip_low": ("clip-", "6.2%"),
    "clip_high": ("clip+", "6.2%"),
    "kl_ref": ("kl ref", "6.4f"),
    "grad_norm": ("grad", "5.2f"),
    "seconds": ("sec", "5.1f"),
}


class Run:
    """One run directory: config.json, metrics.jsonl, samples.jsonl, checkpoint/.

    Nothing is written before everything else is known to be right. `resume` continues from the
    last checkpoint and drops what was logged after it, so that a killed run ends like an
    undisturbed one.
    """

    def __init__(self, config, script):
        check_config(config)
        self.config = config
        self.name = Path(script).stem
        self.stop = False  # set by Ctrl-C
        self.path = Path(config.output_dir or f"runs/{self.name}-seed{config.seed}")
        self.checkpoint = self.path / "checkpoint"
        settings = {"script": self.name, **dataclasses.asdict(config)}
        self.settings = {k: v for k, v in settings.items() if k not in ("resume", "overwrite")}
        self.done = -1  # the last step of the checkpoint
        self.tokens = 0  # generated so far
        self.evaluations = []
        file = self.path / "config.json"
        saved = json.loads(file.read_text()) if file.exists() else {}
        if config.resume and config.overwrite:
            raise InputError("--overwrite: not together with --resume")
        if config.resume:
            if "script" not in saved:
                raise InputError(f"--resume: no run in {self.path}; leave it out to start one")
            for key in self.settings.keys() - {"steps", "output_dir"}:
                if saved.get(key) != self.settings[key]:
                    raise InputError(
                        f"--resume: the run in {self.path} has {key} {saved.get(key)}, not "
                        f"{self.settings[key]}; only --steps may change"
                    )
            if not self.checkpoint.exists() and (self.path / "checkpoint.old").exists():
                os.replace(self.path / "checkpoint.old", self.checkpoint)  # killed while saving
            if self.checkpoint.exists():
                state = json.loads((self.checkpoint / "state.json").read_text())
                self.done = state["step"]
                self.tokens = state["tokens"]
        elif "script" in saved and not config.overwrite:
            raise InputError(
                f"{self.path} holds a run: add --resume or --overwrite, or another --output_dir"
            )
        elif "script" not in saved and any(f.suffix != ".part" for f in self.path.glob("*")):
            raise InputError(f"--output_dir {self.path}: holds other files; choose a new folder")

    def load(self, problems):
        """(model, tokenizer) to train: the checkpoint of a resumed run, or config.model.

        The prompts of `problems` and a whole completion must fit its context.
        """
        name = str(self.checkpoint) if self.done >= 0 else self.config.model
        model, tokenizer = common.load_model(name)
        common.encode_prompts(model, tokenizer, problems, self.config)
        return model, tokenizer

    def steps(self, model, tokenizer, **parts):
        """Yields the steps to do (0: only evaluate) and saves. Ctrl-C saves after the step.

        parts: what a checkpoint holds beside model and tokenizer, by name: the optimizer, and
        anything else with state_dict and load_state_dict.
        """
        if self.config.overwrite:
            shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "config.json", json.dumps(self.settings, indent=1) + "\n")
        for name in ("metrics.jsonl", "samples.jsonl"):
            kept = [row for row in read_jsonl(self.path / name) if row["step"] <= self.done]
            write_text(self.path / name, "".join(json.dumps(row) + "\n" for row in kept))
            self.evaluations += [row for row in kept if "eval_accuracy" in row]
        for name, part in parts.items() if self.done >= 0 else ():
            part.load_state_dict(torch.load(self.checkpoint / f"{name}.pt", weights_only=True))
        size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        print(
            f"{self.name}: {self.config.model}, {size:.2f}M parameters, {DEVICE.type}, "
            f"{torch.get_num_threads()} threads; writing to {self.path}"
        )
        if self.config.resume:
            print(f"resuming after step {self.done}" if self.done >= 0 else "starting over")
        print("step  " + "  ".join(header for header, _ in COLUMNS.values()) + "  time left")
        self.started = time.perf_counter()
        previous = signal.signal(signal.SIGINT, self._interrupt)
        try:
            for step in range(self.done + 1, self.config.steps + 1):
                self.laps = {}
                self.lap_started = time.perf_counter()
                yield step
                last = step == self.config.steps
                if step % self.config.checkpoint_every == 0 or last or self.stop:
                    self._save(step, model, tokenizer, parts)
                if self.stop and not last:
                    sys.exit(f"stopped after step {step}; add --resume to go on")
        finally:
            signal.signal(signal.SIGINT, previous)
        self._print_summary()

    def _interrupt(self, *_):
        print("finishing this step, then saving; press Ctrl-C again to stop at once", flush=True)
        self.stop = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def lap(self, phase):
        """Time since the step began or the last lap goes to `phase`."""
        now = time.perf_counter()
        self.laps[f"seconds_{phase}"] = now - self.lap_started
        self.lap_started = now

    def log(self, step, metrics):
        """Append one step to metrics.jsonl and print one aligned line."""
        self.tokens += metrics["tokens_sampled"]
        metrics = {**metrics, "tokens_total": self.tokens, **self.laps}
        metrics["seconds"] = sum(self.laps.values())
        for phase in self.laps:
            metrics[phase.replace("seconds", "tokens_per_second")] = (
                metrics["tokens_sampled"] / self.laps[phase]
            )
        metrics["peak_memory_mb"] = peak_memory_mb()
        self._append("metrics.jsonl", {"step": step, **metrics})
        cells = []
        for name, (header, style) in COLUMNS.items():
            value = metrics.get(name)
            cells.append(("-" if value is None else format(value, style)).rjust(len(header)))
        self.pace = 0.7 * getattr(self, "pace", metrics["seconds"]) + 0.3 * metrics["seconds"]
        left = self.pace * (self.config.steps - step)
        print(f"{step:4d}  " + "  ".join(cells) + f"  {left / 60:6.1f} min", flush=True)

    def log_evaluation(self, step, rollouts):
        """Append held-out results to metrics.jsonl and a few transcripts to samples.jsonl.

        rollouts hold one completion per held-out problem.
        """
        evaluated = [part for rollout in rollouts for part in transcripts(rollout)]
        truncated = [value for rollout in rollouts for value in rollout.truncated.tolist()]
        metrics = {
            "accuracy": statistics.fmean(part["right"] for part in evaluated),
            "length": sum(rollout.tokens_sampled for rollout in rollouts) / len(evaluated),
            "truncated": statistics.fmean(truncated),
            "problems": len(evaluated),
        }
        row = {"step": step, **{f"eval_{name}": value for name, value in metrics.items()}}
        self.evaluations.append(row)
        self._append("metrics.jsonl", row)
        for sample in evaluated[:8]:
            self._append("samples.jsonl", {"step": step, **sample})
        print(
            f"{step:4d}  held-out: {accuracy_text(metrics)} right of "
            f"{metrics['problems']} problems, {metrics['length']:.0f} tokens each",
            flush=True,
        )

    def _append(self, name, row):
        row = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
        }
        with open(self.path / name, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _save(self, step, model, tokenizer, parts):
        """checkpoint/ is replaced by renaming, so that it is whole at every moment."""
        new, current, old = (self.path / f"checkpoint{end}" for end in (".new", "", ".old"))
        shutil.rmtree(new, ignore_errors=True)
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
        for name, part in parts.items():
            torch.save(part.state_dict(), new / f"{name}.pt")
        write_text(new / "state.json", json.dumps({"step": step, "tokens": self.tokens}))
        shutil.rmtree(old, ignore_errors=True)
        if current.exists():
            os.replace(current, old)
        os.replace(new, current)
        shutil.rmtree(old, ignore_errors=True)

    def _print_summary(self):
        if self.evaluations:
            first, last = (
                {k.removeprefix("eval_"): v for k, v in row.items()}
                for row in (self.evaluations[0], self.evaluations[-1])
            )
            print(
                f"\nheld-out accuracy {accuracy_text(first)} at step {first['step']} -> "
                f"{accuracy_text(last)} at step {last['step']} (95% interval)"
            )
        minutes = (time.perf_counter() - self.started) / 60
        print(
            f"{self.tokens:,} tokens generated, {minutes:.1f} minutes, peak memory "
            f"{peak_memory_mb():.0f} MB\nlog: {self.path}/metrics.jsonl, transcripts: "
            f"{self.path}/samples.jsonl\ntry the model: python -m tools.play 3 7 12 "
            f"--target 33 --model {self.path}/checkpoint"
        )


# ---- Metrics ------------------------------------------------------------------------------------

FORK_ENTROPY = 0.5  # nats; a token is a fork if the sampler was less sure than this


class TokenMetrics:
    """Means over the completion tokens of all minibatches; for `ratio` also the extremes."""

    def __init__(self):
        self.sums = {}
        self.count = 0  # tokens
        self.lowest_ratio = 1.0
        self.highest_ratio = 1.0
        self.forks = 0
        self.forks_clipped = 0
        self.grad_norms = []

    def add(self, metrics, mask, entropy):
        """What policy_loss reports of one micro-batch, each (b, T') or (b, 1)."""
        if not mask.any():  # overlong filtering can empty a micro-batch
            return
        self.count += mask.sum().item()
        clipped = metrics["clip_high"] | metrics.get("clip_low", metrics["clip_high"])
        forks = (mask > 0) & (entropy > FORK_ENTROPY)
        self.forks += forks.sum().item()
        self.forks_clipped += (forks & clipped).sum().item()
        for name, values in metrics.items():
            values = values.detach().expand_as(mask)
            self.sums[name] = self.sums.get(name, 0.0) + (values * mask).sum().item()
            if name == "ratio":
                low, high = values[mask > 0].aminmax()
                self.lowest_ratio = min(self.lowest_ratio, low.item())
                self.highest_ratio = max(self.highest_ratio, high.item())

    def summary(self):
        """{metric: value}; None for what was not measured, because no group had signal."""
        names = ("ratio", "clip_low", "clip_high", "kl_ref", "kl_old")
        means = {name: total / self.count for name, total in self.sums.items()}
        return {
            **(means or dict.fromkeys(names)),
            "ratio_min": self.lowest_ratio if means else None,
            "ratio_max": self.highest_ratio if means else None,
            "clip_forks": self.forks_clipped / self.forks if self.forks else None,
            "grad_norm": statistics.fmean(self.grad_norms) if self.grad_norms else None,
            "updates": len(self.grad_norms),
        }


def describe(rollout, rewards, config):
    """What was sampled: rewards (P, G, K), lengths of right and wrong completions, entropy."""

    def mean(values):
        return values.float().mean().item() if values.numel() else None

    lengths = rollout.mask.sum(1)
    right = rollout.correct > 0
    weights = torch.tensor(config.reward_weights)
    pooled = (rewards[..., : len(weights)] * weights).sum(-1)
    spread = pooled.amax(1) - pooled.amin(1)  # (P,) of each group
    components = {
        f"reward_{name}": mean(rewards[..., index])
        for index, name in enumerate(config.reward_components)
    }
    return {
        "reward": mean(pooled),
        "accuracy": mean(rollout.correct),
        **components,
        "length": mean(lengths),
        "length_right": mean(lengths[right]),
        "length_wrong": mean(lengths[~right]),
        "truncated": mean(rollout.truncated),
        "entropy": (rollout.entropy.sum() / rollout.mask.sum()).item(),
        "groups_without_signal": mean(spread < 1e-6) if pooled.shape[1] > 1 else None,
        "completions_sampled": rollout.completions_sampled,
        "tokens_sampled": rollout.tokens_sampled,
    }


def explained_variance(rollout, rewards, config):
    """Share of the variance of R that a critic's values explain, over all tokens and by quarter.

    Rewards (P, G, K), rollout.values (B, T); quarters of each completion: _q1 to _q4. Against R,
    not against the returns that the critic is trained on: for lambda < 1 those contain its values.
    None where R does not vary.
    """
    mask = rollout.mask > 0  # (B, T)
    pooled = (rewards * torch.tensor(config.reward_weights)).sum(-1)  # (P, G)
    R = pooled.to(rollout.mask).view(-1, 1).expand_as(mask)
    rest = R - rollout.values
    place = rollout.mask.cumsum(1) / (rollout.mask.sum(1, keepdim=True) + 1)  # in (0, 1)
    parts = {"explained": mask}
    parts |= {f"explained_q{q + 1}": mask & ((4 * place).long() == q) for q in range(4)}
    return {
        name: 1 - (rest[on].var() / R[on].var()).item() if R[on].var() > 1e-9 else None
        for name, on in parts.items()
    }


def auc(score, right):
    """Chance that a right completion scores higher than a wrong one: scores and 0 or 1, (B,).

    Half is guessing; None if there are not both.
    """
    above = score[right > 0, None] - score[right == 0]  # (right, wrong)
    return (above > 0).float().add(above == 0, alpha=0.5).mean().item() if above.numel() else None


def transcripts(rollout):
    """[{numbers, target, right, completion}] of every row."""
    rows = zip(rollout.problems, rollout.correct.tolist(), rollout.completions, strict=True)
    return [
        {
            "numbers": problem.numbers,
            "target": problem.target,
            "right": bool(right),
            "completion": text,
        }
        for problem, right, text in rows
    ]


# ---- Files, numbers -----------------------------------------------------------------------------


def accuracy_text(metrics):
    half = 1.96 * math.sqrt(metrics["accuracy"] * (1 - metrics["accuracy"]) / metrics["problems"])
    return f"{metrics['accuracy']:.1%} ± {half:.1%}"


def read_jsonl(path):
    """Rows of a log; a last line cut off by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def write_text(path, text):
    """Write a whole file or nothing."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def peak_memory_mb():
    """Largest memory of this process so far: on CUDA the GPU's, else resident memory."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # Windows has no getrusage
        return math.nan
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit

"""A run as its user sees it: command line, folder, log, console, checkpoints, Ctrl-C."""

import dataclasses
import json
import math
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
import transformers

from common import DEVICE, load_model
from countdown_task import REWARDS, InputError


def launch(train, config_class, description):
    """Parse the command line into config_class and train; bad input becomes one clear line."""
    parser = transformers.HfArgumentParser(
        config_class, description=description, formatter_class=HelpFormatter
    )
    config, unknown = parser.parse_args_into_dataclasses(return_remaining_strings=True)
    if unknown:
        parser.error(f"unknown option {' '.join(unknown)}; --help lists the options")
    try:
        train(config)
    except InputError as error:
        sys.exit(f"{parser.prog}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{parser.prog}: stopped")


class HelpFormatter(transformers.hf_argparser.ArgumentDefaultsHelpFormatter):
    def _fill_text(self, text, width, indent):
        return text  # a script's docstring keeps its own line breaks in --help


def check_config(config):
    """One clear line for the first option that cannot work."""
    at_least = dict.fromkeys(["steps", "eval_every", "clip_low", "clip_high"], 0)
    at_least |= dict.fromkeys(["prompts_per_step", "minibatches", "max_new_tokens"], 1)
    at_least |= dict.fromkeys(["eval_problems", "tokens_per_microbatch", "checkpoint_every"], 1)
    at_least |= {"group_size": 2, "max_refills": 0, "overlong_cache": 1}  # the last two: dapo.py
    for name, low in at_least.items():
        if getattr(config, name, low) < low:
            raise InputError(f"--{name} {getattr(config, name)}: at least {low}")
    for name in ("temperature", "learning_rate", "max_grad_norm"):
        if not 0 < getattr(config, name) < math.inf:
            raise InputError(f"--{name} {getattr(config, name)}: a number greater than 0")
    if config.prompts_per_step % config.minibatches:
        raise InputError(
            f"--minibatches {config.minibatches}: must divide --prompts_per_step "
            f"{config.prompts_per_step}, so that groups stay whole"
        )
    if getattr(config, "overlong_cache", 0) > config.max_new_tokens:
        raise InputError(
            f"--overlong_cache {config.overlong_cache}: at most --max_new_tokens "
            f"{config.max_new_tokens}, of which it is the last part"
        )
    if config.dtype not in ("auto", "float32", "bfloat16"):
        raise InputError(f"--dtype {config.dtype}: auto, float32 or bfloat16")
    for name in config.reward_components:
        if name not in REWARDS:
            raise InputError(f"--reward_components {name}: choose from {', '.join(REWARDS)}")
    if len(config.reward_weights) != len(config.reward_components):
        raise InputError("--reward_weights: give one number for each of --reward_components")


# -------------------------------------------------------------------------------------------------
# A run: its folder, log, console, checkpoints, Ctrl-C

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
        self.config, self.name, self.stop = config, Path(script).stem, False
        self.path = Path(config.output_dir or f"runs/{self.name}-seed{config.seed}")
        self.checkpoint = self.path / "checkpoint"
        settings = {"script": self.name, **dataclasses.asdict(config)}
        self.settings = {k: v for k, v in settings.items() if k not in ("resume", "overwrite")}
        self.done, self.tokens, self.evaluations = -1, 0, []
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
                self.done, self.tokens = state["step"], state["tokens"]
        elif "script" in saved and not config.overwrite:
            raise InputError(
                f"{self.path} holds a run: add --resume or --overwrite, or another --output_dir"
            )
        elif "script" not in saved and any(f.suffix != ".part" for f in self.path.glob("*")):
            raise InputError(f"--output_dir {self.path}: holds other files; choose a new folder")

    def load(self):
        """(model, tokenizer) to train: the checkpoint of a resumed run, or config.model."""
        return load_model(str(self.checkpoint) if self.done >= 0 else self.config.model)

    def steps(self, model, tokenizer, optimizer):
        """Yields the steps to do (0: only evaluate) and saves. Ctrl-C saves after the step."""
        if self.config.overwrite:
            shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "config.json", json.dumps(self.settings, indent=1) + "\n")
        for name in ("metrics.jsonl", "samples.jsonl"):
            kept = [row for row in read_jsonl(self.path / name) if row["step"] <= self.done]
            write_text(self.path / name, "".join(json.dumps(row) + "\n" for row in kept))
            self.evaluations += [row for row in kept if "eval_accuracy" in row]
        if self.done >= 0:
            state = torch.load(self.checkpoint / "optimizer.pt", weights_only=True)
            optimizer.load_state_dict(state)
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
                self.lap_started, self.laps = time.perf_counter(), {}
                yield step
                last = step == self.config.steps
                if step % self.config.checkpoint_every == 0 or last or self.stop:
                    self._save(step, model, tokenizer, optimizer)
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
        self.laps[f"seconds_{phase}"], self.lap_started = now - self.lap_started, now

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

    def log_evaluation(self, step, metrics, samples):
        """Append held-out results to metrics.jsonl and a few transcripts to samples.jsonl."""
        row = {"step": step, **{f"eval_{name}": value for name, value in metrics.items()}}
        self.evaluations.append(row)
        self._append("metrics.jsonl", row)
        for sample in samples:
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

    def _save(self, step, model, tokenizer, optimizer):
        """checkpoint/ is replaced by renaming, so that it is whole at every moment."""
        new, current, old = (self.path / f"checkpoint{end}" for end in (".new", "", ".old"))
        shutil.rmtree(new, ignore_errors=True)
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
        torch.save(optimizer.state_dict(), new / "optimizer.pt")
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
            f"{self.path}/samples.jsonl\ntry the model: python countdown_task.py 3 7 12 "
            f"--target 33 --model {self.path}/checkpoint"
        )


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

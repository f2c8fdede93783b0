"""A run as its user sees it: options, log, console, checkpoints, Ctrl-C, clear refusals."""

import argparse
import contextlib
import dataclasses
import math
import os
import shlex
import signal
import statistics
import sys
import time
from pathlib import Path

import torch
import transformers

import common
from common import DEVICE
from countdown_task import InputError, longest_prompts
from metrics import COLUMNS, accuracy_text, peak_memory_mb, transcripts
from metrics import TokenMetrics as TokenMetrics  # for the scripts, as the next three
from metrics import auc as auc
from metrics import describe as describe
from metrics import explained_variance as explained_variance
from run_folder import RunFolder, one_line, read_jsonl

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
    parser = Parser(
        dataclasses.make_dataclass(config_class.__name__, fields),
        description=description,
        formatter_class=HelpFormatter,
    )
    options, unknown = parser.parse_args_into_dataclasses(words, return_remaining_strings=True)
    if unknown:
        parser.error(f"unknown option {' '.join(unknown)}; --help lists the options")
    config = config_class(**vars(options))
    given, _ = parser.parse_known_args(words, argparse.Namespace(steps=None))
    config.steps_given = given.steps is not None  # no field, so that no log holds it
    return config


class Parser(transformers.HfArgumentParser):
    def error(self, message):
        """One line, without the page of all options above it."""
        self.exit(2, f"{self.prog}: {common.printable(message)}\n")


class HelpFormatter(transformers.hf_argparser.ArgumentDefaultsHelpFormatter):
    def _fill_text(self, text, width, indent):
        return text  # a script's docstring keeps its own line breaks in --help


def check_config(config):
    """One clear line for the first option that is out of its bounds, or of any sensible ones."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        named = f"--{field.name} {value}"
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and abs(number) >= 2**63:
                raise InputError(f"{named}: a whole number of less than 2^63")
            if isinstance(number, float) and number and not 1e-30 <= abs(number) <= 1e30:
                raise InputError(f"{named}: a number of size 1e-30 to 1e30, or 0")
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
    tokens = config.prompts_per_step * config.group_size * config.max_new_tokens
    if tokens >= 2**31:
        names = "--prompts_per_step x --group_size x --max_new_tokens"
        raise InputError(f"{names}: {tokens} tokens of a rollout are too many")


def launch(train, config_class, description):
    """Parse the command line into config_class and train; what goes wrong becomes one line."""
    program = Path(sys.argv[0]).name
    with contextlib.suppress(AttributeError):  # a notebook's stdout cannot be reconfigured
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that lacks ± gets \xb1
    try:
        with on_signals(signal.default_int_handler):
            train(parse_options(config_class, description))
    except InputError as error:
        sys.exit(f"{program}: {common.printable(error)}")
    except KeyboardInterrupt:
        sys.exit(f"{program}: stopped")
    except (MemoryError, torch.OutOfMemoryError):
        sys.exit(f"{program}: out of memory; lower --tokens_per_microbatch or --group_size")
    except OSError as error:  # the run's files have their own lines: this is the console
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more to it
        sys.exit(f"{program}: output stopped ({error.strerror}); add --resume to go on")


@contextlib.contextmanager
def on_signals(handler):
    """Ctrl-C, and the SIGTERM that schedulers send, call `handler` inside `with`."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler_before in previous.items():
            signal.signal(number, handler_before)


# ---- A run: log, console, checkpoints, Ctrl-C ---------------------------------------------------


class Run:
    """One run: its steps, its log and console, its folder (run_folder.py).

    Nothing is written before everything else is known to be right. `resume` continues from the
    last checkpoint and drops what was logged after it, so that a killed run ends like an
    undisturbed one.
    """

    def __init__(self, config, script):
        self.name = Path(script).stem
        self.folder = RunFolder(config.output_dir or f"runs/{self.name}-seed{config.seed}")
        if config.resume and not getattr(config, "steps_given", True):
            config.steps = self.folder.saved_steps(config.steps)
        check_config(config)
        if config.resume and config.overwrite:
            raise InputError("--overwrite: not together with --resume")
        self.config = config
        self.stop = False  # set by Ctrl-C
        self.last_norm = None  # the gradient's, of the last step that updated
        self.path = self.folder.path
        settings = {"script": self.name, **dataclasses.asdict(config)}
        self.settings = {k: v for k, v in settings.items() if k not in ("resume", "overwrite")}
        self.state = self.folder.inspect(self.settings, config.resume, config.overwrite)
        self.done = self.state["step"]  # the last step of the checkpoint
        self.tokens = self.state["tokens"]  # generated so far

    def load(self, problems):
        """(model, tokenizer) to train: the checkpoint of a resumed run, or config.model.

        The prompts of `problems`, and of --data, and a whole completion must fit its context.
        """
        name = str(self.folder.latest()) if self.done >= 0 else self.config.model
        model, tokenizer = common.load_model(name)
        one_each = dataclasses.replace(self.config, group_size=1)
        asked = problems + longest_prompts(self.config.data)
        common.encode_prompts(model, tokenizer, asked, one_each)
        return model, tokenizer

    def steps(self, model, tokenizer, **parts):
        """Yields the steps to do (0: only evaluate) and saves. Ctrl-C saves after the step.

        parts: what a checkpoint holds beside model and tokenizer, by name: the optimizer, and
        anything else with state_dict and load_state_dict.
        """
        config = self.config
        with self.folder.owned(), on_signals(self._interrupt):
            if self.folder.inspect(self.settings, config.resume, config.overwrite) != self.state:
                raise InputError(f"{self.path}: another process has gone on with it; start again")
            for name, part in parts.items() if self.done >= 0 else ():
                file = self.folder.latest() / f"{name}.pt"
                with one_line(file):
                    part.load_state_dict(torch.load(file, weights_only=True))
            self.folder.begin(self.settings, self.state, config.overwrite)
            rows = read_jsonl(self.path / "metrics.jsonl")
            self.evaluations = [row for row in rows if "eval_accuracy" in row]
            self.model = model
            self._print_head()
            for step in range(self.done + 1, config.steps + 1):
                self.laps = {}
                self.lap_started = time.perf_counter()
                yield step
                last = step == config.steps
                if step % config.checkpoint_every == 0 or last or self.stop:
                    self._save(step, model, tokenizer, parts)
                if self.stop and not last:
                    sys.exit(f"stopped after step {step}; add --resume to go on")
        self._print_summary()

    def _interrupt(self, *_):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        self.stop = True
        with contextlib.suppress(RuntimeError):  # the signal came in the middle of another print
            print("finishing this step, then saving; Ctrl-C again stops at once", flush=True)

    def _save(self, step, model, tokenizer, parts):
        state = {"step": step, "tokens": self.tokens, "settings": self.settings}
        self.folder.save(state, model, tokenizer, parts)
        self.done = step

    def lap(self, phase):
        """Time since the step began or the last lap goes to `phase`."""
        now = time.perf_counter()
        self.laps[f"seconds_{phase}"] = max(now - self.lap_started, 1e-9)  # clocks may jump
        self.lap_started = now

    def log(self, step, metrics):
        """Append one step to metrics.jsonl and print one aligned line.

        InputError if its update has broken the model: gradient or weights are not finite.
        """
        self._refuse_if_broken(step, metrics)
        self.tokens += metrics["tokens_sampled"]
        metrics = {**metrics, "tokens_total": self.tokens, **self.laps}
        metrics["seconds"] = sum(self.laps.values())
        for phase in self.laps:
            metrics[phase.replace("seconds", "tokens_per_second")] = (
                metrics["tokens_sampled"] / self.laps[phase]
            )
        metrics["peak_memory_mb"] = peak_memory_mb()
        self.folder.append("metrics.jsonl", {"step": step, **metrics})
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
        self.folder.append("metrics.jsonl", row)
        for sample in evaluated[:8]:
            self.folder.append("samples.jsonl", {"step": step, **sample})
        print(
            f"{step:4d}  held-out: {accuracy_text(metrics)} right of "
            f"{metrics['problems']} problems, {metrics['length']:.0f} tokens each",
            flush=True,
        )

    def _refuse_if_broken(self, step, metrics):
        """The log says so too, and no checkpoint is written: the last one is from before it."""
        norm = metrics.get("grad_norm")  # None: no group had signal
        weight_norm = torch.nn.utils.get_total_norm(self.model.parameters())
        if weight_norm.isfinite() and (norm is None or math.isfinite(norm)):
            if norm is not None:
                self.last_norm = norm
            return
        good = metrics.get("last_good_norm") or self.last_norm
        before = "" if good is None else f", before it {good:.2g}"
        which = metrics.get("broken_update", metrics.get("updates"))
        message = (
            f"step {step}: update {which} broke the model (gradient norm {norm}{before}); lower "
            f"--learning_rate {self.config.learning_rate} and start again; the checkpoint of step "
            f"{self.done} is kept"
        )
        self.folder.append("metrics.jsonl", {"step": step, "stopped": message})
        raise InputError(message)

    def _print_head(self):
        size = sum(parameter.numel() for parameter in self.model.parameters()) / 1e6
        print(
            f"{self.name}: {self.config.model}, {size:.2f}M parameters, {DEVICE.type}, "
            f"{torch.get_num_threads()} threads; writing to {self.path}"
        )
        if self.config.resume:
            begun = (
                f"resuming after step {self.done}, to" if self.done >= 0 else "starting over, to"
            )
            print(f"{begun} {self.config.steps}")
        print("step  " + "  ".join(header for header, _ in COLUMNS.values()) + "  time left")
        self.started = time.perf_counter()

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
            f"--target 33 --model {shlex.quote(str(self.folder.checkpoint))}"
        )

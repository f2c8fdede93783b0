"""A run as its user sees it: log, console, checkpoints, Ctrl-C, clear refusals."""

import contextlib
import dataclasses
import datetime
import math
import os
import shlex
import signal
import statistics
import sys
import threading
import time
from pathlib import Path

from runtime import devices, lora, trackers
from runtime.check import check_model
from runtime.measures import COLUMNS, accuracy_text, peak_memory_mb, transcripts
from runtime.options import check_config, parse_options
from runtime.run_folder import RunFolder, one_line, read_jsonl
from runtime.threads import Threads

import torch

import common
from tasks import InputError, printable

TRACKERS = ("none", *trackers.WRITERS)  # of --report_to


def launch(train, config_class, description):
    """Parse the command line into config_class and train; what goes wrong becomes one line."""
    program = Path(sys.argv[0]).name
    with contextlib.suppress(AttributeError):  # a notebook's stdout cannot be reconfigured
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that lacks ± gets \xb1
    try:
        with on_signals(signal.default_int_handler):
            train(parse_options(config_class, description))
    except InputError as error:
        sys.exit(f"{program}: {printable(error)}")
    except KeyboardInterrupt:
        sys.exit(f"{program}: stopped")
    except (MemoryError, torch.OutOfMemoryError):
        sys.exit(f"{program}: out of memory; lower --tokens_per_microbatch or --group_size")
    except NotImplementedError as error:
        if common.MODEL_DEVICE.type != "mps":
            raise
        lacks = printable(str(error).partition(". ")[0])  # "The operator ... for the MPS device"
        sys.exit(
            f"{program}: --device mps: {lacks}; PYTORCH_ENABLE_MPS_FALLBACK=1, or --device cpu"
        )
    except OSError as error:  # the run's files have their own lines: the console, or a task's own
        if console_works():
            raise
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more to it
        sys.exit(f"{program}: output stopped ({error.strerror}); add --resume to go on")


def console_works():
    try:
        print(flush=True)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def on_signals(handler):
    """Ctrl-C, and the SIGTERM that schedulers send, call `handler` inside `with`.

    Only in a process's main thread: in another, as of a notebook's server, signals are not ours.
    """
    in_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main else ()
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler_before in previous.items():
            signal.signal(number, handler_before)


def refuse_own_model(model, folder):
    """InputError if a run would write over the model that it starts from, and so its reference."""
    if os.path.exists(model) and os.path.exists(folder):
        place = Path(model).resolve()
        if Path(folder).resolve() in (place, *place.parents):
            raise InputError(
                f"--model {model}: lies in {folder}, which this run writes over; choose another "
                "--output_dir"
            )


def refuse_second_network(config):
    """InputError if a script also trains a critic or a reward model: adapters are the policy's."""
    for name in vars(config):
        if name.endswith("_learning_rate"):
            raise InputError(
                f"--lora_rank: this script trains a second network (--{name}), and adapters are "
                "the policy's alone; take another script"
            )


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
        trackers.check_installed(config.report_to)
        common.use_device(config.device)
        lora.BASES.clear()  # what an earlier run in this process has frozen is not this run's
        if config.lora_rank:
            refuse_second_network(config)
            lora.check_installed(f"--lora_rank {config.lora_rank}")
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # torchrun's
            raise InputError("one process, one device; docs/graduate.md says how to use more")
        common.check_size(config.prompts_per_step * config.group_size, config)
        if config.resume and config.overwrite:
            raise InputError("--overwrite: not together with --resume")
        self.config = config
        self.stop = False  # set by Ctrl-C
        self.fruitless = 0  # steps in a row that were all cut and taught nothing
        self.far = False  # once kl_ref has been so large that it needs a word
        self.last_norm = None  # the gradient's, of the last step that updated
        self.path = self.folder.path
        settings = {"script": self.name, **dataclasses.asdict(config)}
        self.settings = {k: v for k, v in settings.items() if k not in ("resume", "overwrite")}
        refuse_own_model(config.model, self.path)
        self.state = self.folder.inspect(self.settings, config.resume, config.overwrite)
        self.done = self.state["step"]  # the last step of the checkpoint
        self.tokens = self.state["tokens"]  # generated so far
        now = datetime.datetime.now().isoformat()
        self.date = self.state.get("date", now)  # of the prompts, where a template writes it

    def load(self, problems):
        """(model, tokenizer) to train: the checkpoint of a resumed run, or config.model.

        The engine must be able to run it, and the prompts of `problems` and a whole completion must
        fit its context: InputError now, and not in mid-run.
        """
        name = str(self.folder.latest()) if self.done >= 0 else self.config.model
        model, tokenizer = common.load_model(name, self.config)
        if lora.has_adapters(model):
            refuse_second_network(self.config)
        tokenizer.date = datetime.datetime.fromisoformat(self.date)
        one_each = dataclasses.replace(self.config, group_size=1)
        prompts = common.encode_prompts(model, tokenizer, problems, one_each)
        check_model(model, max(map(len, prompts)) + self.config.max_new_tokens)
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
                    part.load_state_dict(torch.load(file, "cpu", weights_only=True))
            self.folder.begin(self.settings, self.state, config.overwrite)
            rows = read_jsonl(self.path / "metrics.jsonl")
            self.evaluations = [row for row in rows if "eval_accuracy" in row]
            self.model = model
            self.threads = Threads(model, config, self.state.get("threads"))
            self.tracker = trackers.Tracker(config.report_to, self.path, self.settings, rows)
            self._print_head()
            with self.tracker:
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
        threads = torch.get_num_threads()
        state = {"step": step, "tokens": self.tokens, "threads": threads, "date": self.date}
        state["settings"] = self.settings
        self.folder.save(state, model, tokenizer, parts)
        self.done = step

    def lap(self, phase):
        """Time since the step began or the last lap goes to `phase`."""
        now = time.perf_counter()
        self.laps[f"seconds_{phase}"] = max(now - self.lap_started, 1e-9)  # clocks may jump
        self.lap_started = now

    def log(self, step, metrics):
        """Log one step and print one aligned line.

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
        metrics["threads"] = torch.get_num_threads()
        self._record(step, "step", metrics)
        cells = []
        for name, (header, style) in COLUMNS.items():
            value = metrics.get(name)
            cells.append(("-" if value is None else format(value, style)).rjust(len(header)))
        self.pace = 0.7 * getattr(self, "pace", metrics["seconds"]) + 0.3 * metrics["seconds"]
        left = self.pace * (self.config.steps - step)
        print(f"{step:4d}  " + "  ".join(cells) + f"  {left / 60:6.1f} min", flush=True)
        remark = self.threads.after_step(step, metrics["seconds"], metrics["tokens_sampled"])
        if remark:
            print(remark, flush=True)
        nothing = metrics["truncated"] == 1 and metrics["updates"] == 0
        self.fruitless = self.fruitless + 1 if nothing else 0
        if self.fruitless == 3:
            print(
                "for three steps every completion was cut and no group had signal, so nothing is "
                "learnt: raise --max_new_tokens, or see in samples.jsonl whether the model knows "
                "the format",
                flush=True,
            )
        if not self.far and (metrics.get("kl_ref") or 0) > 10:
            self.far = True
            print(
                "kl ref is made by a few tokens now, which the initial model often writes and the "
                "policy hardly ever: k3 has no upper bound there (docs/metrics.md)",
                flush=True,
            )

    def log_evaluation(self, step, rollouts):
        """Log held-out results, and append a few transcripts to samples.jsonl.

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
        row = {f"eval_{name}": value for name, value in metrics.items()}
        self.evaluations.append({"step": step, **row})
        self._record(step, "evaluation", row)
        for sample in evaluated[:8]:
            self.folder.append("samples.jsonl", {"step": step, **sample})
        print(
            f"{step:4d}  held-out: {accuracy_text(metrics)} right of "
            f"{metrics['problems']} problems, {metrics['length']:.0f} tokens each",
            flush=True,
        )

    def _refuse_if_broken(self, step, metrics):
        """InputError if a step left weights or gradient that are not finite.

        The reason is logged as well. No checkpoint is written, so the last one is still a good one.
        """
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
        if not math.isfinite(metrics["reward"]):
            message = f"step {step}: the reward is {metrics['reward']}; a reward is finite"
        self._record(step, "stopped", {"stopped": message})
        raise InputError(message)

    def _record(self, step, kind, metrics):
        """One row of metrics.jsonl, which the tracker gets as well."""
        row = {"step": step, "kind": kind, **metrics}
        self.folder.append("metrics.jsonl", row)
        self.tracker.log(row)

    def _print_head(self):
        parameters = list(self.model.parameters())
        size = sum(one.numel() for one in parameters) / 1e6
        learnt = sum(one.numel() for one in parameters if one.requires_grad) / 1e6
        of_them = f" ({learnt:.2f}M of them trained)" if learnt < size else ""
        number = torch.get_num_threads()
        threads = f"{number} thread{'s' if number > 1 else ''} ({self.threads.why})"
        print(
            f"{self.name}: {self.config.model}, {size:.2f}M parameters{of_them}, "
            f"{common.MODEL_DEVICE.type}, {threads}; writing to {self.path}"
        )
        if self.config.resume:
            begun = (
                f"resuming after step {self.done}, to" if self.done >= 0 else "starting over, to"
            )
            print(f"{begun} {self.config.steps}")
        if self.config.dtype == "bfloat16" and common.MODEL_DEVICE.type == "cpu":
            slowness = devices.bf16_slowness()
            if slowness > 2:
                print(
                    f"--dtype bfloat16: a product takes this CPU {slowness:.0f} times as long as "
                    "one in float32"
                )
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
            f"{self.path}/samples.jsonl"
        )
        if self.config.task == "countdown_task":
            checkpoint = shlex.quote(str(self.folder.checkpoint))
            print(f"try the model: python -m tools.play 3 7 12 --target 33 --model {checkpoint}")

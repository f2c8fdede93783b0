"""What a fault is: the points of a run that it can hit, and what happens there.

tests/faults/faults.py tries them.
"""

import builtins
import errno
import functools
import importlib
import io
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from runtime import session

import safetensors
import torch
import transformers

# ---- Where a fault can hit ----------------------------------------------------------------------

PHASES = ("sample_batch", "compute_rewards", "compute_advantages", "policy_loss")
PHASES += ("aggregate_loss", "over_rollout", "update_policy", "evaluate")  # of a script
WRITES = ("open to write", "write", "flush", "close", "native", "fsync", "os.mkdir")


class Watch:
    """In a run's process: acts at one of its points, or lists them all.

    A point is a file operation in the run's folder or a phase of a step, begun or ended. Python
    reports its file operations itself (audit events); what a file object or a library in another
    language writes is watched by standing in for it.
    """

    def __init__(self, script, folder, at=None, act=None, listing=None):
        self.script = script
        self.folder = str(folder)
        self.at = at  # the point's number
        self.act = act  # act(watch, kind, half): half() does half of the point's writing
        self.listing = listing
        self.count = 0
        self.busy = False  # what an action does is no point
        self.always = None  # an action for every later point too

    def point(self, kind, path="", half=None):
        if self.busy:
            return
        self.busy = True
        try:
            if self.listing:
                with self.real_open(self.listing, "a") as file:
                    name = os.path.relpath(path or self.folder, self.folder)
                    file.write(json.dumps([kind, name]) + "\n")
            self.count += 1
            if self.always:
                self.always(self, kind, half)
            if self.count - 1 == self.at:
                self.act(self, kind, half)
        finally:
            self.busy = False

    def audit(self, event, arguments):
        if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.scandir"):
            path = arguments[0]
            relative = event in ("os.remove", "os.rmdir") and arguments[1] not in (None, -1)
            if relative or (isinstance(path, str | Path) and str(path).startswith(self.folder)):
                writing = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
                self.point("open to write" if writing else event, "" if relative else str(path))

    def install(self):
        self.real_open = builtins.open
        builtins.open = io.open = self.open
        os.fsync = lambda _: self.point("fsync")
        torch.save = self.native(torch.save, 1)
        modeling = transformers.modeling_utils
        modeling.safe_save_file = self.native(modeling.safe_save_file, 1)
        save = transformers.PreTrainedTokenizerBase.save_pretrained
        transformers.PreTrainedTokenizerBase.save_pretrained = self.native(save, 1)
        module = importlib.import_module(self.script)
        for owner, names in ((module, PHASES), (session.Run, ("log", "log_evaluation", "load"))):
            for name in names:
                setattr(owner, name, self.phase(name, getattr(owner, name)))
        sys.addaudithook(self.audit)

    def open(self, path, mode="r", *arguments, **options):
        file = self.real_open(path, mode, *arguments, **options)
        ours = str(path).startswith(self.folder) and set(mode) & set("wa")
        return WatchedFile(file, str(path), self) if ours else file

    def native(self, function, where):
        @functools.wraps(function)
        def replacement(*arguments, **options):
            path = Path(arguments[where])

            def half():
                function(*arguments, **options)
                for file in path.iterdir() if path.is_dir() else [path]:
                    os.truncate(file, file.stat().st_size // 2)

            if str(path).startswith(self.folder):
                self.point("native", path, half)
            return function(*arguments, **options)

        return replacement

    def phase(self, name, function):
        @functools.wraps(function)
        def replacement(*arguments, **options):
            self.point(f"before {name}")
            result = function(*arguments, **options)
            self.point(f"after {name}")
            return result

        return replacement


class WatchedFile:
    """A file being written, each of whose operations is a point."""

    def __init__(self, file, path, watch):
        self.file = file
        self.path = path
        self.watch = watch

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        def half():
            self.file.write(data[: len(data) // 2])
            self.file.flush()

        self.watch.point("write", self.path, half)
        return self.file.write(data)

    def flush(self):
        self.watch.point("flush", self.path)
        self.file.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.watch.point("close", self.path)
        finally:
            self.file.close()


# ---- What happens there -------------------------------------------------------------------------


def kill(watch, kind, half):
    os.kill(os.getpid(), signal.SIGKILL)


def kill_half_way(watch, kind, half):
    half()
    os.kill(os.getpid(), signal.SIGKILL)


def no_space(watch, kind, half):
    """From here on nothing can be written; what is under way is written by half."""
    watch.always = no_space
    if kind in WRITES:
        if half:
            half()
        if kind == "native":  # torch, safetensors and tokenizers each raise their own
            message = "I/O error: No space left on device (os error 28)"
            raise random.choice([RuntimeError, safetensors.SafetensorError, Exception])(message)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def input_output_error(watch, kind, half):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def interrupt(watch, kind, half):
    os.kill(os.getpid(), signal.SIGINT)


def terminate(watch, kind, half):
    os.kill(os.getpid(), signal.SIGTERM)


def terminate_and_interrupt(watch, kind, half):
    """A second signal a few points later does not wait for the end of the step."""
    terminate(watch, kind, half)
    later = watch.count + 3
    watch.always = lambda w, k, h: interrupt(w, k, h) if w.count == later else None


def clock_jumps(watch, kind, half):
    """Every clock by a day, forward or back, or it stands still."""
    offset = random.choice([86400.0, -86400.0, None])
    for name in ("time", "perf_counter", "monotonic"):
        clock = getattr(time, name)
        now = clock()
        jumped = (lambda now=now: now) if offset is None else lambda clock=clock: clock() + offset
        setattr(time, name, jumped)


def no_console(watch, kind, half):
    """Whoever read the output is gone: `python grpo.py | head`."""
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)


def not_finite(watch, kind, half):
    """A gradient with NaN or infinity in it, in every update from here on."""
    clip = torch.nn.utils.clip_grad_norm_
    value = random.choice([float("nan"), float("inf")])

    def clip_poisoned(parameters, limit):
        parameters = list(parameters)
        parameters[0].grad.flatten()[0] = value
        return clip(parameters, limit)

    torch.nn.utils.clip_grad_norm_ = clip_poisoned


def out_of_memory(watch, kind, half):
    raise MemoryError


def is_file(kind):
    return kind.startswith(("os.", "open")) or kind in WRITES


ACTIONS = {  # fault: (action, where it can hit)
    "kill -9": (kill, lambda kind: True),
    "kill -9 half-way through a write": (kill_half_way, ("write", "native").__contains__),
    "disk full (ENOSPC)": (no_space, WRITES.__contains__),
    "disk error (EIO)": (input_output_error, is_file),
    "SIGINT (Ctrl-C)": (interrupt, lambda kind: True),
    "SIGTERM": (terminate, lambda kind: True),
    "SIGTERM, then SIGINT": (terminate_and_interrupt, lambda kind: True),
    "clock jumps": (clock_jumps, lambda kind: not is_file(kind)),
    "console gone (EPIPE)": (no_console, lambda kind: not is_file(kind)),
    "gradient not finite": (not_finite, lambda kind: kind.startswith("before")),
    "out of memory": (out_of_memory, lambda kind: kind.startswith("before")),
}

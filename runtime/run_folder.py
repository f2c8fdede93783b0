"""A run's folder on disk: one owner, whole files, checkpoints that are read back.

Whatever a full disk, a kill or somebody else's hand does to it ends in an InputError of one line:
which file, what is wrong with it, and the way on. What a step is, nothing here knows.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import zipfile
from pathlib import Path

from runtime import lora

import filelock
import safetensors
import torch

from tasks import InputError

LOGS = ("metrics.jsonl", "samples.jsonl")  # only ever appended to
NOTHING = [0, hashlib.sha256().hexdigest()]  # bytes of an empty log, and their digest
START = {"step": -1, "tokens": 0, "logs": dict.fromkeys(LOGS, NOTHING)}  # without a checkpoint


class RunFolder:
    """config.json, metrics.jsonl, samples.jsonl, checkpoint/ and lock, in one folder.

    A tracker's files may lie beside them (trackers.py).

    checkpoint/ is written as checkpoint.new, read back, then renamed; the one before it is kept as
    checkpoint.old until then. Its state.json holds the SHA-256 of all that --resume relies on: the
    checkpoint's files, the logs as far as they had come, and itself.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.checkpoint = self.path / "checkpoint"
        self.old = self.path / "checkpoint.old"
        self.lock = filelock.FileLock(self.path / "lock", timeout=0)  # opens nothing yet
        self.logged = {}  # log: (bytes, their digest, to be continued)

    @contextlib.contextmanager
    def owned(self):
        """Inside `with` the folder is this process's; InputError if it is another's.

        The system gives it back when the process ends, also by kill -9. May be nested.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--output_dir {self.path}: {reason(error)}") from error
        try:
            self.lock.acquire()
        except filelock.Timeout:
            raise InputError(
                f"{self.path}: another process runs in it; wait, or choose another --output_dir"
            ) from None
        except OSError as error:
            raise InputError(
                f"{self.path / 'lock'}: {reason(error)}; remove it if no other process runs here"
            ) from error
        try:
            yield
        finally:
            self.lock.release()

    # ---- What is there --------------------------------------------------------------------------

    def inspect(self, settings, resume, overwrite):
        """Where the run with these settings starts: {step, tokens, logs}, step -1 at the beginning.

        InputError if the folder holds what does not fit, must not be lost or is damaged, or if it
        is another process's. Changes nothing.
        """
        begun = os.path.exists(self.path / "lock")  # unlike Path's, this one takes any text
        with self.owned() if begun else contextlib.nullcontext():
            return self._inspect(settings, resume, overwrite)

    def _inspect(self, settings, resume, overwrite):
        try:
            str(self.path).encode()  # torch and safetensors take no other names
            found = [file for file in self.path.glob("*") if file.suffix != ".part"]
        except (OSError, ValueError) as error:
            raise InputError(f"--output_dir {self.path}: {reason(error)}") from error
        others = [file for file in found if file.name != "lock"]
        config = self._read_config()  # None if there is none that can be read
        parts = [os.path.exists(self.path / name) for name in ("lock", *LOGS)]
        is_run = "script" in (config or {}) or all(parts)
        if not resume:
            if is_run and not overwrite:
                other = "" if settings["output_dir"] else f"take --seed {settings['seed'] + 1} or "
                raise InputError(
                    f"{self.path} holds a run: add --resume or --overwrite, or {other}another "
                    "--output_dir"
                )
            if others and not is_run:
                raise InputError(
                    f"--output_dir {self.path}: holds other files; choose a new folder"
                )
            return START
        if not is_run:
            raise InputError(f"--resume: no run in {self.path}; leave it out to start one")
        state = self._read_state() if self.latest().exists() else None
        file = self.path / "config.json"
        if config is None and (state is None or file.is_dir()):
            raise self._damaged(file, "it is no JSON file")
        saved = state["settings"] if state else config
        for key in settings.keys() - {"steps", "threads", "report_to", "output_dir"}:
            if saved.get(key) != settings[key]:
                raise InputError(
                    f"--resume: the run in {self.path} has {key} {saved.get(key)}, not "
                    f"{settings[key]}; only --steps, --threads and --report_to may change"
                )
        return state or START

    def latest(self):
        """The checkpoint to go on from; a save that was killed between two renames leaves `old`."""
        return self.checkpoint if self.checkpoint.exists() else self.old

    def saved_steps(self, default):
        """The number of steps that the run here was started with; `default` if none is known."""
        steps = (self._read_config() or {}).get("steps")
        return steps if type(steps) is int else default

    def _read_config(self):
        try:
            config = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return config if isinstance(config, dict) else None

    def _read_state(self):
        """What the checkpoint's state.json says; InputError if it or a file it vouches for lies."""
        latest = self.latest()
        file = latest / "state.json"
        try:
            state = json.loads(file.read_text(encoding="utf-8"))
            seal = state.pop("sha256", None)
            if seal is None:
                raise ValueError("it has no digest: is it an older version's?")
            if seal != digest(json.dumps(state).encode()):
                raise ValueError("its contents have changed")
            for name, expected in state["files"].items():
                file = latest / name
                with open(file, "rb") as opened:
                    if hashlib.file_digest(opened, "sha256").hexdigest() != expected:
                        raise ValueError("its contents have changed")
            for name, (size, expected) in state["logs"].items():
                file = self.path / name
                if digest(file.read_bytes()[:size] if size else b"") != expected:
                    raise ValueError("what was logged has changed")
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise self._damaged(file, reason(error)) from error
        return state

    def _damaged(self, file, why):
        ways = "--overwrite instead starts again"
        if self.checkpoint.exists() and self.old.exists():
            ways = f"remove {self.checkpoint} to go on from the one before it, or {ways}"
        elif file.name in LOGS:
            ways += f", --model {self.latest()} with a new --output_dir from its weights"
        return InputError(f"--resume: {file} is damaged ({why}); {ways}")

    # ---- Writing --------------------------------------------------------------------------------

    def begin(self, settings, state, overwrite):
        """Make the folder that of a run that goes on from `state`, as `inspect` gave it."""
        with one_line(self.path):
            for item in sorted(self.path.iterdir()) if overwrite else ():
                if item.is_dir() and not item.is_symlink():
                    shutil.rmtree(item)
                elif item.name not in ("lock", "config.json"):  # a run's folder until the end
                    item.unlink()
            write_text(self.path / "config.json", json.dumps(settings, indent=1) + "\n")
            for name, (size, _) in state["logs"].items():
                kept = (self.path / name).read_bytes()[:size] if size else b""
                write_text(self.path / name, kept.decode())
                self.logged[name] = size, hashlib.sha256(kept)

    def append(self, name, row):
        """One more row of a log, a dict; numbers that JSON cannot hold become null."""
        for key, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                row = {**row, key: None}
        line = json.dumps(row).encode() + b"\n"
        with one_line(self.path / name, len(line)), open(self.path / name, "ab") as file:
            file.write(line)
        size, so_far = self.logged[name]
        so_far.update(line)
        self.logged[name] = size + len(line), so_far

    def save(self, state, model, tokenizer, parts):
        """Replace checkpoint/, so that it is whole at every moment.

        state: {step, tokens, threads, settings}; parts: {name: what has a state_dict}. InputError
        if there is no room or the disk fails; then the checkpoint before it is still there.
        """
        new = self.path / "checkpoint.new"
        tensors = {name: part.state_dict() for name, part in parts.items()}
        trained = [one for one in model.parameters() if one.requires_grad]
        needed = tensor_bytes([trained, tensors])
        try:
            with one_line(new, needed):
                shutil.rmtree(new, ignore_errors=True)
                if free_bytes(self.path) < needed:
                    raise OSError(errno.ENOSPC, "")
                model.save_pretrained(new)
                tokenizer.save_pretrained(new)
                for name, part in tensors.items():
                    torch.save(part, new / f"{name}.pt")
                weights = lora.saved_weights(model)
                files = {
                    file.relative_to(new).as_posix(): self._read_back(file, weights)
                    for file in new.rglob("*")  # chat templates may lie in a folder of their own
                    if file.is_file()
                }
                logs = {name: [n, so_far.hexdigest()] for name, (n, so_far) in self.logged.items()}
                sealed = {**state, "files": files, "logs": logs}
                sealed["sha256"] = digest(json.dumps(sealed).encode())
                write_text(new / "state.json", json.dumps(sealed))
        except InputError as error:
            shutil.rmtree(new, ignore_errors=True)  # the disk may be full: give the space back
            kept = "; the last checkpoint is kept, add --resume to go on from it"
            raise InputError(f"{error}{kept if self.latest().exists() else ''}") from error
        with one_line(self.path):
            if self.checkpoint.exists():
                shutil.rmtree(self.old, ignore_errors=True)
                os.replace(self.checkpoint, self.old)
            os.replace(new, self.checkpoint)
            shutil.rmtree(self.old, ignore_errors=True)

    def _read_back(self, file, weights):
        """SHA-256 of a file of a checkpoint, on the disk by now; OSError if it is not the model.

        weights: {name: tensor}.
        """
        if file.suffix == ".safetensors":
            with safetensors.safe_open(file, "pt") as saved:
                for name in weights.keys() & set(saved.keys()):
                    if not torch.equal(saved.get_tensor(name), weights[name].cpu()):
                        raise OSError(errno.EIO, f"{name} reads back changed", str(file))
        if file.suffix == ".pt" and zipfile.ZipFile(file).testzip():  # torch's files are archives
            raise OSError(errno.EIO, "reads back changed", str(file))
        with open(file, "r+b") as written:
            os.fsync(written.fileno())
            return hashlib.file_digest(written, "sha256").hexdigest()


# ---- Files, errors, sizes -----------------------------------------------------------------------


def read_jsonl(path):
    """Rows of a log, each a dict; what follows a line cut off by a kill is left out."""
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(row, dict):
            break
        rows.append(row)
    return rows


def write_text(path, text):
    """Write a whole file or nothing."""
    partial = path.with_name(path.name + ".part")
    with open(partial, "wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


@contextlib.contextmanager
def one_line(path, needed=0):
    """What a file does wrong inside `with`, as an InputError; needed: bytes about to be written."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # torch, safetensors and tokenizers each raise their own
        file = getattr(error, "filename", None) or path
        why = reason(error)
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or "os error 28" in why or free_bytes(path) < needed:
            why = f"no space left, {needed / 1e6:.3f} MB needed, {free_bytes(path) / 1e6:.3f} free"
        raise InputError(f"{file}: {why}") from error


def reason(error):
    """An exception in a few words."""
    words = getattr(error, "strerror", None) or str(error).strip()
    return words.splitlines()[0] if words else type(error).__name__


def digest(data):
    return hashlib.sha256(data).hexdigest()


def free_bytes(path):
    """Room on the disk of a path, or of the nearest folder above it; inf if it does not say."""
    path = path.absolute()
    with contextlib.suppress(OSError):
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        return shutil.disk_usage(there).free
    return math.inf


def tensor_bytes(value):
    """Of all tensors in nested lists and dicts."""
    if torch.is_tensor(value):
        return value.nbytes
    parts = value.values() if isinstance(value, dict) else value
    return sum(map(tensor_bytes, parts)) if isinstance(value, dict | list | tuple) else 0

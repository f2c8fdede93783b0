"""Where a run's log also goes: TensorBoard's event files, a CSV file, wandb, trackio.

metrics.jsonl is the truth. A tracker gets the numbers of its rows, at our step, from the first row
on: a run that goes on rewrites what is in its folder. If a tracker fails, the run goes on.
"""

import contextlib
import csv
import importlib
import math
import os
import threading
import uuid

from runtime.run_folder import reason, write_text

from tasks import InputError

PROJECT = "grpo-family"  # of wandb and trackio
TRL_NAMES = {  # ours -> TRL's, where both are the same quantity; docs/reference/log.md has them
    "length": "completions/mean_length",
    "truncated": "completions/clipped_ratio",
    "groups_without_signal": "frac_reward_zero_std",
}


def named(row, components=()):
    """{name in a tracker: number} of a row of metrics.jsonl, with Hugging Face's prefixes.

    components: the names of the rewards that the row has, as --reward_components has them.
    """
    rewards = {f"reward_{component}": f"rewards/{component}/mean" for component in components}
    theirs = TRL_NAMES | rewards
    values = {}
    for key, value in row.items():
        name = key.removeprefix("eval_")
        prefix = "train" if name == key else "eval"
        if key != "step" and isinstance(value, int | float) and math.isfinite(value):
            values[f"{prefix}/{theirs.get(name, name)}"] = value
    return values


def check_installed(name):
    """InputError if the package of a tracker, which has the tracker's name, is missing."""
    if name != "none":
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise InputError(f"--report_to {name}: pip install {name}") from error


class Tracker:
    """The tracker of this name for a run that has these rows so far; `with` closes it."""

    def __init__(self, name, folder, settings, rows):
        self.name = name
        self.components = settings.get("reward_components", ())
        self.writer = None
        if name != "none":
            self.writer = self._try(WRITERS[name], folder, settings)
        for row in rows:
            self.log(row)

    def log(self, row):
        """One row of metrics.jsonl; one without numbers says nothing to a tracker."""
        if self.writer and (values := named(row, self.components)):
            self._try(self.writer.log, row["step"], values)

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        if self.writer:
            self._try(self.writer.close, error is not None)

    def _try(self, action, *arguments):
        try:
            return action(*arguments)
        except Exception as error:  # a full disk, a network, no login: each library has its own
            self.writer = None
            why = reason(error).rstrip(".")
            print(f"--report_to {self.name}: {why}; going on without it", flush=True)


class TensorBoard:
    """Event files in the run's folder, so that `tensorboard --logdir runs` shows its name."""

    def __init__(self, folder, settings):
        from torch.utils.tensorboard import SummaryWriter

        for file in folder.glob("events.out.tfevents.*"):
            file.unlink()
        self.writer = SummaryWriter(folder)
        usual = threading.excepthook

        def hook(args):  # our next call raises what its thread has died of: no traceback as well
            if "tensorboard" not in type(args.thread).__module__:
                usual(args)

        threading.excepthook = hook

    def log(self, step, values):
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self, failed):
        self.writer.close()


class CSV:
    """metrics.csv: a line for each row of the log, a column for each name."""

    def __init__(self, folder, settings):
        self.path = folder / "metrics.csv"
        self.path.unlink(missing_ok=True)
        self.rows = []
        self.names = ["step"]

    def log(self, step, values):
        self.rows.append({"step": step, **values})
        new = [name for name in values if name not in self.names]
        self.names += new
        with open(self.path, "w" if new else "a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self.names)
            if new:  # a new name changes the first line, so all are written again
                writer.writeheader()
            writer.writerows(self.rows if new else self.rows[-1:])

    def close(self, failed):
        """Each row is in the file already."""


class Wandb:
    """One wandb run for a folder. wandb's own step counts rows: what it has is not sent again."""

    def __init__(self, folder, settings):
        import wandb

        project = os.environ.get("WANDB_PROJECT", PROJECT)
        run = {"id": run_id(folder), "name": folder.resolve().name, "dir": folder}
        self.run = wandb.init(project=project, resume="allow", reinit="finish_previous", **run)
        self.run.config.update(settings, allow_val_change=True)  # --steps may have
        self.run.define_metric("*", step_metric="step")
        self.rows = 0

    def log(self, step, values):
        if self.rows >= self.run.starting_step:
            self.run.log({"step": step, **values}, step=self.rows, commit=True)
        self.rows += 1

    def close(self, failed):
        self.run.finish(exit_code=int(failed))


class Trackio:
    """One trackio run for a folder: trackio keeps it elsewhere, so the one before is deleted."""

    def __init__(self, folder, settings):
        import trackio

        name = f"{folder.resolve().name}-{run_id(folder)}"
        with contextlib.suppress(ValueError):  # no such project yet
            for run in trackio.Api().runs(PROJECT):
                if run.name == name:
                    run.delete()
        trackio.init(project=PROJECT, name=name, config=settings)
        self.trackio = trackio

    def log(self, step, values):
        self.trackio.log(values, step=step)

    def close(self, failed):
        self.trackio.finish()


def run_id(folder):
    """Of a run at wandb or trackio: kept by --resume, and by --overwrite replaced."""
    file = folder / "tracker_id"
    if not file.exists():
        write_text(file, uuid.uuid4().hex[:8])
    return file.read_text(encoding="utf-8")


WRITERS = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio, "csv": CSV}

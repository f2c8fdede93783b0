"""verl's own algorithms, the file verl/trainer/ppo/core_algos.py of an installed wheel.

`import verl` needs ray, hydra and more, all for the trainer around them. Here its packages are
empty modules with its folders as path, and what only type hints name is a placeholder. Nothing of
it stays in sys.modules: other libraries look there for what is installed.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
from types import ModuleType, SimpleNamespace

VERSION = "0.9.1"
PACKAGES = ["verl", "verl.utils", "verl.trainer", "verl.trainer.ppo", "verl.workers"]
PLACEHOLDERS = {
    "verl.trainer.config": ["AlgoConfig"],
    "verl.workers.config": ["ActorConfig"],
    "verl.utils.device": ["get_device_name", "get_torch_device"],
    "verl.utils": ["as_torch_index", "group_mean_std"],
    "omegaconf": ["DictConfig"],
    "tensordict": ["TensorDict"],
}


def why_not():
    """Why verl's functions cannot be loaded; empty if they can."""
    try:
        found = importlib.metadata.version("verl")
    except importlib.metadata.PackageNotFoundError:
        found = "absent"
    hint = f"verl is {found}; pip install --no-deps verl=={VERSION}"
    return "" if found == VERSION else hint


def load_core_algos():
    root = importlib.metadata.distribution("verl").locate_file("")
    before = dict(sys.modules)
    stubs = {name: ModuleType(name) for name in PACKAGES}
    for name, stub in stubs.items():
        stub.__path__ = [str(root / name.replace(".", "/"))]
    for name, members in PLACEHOLDERS.items():
        if name.startswith("verl") or importlib.util.find_spec(name) is None:
            stub = stubs.setdefault(name, ModuleType(name))
            vars(stub).update({member: type(member, (), {}) for member in members})
    try:
        sys.modules.update(stubs)
        return importlib.import_module("verl.trainer.ppo.core_algos")
    finally:
        for name in list(sys.modules):
            if name in stubs or name.split(".")[0] == "verl":
                del sys.modules[name]
                if name in before:
                    sys.modules[name] = before[name]


class Settings(SimpleNamespace):
    """What verl's losses read of their config: attributes and .get."""

    global_batch_info: dict = {}  # noqa: RUF012

    def get(self, name, default=None):
        return getattr(self, name, default)

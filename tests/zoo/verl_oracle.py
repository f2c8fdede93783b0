"""verl's own algorithms and configuration, out of an installed wheel.

`import verl` needs ray and more, all for the trainer around them. Here its packages are empty
modules with its folders as path, and what only type hints name is a placeholder. Nothing of it
stays in sys.modules: other libraries look there for what is installed.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import re
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
TENSORDICT = {"tensordict": PLACEHOLDERS["tensordict"]}


def why_not():
    """Why verl's functions cannot be loaded; empty if they can."""
    try:
        found = importlib.metadata.version("verl")
    except importlib.metadata.PackageNotFoundError:
        found = "absent"
    hint = f"verl is {found}; pip install --no-deps verl=={VERSION}"
    return "" if found == VERSION else hint


def load_core_algos():
    """verl/trainer/ppo/core_algos.py as a module."""
    with stand_ins(PACKAGES, PLACEHOLDERS):
        return importlib.import_module("verl.trainer.ppo.core_algos")


def configured(overrides):
    """What verl's trainer would start with: its configuration as Hydra composes it from the wheel
    with these overrides, its dataclasses made of that, and its algorithms beside them."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    with initialize_config_dir(str(root() / "verl/trainer/config"), version_base=None):
        composed = compose("ppo_trainer", overrides=overrides)
    placeholders = {name: PLACEHOLDERS[name] for name in ("verl.utils.device", "verl.utils")}
    # Models are read when they are made: a name is enough.
    placeholders["verl.workers.config.model"] = ["HFModelConfig", "MtpConfig"]
    with stand_ins([*PACKAGES, "verl.utils.profiler"], placeholders | TENSORDICT):
        profiler = importlib.import_module("verl.utils.profiler.config")
        sys.modules["verl.utils.profiler"].ProfilerConfig = profiler.ProfilerConfig
        sys.modules["verl.workers.config.model"].__all__ = ["HFModelConfig", "MtpConfig"]
        importlib.import_module("verl.workers.config")
        algos = importlib.import_module("verl.trainer.ppo.core_algos")
        parts = {
            "algorithm": composed.algorithm,
            "actor": composed.actor_rollout_ref.actor,
            "rollout": composed.actor_rollout_ref.rollout,
            "critic": composed.critic,
        }
        made = {name: instantiate(part, _convert_="partial") for name, part in parts.items()}
    return SimpleNamespace(composed=composed, algos=algos, **made)


def reward_managers():
    """Names that its reward loop registers, read from its source."""
    files = (root() / "verl/experimental/reward_loop/reward_manager").glob("*.py")
    source = "".join(file.read_text() for file in files)
    return set(re.findall(r'@register\("(\w+)"\)', source))


def root():
    return importlib.metadata.distribution("verl").locate_file("")


@contextlib.contextmanager
def stand_ins(packages, placeholders):
    """Inside, `packages` are empty modules with verl's folders as path; placeholders =
    {module: classes of it that are only named}, of others than verl's if they are not installed."""
    before = dict(sys.modules)
    stubs = {name: ModuleType(name) for name in packages}
    for name, stub in stubs.items():
        stub.__path__ = [str(root() / name.replace(".", "/"))]
    for name, members in placeholders.items():
        if name.startswith("verl") or importlib.util.find_spec(name) is None:
            stub = stubs.setdefault(name, ModuleType(name))
            vars(stub).update({member: type(member, (SimpleNamespace,), {}) for member in members})
    try:
        sys.modules.update(stubs)
        yield
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

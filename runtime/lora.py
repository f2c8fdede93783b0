"""LoRA (arXiv:2106.09685) by peft: a matrix W is frozen, and two small ones beside it are trained.

    y = W x + 32 / rank  B A x                  A random, B 0 at first: then y = W x

Frozen weights are in memory once, however many models have them: the reference is the base, and
the policy the same weights with adapters A and B beside them.
"""

import copy
import importlib
import warnings
import weakref
from pathlib import Path

from runtime import hub, model_files

import safetensors.torch
import torch

from tasks import InputError

ALPHA = 32  # whatever the rank, as in `LoRA Without Regret` (Schulman et al., 2025)
FILE = "adapter_model.safetensors"
KEEP_THE_BASE = (True, False, "gaussian", "orthogonal")  # init_lora_weights; pissa subtracts
BASES = weakref.WeakKeyDictionary()  # a model with adapters: (where its base is from, the base)


def check_installed(what):
    """InputError if peft, which no list of requirements has, is missing; what: needs it."""
    try:
        importlib.import_module("peft")
    except ImportError as error:
        raise InputError(f"{what} needs peft: pip install peft") from error


def base_of(folder):
    """(source, local_files_only) of an adapter's base, as hub.find has them; None if it is none."""
    file = Path(folder) / "adapter_config.json"
    if not model_files.is_adapter(file.parent):
        return None
    if not (file.parent / FILE).exists():
        raise InputError(f"a LoRA adapter without {FILE}")
    base = model_files.read_json(file).get("base_model_name_or_path")
    check_installed(f"a LoRA adapter of {base}")
    try:
        source, local_only = hub.find(str(base))
    except InputError as error:
        reason = str(error).partition(": ")[2]
        raise InputError(f"a LoRA adapter of {base}: {reason}; {file} names it") from error
    if model_files.is_adapter(Path(source)):
        raise InputError(f"a LoRA adapter of {base}, an adapter itself: merge that, tools.merge")
    return source, local_only


def frozen(source):
    """A model of the frozen weights of `source`, if they are in memory, or None."""
    bases = [base for place, base in BASES.values() if place == absolute(source)]
    return with_the_same_weights(bases[0]) if bases else None


def absolute(source):
    """A folder's whole path, so that it is found from anywhere; a hub id as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else source


def with_the_same_weights(model):
    """Another model of the same parameters."""
    return copy.deepcopy(model, {id(one): one for one in model.parameters()})


def add_adapters(base, source, rank, seed=0, folder=None):
    """The base from `source`, frozen, with adapters: new ones of a rank, or those of a folder.

    New ones are beside all linear layers but the last. Adapters are float32, whatever the base is.
    """
    import peft

    base.requires_grad_(False)
    model = with_the_same_weights(base)
    if folder:
        settings = peft.PeftConfig.from_pretrained(folder)
        if settings.peft_type != peft.PeftType.LORA:
            raise InputError(f"an adapter of kind {settings.peft_type.value}; plain LoRA is read")
        if settings.modules_to_save:
            whole = ", ".join(settings.modules_to_save)
            raise InputError(f"its adapter trains {whole} whole (modules_to_save); not read here")
        if settings.init_lora_weights not in KEEP_THE_BASE:
            raise InputError(
                f"its init_lora_weights, {settings.init_lora_weights}, may change the base; make "
                "it plain LoRA first (peft: path_initial_model_for_weight_conversion)"
            )
        if rank not in (0, settings.r):
            raise InputError(f"its rank is {settings.r}, not --lora_rank {rank}; leave that out")
    else:
        settings = peft.LoraConfig(
            r=rank, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"
        )
    settings.inference_mode = False
    # peft draws A from the global stream, and warns of what it corrects itself.
    with torch.random.fork_rng(), warnings.catch_warnings(action="ignore"):
        torch.manual_seed(seed)
        model.add_adapter(settings)
    if any(parameter.requires_grad for parameter in base.parameters()):
        raise InputError(f"its adapters train biases of the base ({settings.bias}); not read here")
    settings.base_model_name_or_path = absolute(source)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if folder:
        saved = safetensors.torch.load_file(Path(folder) / FILE)
        loaded = peft.set_peft_model_state_dict(model, saved)
        missing = [name for name in loaded.missing_keys if "lora_" in name]
        if missing or loaded.unexpected_keys:
            raise InputError(f"{FILE} does not fit: {[*missing, *loaded.unexpected_keys][0]}")
    BASES[model] = absolute(source), base
    return model


def has_adapters(model):
    return hasattr(model, "peft_config")


def require_none(model, config):
    """InputError if a model or its run has adapters: a framework beside us gets all weights."""
    if config.lora_rank:
        raise InputError(f"--lora_rank {config.lora_rank}: all weights are trained; leave it out")
    if has_adapters(model):
        raise InputError(
            f"--model {config.model}: an adapter; python -m tools.merge makes a whole model of it"
        )


def saved_weights(model):
    """{name: tensor} as a checkpoint holds them: of a model with adapters these alone."""
    if not has_adapters(model):
        return model.state_dict()
    adapters = model.get_adapter_state_dict()
    return {f"base_model.model.{name}": tensor for name, tensor in adapters.items()}

"""Is a folder a model that can be trained? If not, what it is instead, and the way on."""

import importlib.util
import json
from pathlib import Path

import safetensors

from tasks import InputError
from tasks.source import LFS_POINTER

TOKENIZERS = ("tokenizer*", "vocab*", "*.tiktoken", "*.model", "*.spm", "tekken.json")


def check(source):
    """InputError if `source` cannot be trained: why, and what to do. A hub id passes.

    Looks at names, at the first bytes of files and at the shapes of weights: loads nothing.
    """
    folder = Path(source)
    weights = sorted(folder.glob("*.safetensors"))
    if source.endswith(".gguf") or (any(folder.glob("*.gguf")) and not weights):
        raise InputError(
            "GGUF is not read; convert it: transformers' from_pretrained(..., gguf_file=...), then "
            "save_pretrained"
        )
    if folder.is_file():
        raise InputError("a file; give the folder that it is in")
    for file in sorted(folder.glob("*")):
        if is_pointer(file):
            raise InputError(f"{file.name} is a Git LFS pointer, not the file; git lfs pull")
    if folder.is_dir() and not has_tokenizer(source) and not is_adapter(folder):
        raise InputError("no tokenizer in it; save that of the model it was made from there")
    for file in weights:
        empty = empty_tensor(file)
        if empty:
            raise InputError(
                f"{empty} in {file.name} is empty; if it is a ZeRO-3 shard, gather the weights"
            )


def has_tokenizer(source):
    return any(any(Path(source).glob(names)) for names in TOKENIZERS)


def is_adapter(folder):
    """Is it LoRA's matrices, without the model that they are for?"""
    return (folder / "adapter_config.json").exists()


def check_config(config):
    """InputError if a config.json, a dict, is that of weights that cannot be trained."""
    quantised = config.get("quantization_config")
    if quantised:
        how = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise InputError(f"its weights are quantised ({how}); take the same model in 16 or 32 bits")


def check_eos(source, tokenizer):
    """Takes the EOS from a tokenizer whose class alone knows it: no file of the folder has it.

    So it is where tokenizer.json stands alone: the class then adds a token that the model has never
    seen.
    """
    file = Path(source) / "tokenizer.json"
    alone = file.exists() and not file.with_name("tokenizer_config.json").exists()
    if alone and json.dumps(tokenizer.eos_token) not in file.read_text(encoding="utf-8"):
        tokenizer.eos_token = None


def check_weights(model, missing):
    """InputError if weights are missing, for which transformers has put in random ones, or bad."""
    if missing:
        raise InputError(f"its files lack {min(missing)}")
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise InputError("some of its weights are not finite")


def why(error, source):
    """What an exception of transformers means, in one line."""
    text = str(error).strip() or repr(error)
    folder = Path(source)
    only_slow = (folder / "tokenizer.model").exists() and not (folder / "tokenizer.json").exists()
    asks = "sentencepiece" in text or "tiktoken" in text or only_slow
    if asks and not importlib.util.find_spec("sentencepiece"):
        return "its tokenizer needs sentencepiece; pip install sentencepiece"
    return f"it does not load ({text.splitlines()[0]})"


def is_pointer(file):
    """Is it what Git leaves in the place of a large file that Git LFS has not fetched?"""
    try:
        with open(file, "rb") as opened:
            return opened.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:  # a folder, or nobody may read it
        return False


def empty_tensor(file):
    """The name of a tensor without numbers in a safetensors file, or None."""
    try:
        with safetensors.safe_open(file, "pt") as opened:
            names = sorted(opened.keys())
            return next((x for x in names if 0 in opened.get_slice(x).get_shape()), None)
    except (OSError, safetensors.SafetensorError):  # loading will say it
        return None


def read_json(file):
    """A file's object; {} if there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def model_of_run(source):
    """The checkpoint in a run's folder; `source` itself if it is no such folder."""
    checkpoint = Path(source) / "checkpoint"
    holds_model = (checkpoint / "config.json").exists() or is_adapter(checkpoint)
    is_run = holds_model and not any(Path(source).glob("*.safetensors"))
    return str(checkpoint) if is_run else source

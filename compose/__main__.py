"""Several moves as one script: the diffs of its parts against grpo.py, merged.

    python -m compose dapo gspo -o mine.py    # all moves; where both move an axis, the later wins
    python -m compose dapo:sampling gspo:granularity,clip_width dr_grpo:length_std -o mine.py
    python -m compose --preset grpo_zero -o grpo_zero.py
    python -m compose --list                  # who moves what, and the presets

A part is a script, or a script and the axes to take from it. What contradicts itself is refused.
The result imports no other script and keeps the diff contract.
"""

if __package__ != "compose":
    raise SystemExit("run it from the repository's folder: python -m compose dapo gspo -o mine.py")

import argparse
import contextlib
import sys
from pathlib import Path

from compose import composition
from compose.reader import HERE, parts_named, short
from compose.rules import PRESETS
from tasks import InputError, printable


def listing():
    lines = ["who moves what:"]
    for script in composition.composable():
        lines.append(f"  {short(script):<26}{', '.join(composition.parse_part(script).moves)}")
    lines.append("presets:")
    lines += [f"  {name:<26}{preset.parts}  ({preset.source})" for name, preset in PRESETS.items()]
    return "\n".join(lines)


def is_untouched(path):
    """Whether a file is what compose made of some parts, and nobody has changed it since."""
    with contextlib.suppress(InputError, OSError, ValueError):
        source = path.read_text(encoding="utf-8")
        parts = parts_named(source)
        bundles = [None, *(one for one in PRESETS.values() if one.parts.split() == parts)]
        return any(composition.compose(parts, one).source == source for one in bundles if parts)
    return False


def write(path, source):
    """The script where its imports are found; InputError if not so, or if a file would be lost."""
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise InputError(f"--output {path}: a Python script needs a name such as mine.py")
    if path.absolute().parent not in (HERE, HERE / "zoo"):
        raise InputError(f"--output {path}: put it beside grpo.py or into zoo/, for its imports")
    try:
        with path.open("w" if is_untouched(path) else "x", encoding="utf-8") as file:
            file.write(source)
    except FileExistsError:
        raise InputError(f"--output {path}: it exists; choose another name or delete it") from None
    except OSError as error:
        raise InputError(f"--output {path}: {error.strerror}") from error


def main():
    parser = argparse.ArgumentParser(
        prog="python -m compose",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="dapo, or dapo:sampling,kl")
    parser.add_argument("--preset", choices=PRESETS, help="a bundle that people meet")
    parser.add_argument("-o", "--output", type=Path, help="script to write; else it is printed")
    parser.add_argument("--list", action="store_true", help="who moves what, and the presets")
    args = parser.parse_args()
    if args.list:
        return print(listing())
    if bool(args.parts) == bool(args.preset):
        parser.error("name the parts, such as dapo gspo, or a --preset; --list shows both")
    preset = PRESETS[args.preset] if args.preset else None
    try:
        made = composition.compose(preset.parts.split() if preset else args.parts, preset)
        if args.output:
            write(args.output, made.source)
    except InputError as error:
        parser.exit(2, f"error: {printable(error)}\n")
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr)
    if not args.output:
        return print(made.source, end="")
    name = args.output.absolute().relative_to(HERE).with_suffix("")
    run = f"-m zoo.{name.name}" if len(name.parts) > 1 else f"{name}.py"
    flags = f" {preset.flags}" if preset else ""
    print(f"wrote {args.output}; run it: python {run}{flags}")
    return None


if __name__ == "__main__":
    main()

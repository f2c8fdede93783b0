"""Several moves as one script: the diffs of its parts against grpo.py, merged.

    python compose.py dapo gspo -o mine.py      # all moves; where both move an axis, the later wins
    python compose.py dapo:sampling gspo:granularity,clip_width dr_grpo:length_std -o mine.py
    python compose.py --preset grpo_zero -o grpo_zero.py
    python compose.py --list                    # who moves what, and the presets

A part is a script, or a script and the axes to take from it. What contradicts itself is refused.
The result imports no other script and is held to the diff contract (tests/test_diffs.py).
"""

import argparse
import importlib.util
import sys
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import common
from composing.edits import MOVES, edits_of
from composing.rules import CAUTIONS, CLASHES, PRESETS, SEAMS, TOGETHER
from composing.text import docstring, made_of, short
from countdown_task import InputError
from plots.axes import code_lines, parent, scripts, source_of


@dataclass(frozen=True)
class Part:
    """A script, and the moves that are taken from it; text: as on the command line."""

    text: str
    script: str
    moves: tuple[str, ...]


@cache
def known():
    """scripts(), which reads every file, once."""
    return scripts()


def find_script(name):
    """dapo, dapo.py, rloo, zoo.rloo or zoo/rloo.py -> the script's module; else InputError."""
    module = name.removesuffix(".py").replace("/", ".")
    module = module if module in known() else f"zoo.{module}"
    if module not in known():
        names = ", ".join(script.rpartition(".")[2] for script in known())
        raise InputError(f"{name}: no such script; there are {names}")
    if module == "grpo":
        raise InputError("grpo: it moves nothing; it is what the others are compared with")
    if parts := made_of(source_of(module)):
        raise InputError(f"{name}: it is a composition; name its parts, {' '.join(parts)}")
    if parent(source_of(module)) != "grpo":
        raise InputError(f"{name}: it is compared with another script than grpo.py; take that")
    return module


def parse_part(text):
    """`dapo` or `dapo:length,kl` -> Part; InputError names what is unknown."""
    name, listed, axes = text.partition(":")
    script = find_script(name)
    own = tuple(move for move in MOVES if move in {edit.move for edit in edits_of(script)})
    if not listed:
        return Part(text, script, own)
    moves = []
    for axis in axes.split(","):
        asked = ("length", "std") if axis == "length_std" else (axis,)
        if not set(asked) & set(own):
            raise InputError(f"{text}: {short(script)} moves {', '.join(own)}, not {axis!r}")
        moves += [move for move in asked if move in own]
    return Part(text, script, tuple(moves))


# ---- Merging ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Composition:
    source: str
    notes: list[str]  # what a reader should know, a line each


def owners_of(parts):
    """({move: the script it is taken from}, notes): where two parts move the same, the later."""
    owner = {}
    notes = []
    for part in parts:
        for move in part.moves:
            if owner.get(move, part.script) != part.script:
                name = move.replace("_", " ")
                notes.append(
                    f"Of {name} {short(part.script)}'s is taken, not {short(owner[move])}'s."
                )
            owner[move] = part.script
    if owner.get("advantage") == "gdpo":
        if "std" in owner:
            notes.append(
                f"gdpo.py divides each component by its own std: not {short(owner['std'])}'s."
            )
        owner["std"] = "gdpo"
    return owner, notes


def check(parts, owner):
    """InputError if nothing is left of a part, or if moves contradict or lack each other."""
    for part in parts:
        if part.script not in owner.values():
            raise InputError(
                f"{part.text}: later parts move all that it moves; put it last or name axes"
            )
    for script, moves in TOGETHER.items():
        taken = [move for move in moves if owner.get(move) == script]
        missing = [move for move in moves if owner.get(move) != script]
        if taken and missing:
            raise InputError(
                f"{short(script)}'s {', '.join(taken)} cannot do without its "
                f"{', '.join(missing)}; put it last, or take none of them"
            )
    if owner.get("advantage") == "zoo.gigpo" != owner.get("turns"):
        raise InputError("gigpo.py's advantage cannot do without its turns")
    for clash in CLASHES:
        if meets(clash.owners, owner):
            raise InputError(f"{clash.why} ({clash.source})")


def meets(wanted, owner):
    """Whether each of these moves is taken from one of these scripts; grpo if from no part."""
    return all(owner.get(move, "grpo") in names for move, names in wanted.items())


def merge(edits):
    """grpo.py's code with all edits; InputError if two parts rewrite the same line."""
    before = defaultdict(list)
    instead = {}
    for edit in edits:
        if not edit.replaces:
            before[edit.at].append(edit.line)
        elif instead.setdefault(edit.at, edit).script != edit.script:
            other = instead[edit.at]
            raise InputError(
                f"{short(other.script)}'s {other.move} and {short(edit.script)}'s {edit.move} "
                f"rewrite the same line of {edit.place}; name the axes to take"
            )
    lines = []
    for at, line in enumerate([line for line, _ in code_lines(source_of("grpo"))]):
        lines += before[at]
        lines += [instead[at].line] if at in instead else [line]
    return "\n".join(line for line in lines if line is not None) + "\n"


def compose(texts, preset=None):
    """Parts as on the command line -> Composition; InputError if they do not go together."""
    parts = [parse_part(text) for text in texts]
    owner, notes = owners_of(parts)
    check(parts, owner)
    seams = [seam for seam in SEAMS if meets(seam.owners, owner)]
    left_out = {seam.without for seam in seams}
    edits = [
        edit
        for part in parts
        for edit in edits_of(part.script)
        if edit.move in part.moves
        and owner[edit.move] == part.script
        and (edit.script, edit.move, edit.place) not in left_out
    ]
    code = merge(edits)
    for seam in seams:
        for old, new in seam.rewrite.items():
            assert code.count(old) == 1, old
            code = code.replace(old, new)
    notes += [seam.answer for seam in seams if seam.answer]
    cautions = [caution for caution in CAUTIONS if meets(caution.owners, owner)]
    notes += [f"{caution.why} ({caution.source})." for caution in cautions]
    return Composition(f'"""{docstring(parts, owner, notes, preset)}"""\n{code}', notes)


def composable():
    """The scripts that can be parts: compared with grpo.py, and no compositions themselves."""
    others = [(name, source_of(name)) for name in known() if name != "grpo"]
    return [name for name, source in others if parent(source) == "grpo" and not made_of(source)]


def module_of(texts, folder):
    """The composition as a module; its file, named after the parts, is written to `folder`."""
    path = folder / f"{'+'.join(texts).replace(':', '-').replace(',', '-')}.py"
    path.write_text(compose(texts).source, encoding="utf-8")
    return load(path)


def load(path):
    """A fresh copy of a script as a module, whatever is imported under its name already."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_some_order(first, second):
    """(the order in which two scripts compose, why the other does not); (None, why) if neither."""
    reasons = []
    for order in ((first, second), (second, first)):
        try:
            compose(order)
            return order, " ".join(reasons)
        except InputError as error:
            reasons.append(f"{short(order[0])} {short(order[1])}: {error}.")
    return None, " ".join(reasons)


# ---- Command line -------------------------------------------------------------------------------


def listing():
    lines = ["who moves what:"]
    for script in composable():
        lines.append(f"  {short(script):<26}{', '.join(parse_part(script).moves)}")
    lines.append("presets:")
    lines += [f"  {name:<26}{preset.parts}  ({preset.source})" for name, preset in PRESETS.items()]
    return "\n".join(lines)


def write(path, source):
    """The script where its imports are found; InputError if that is not so, or if it exists."""
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise InputError(f"--output {path}: a Python script needs a name such as mine.py")
    if path.absolute().parent not in (common.HERE, common.HERE / "zoo"):
        raise InputError(f"--output {path}: put it beside grpo.py or into zoo/, for its imports")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(source)
    except FileExistsError:
        raise InputError(f"--output {path}: it exists; choose another name or delete it") from None
    except OSError as error:
        raise InputError(f"--output {path}: {error.strerror}") from error


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
        made = compose(preset.parts.split() if preset else args.parts, preset)
        if args.output:
            write(args.output, made.source)
    except InputError as error:
        parser.exit(2, f"error: {common.printable(error)}\n")
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr)
    if not args.output:
        return print(made.source, end="")
    name = args.output.absolute().relative_to(common.HERE).with_suffix("")
    run = f"-m zoo.{name.name}" if len(name.parts) > 1 else f"{name}.py"
    flags = f" {preset.flags}" if preset else ""
    print(f"wrote {args.output}; run it: python {run}{flags}")
    return None


if __name__ == "__main__":
    main()

"""Several scripts' moves as one script: the diffs of its parts against grpo.py, merged.

A part is a script, or a script and the axes to take from it. Where two parts move the same axis the
later one wins. What contradicts itself is refused. The result imports no other script and keeps the
diff contract (contract.py).
"""

import ast
import importlib.util
import os
from collections import defaultdict
from dataclasses import dataclass
from functools import cache

from compose.contract import options, violations
from compose.edits import MOVES, edits_of
from compose.reader import (
    code_lines,
    parent,
    parts_named,
    refuse_unfinished,
    scripts,
    short,
    source_of,
)
from compose.rules import CAUTIONS, CLASHES, INTERACTIONS, TOGETHER
from compose.text import docstring
from tasks import InputError


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
        refuse_unfinished(name)
        names = ", ".join(script.rpartition(".")[2] for script in known())
        raise InputError(f"{name}: no such script; there are {names}")
    if module == "grpo":
        raise InputError("grpo: it moves nothing; it is what the others are compared with")
    if parts := parts_named(source_of(module)):
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
    """grpo.py's code with all edits; InputError if two parts rewrite the same line.

    Where two parts add lines at one place, those that go on with a class or function of grpo.py
    stand before those that open another.
    """
    old = code_lines(source_of("grpo"))
    before = defaultdict(list)
    instead = {}
    for edit in edits:
        if not edit.replaces:
            before[edit.at].append(edit)
        elif instead.setdefault(edit.at, edit).script != edit.script:
            other = instead[edit.at]
            raise InputError(
                f"{short(other.script)}'s {other.move} and {short(edit.script)}'s {edit.move} "
                f"rewrite the same line of {edit.place}; name the axes to take"
            )
    lines = []
    for at, (line, _) in enumerate(old):
        open_place = old[at - 1][1]  # of the line above: a class, a function, or "between" them
        first = [edit for edit in before[at] if edit.place == open_place != "between"]
        then = [edit for edit in before[at] if edit not in first]
        lines += [edit.line for edit in first + then]
        lines += [instead[at].line] if at in instead else [line]
    return "\n".join(line for line in lines if line is not None) + "\n"


def compose(texts, preset=None):
    """Parts as on the command line -> Composition; InputError if they do not go together."""
    parts = [parse_part(text) for text in texts]
    named = set()  # (script, move)
    for part in parts:
        own = {(part.script, move) for move in part.moves}
        if own & named:
            moves = ", ".join(sorted(move for _, move in own & named))
            raise InputError(f"{part.text}: {short(part.script)}'s {moves} is named twice")
        named |= own
    for part in parts:
        if broken := violations(part.script, source_of(part.script)):
            raise InputError(f"{short(part.script)} breaks the diff contract: {broken[0]}")
    owner, notes = owners_of(parts)
    check(parts, owner)
    interactions = [one for one in INTERACTIONS if meets(one.owners, owner)]
    left_out = {one.without for one in interactions}
    edits = [
        edit
        for part in parts
        for edit in edits_of(part.script)
        if edit.move in part.moves
        and owner[edit.move] == part.script
        and (edit.script, edit.move, edit.place) not in left_out
    ]
    code = merge(edits)
    for interaction in interactions:
        for old, new in interaction.rewrite.items():
            assert code.count(old) == 1, old
            code = code.replace(old, new)
    notes += [one.answer for one in interactions if one.answer]
    require_options(code)
    cautions = [caution for caution in CAUTIONS if meets(caution.owners, owner)]
    notes += [f"{caution.why} ({caution.source})." for caution in cautions]
    text = docstring(parts, owner, notes, preset, code)
    return Composition(f'"""{text}"""\n{code}', notes)


def require_options(code):
    """InputError if the code reads an option that its Config does not have."""
    known = options(code)
    missing = [
        node
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value) == "config"
        and node.attr not in known
    ]
    if missing:
        node = min(missing, key=lambda node: (node.lineno, node.col_offset))
        line = code.splitlines()[node.lineno - 1].strip()
        raise InputError(
            f"`{line}` reads config.{node.attr}, which no part defines: take the whole part "
            "that has it, or leave out the axes that removed it"
        )


def composable():
    """The scripts that can be parts: compared with grpo.py, and no compositions themselves."""
    others = [(name, source_of(name)) for name in known() if name != "grpo"]
    return [name for name, source in others if parent(source) == "grpo" and not parts_named(source)]


def module_of(texts, folder):
    """The composition as a module; its file, named after the parts, is written to `folder`."""
    name = f"{'+'.join(texts).replace(':', '-').replace(',', '-')}.py"
    return written(folder / name, compose(texts).source)


def written(path, source):
    """A source as a module; the file is whole at any time, as another job may be loading it."""
    own = path.with_name(f"{path.name}.{os.getpid()}")
    own.write_text(source, encoding="utf-8")
    os.replace(own, path)
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

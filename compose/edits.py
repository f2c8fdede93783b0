"""A script's diff against grpo.py, taken apart: every changed line belongs to one move.

A move is what a script does on one axis. The markers in the code say which line belongs to which;
a line without one goes with the marked line above it.
"""

import difflib
import re
from dataclasses import dataclass
from functools import cache

from compose.reader import AXES, EXTRAS, code_lines, marker, source_of

# {what a part can move: the axis or extra on which that lies}; two moves share one axis.
MOVES = {name.lower().replace(" ", "_"): name for name in AXES[:2]}
MOVES |= {"length": "length + std", "std": "length + std"}
MOVES |= {name.lower().replace(" ", "_"): name for name in AXES[3:] + EXTRAS}


@dataclass(frozen=True)
class Edit:
    """A line that a script has before line `at` of grpo.py's code or in its place, or a deletion.

    move: what the line belongs to; place: the function or class.
    """

    script: str
    move: str
    place: str
    at: int
    replaces: bool
    line: str | None


def edits_of(script):
    """What turns grpo.py's code into the script's, in order."""
    return edits_between(script, source_of("grpo"), source_of(script))


@cache
def edits_between(script, hub, source):
    """The same of sources at hand: a script that has changed since is not taken for the old one."""
    old, new = code_lines(hub), code_lines(source)
    edits = []
    for tag, a, b, c, d in matched(old, new).get_opcodes():
        if tag != "equal":
            edits += edits_of_hunk(script, a, old[a:b], new[c:d])
    return tuple(edits)


def matched(old, new):
    """difflib's matcher of two scripts' code lines."""
    old, new = ([line for line, _ in code] for code in (old, new))
    return difflib.SequenceMatcher(None, old, new, False)


def edits_of_hunk(script, start, removed, added):
    """Edits of one hunk, whose removed lines begin at line `start` of grpo.py's code."""
    moves = moves_of(added)
    pairs = partners(removed, added)  # {index in added: index in removed}
    of_removed = {i: moves[j] for j, i in pairs.items()}
    edits = []
    for i, (line, place) in enumerate(removed):
        if i in of_removed:
            continue
        if not added or re.search("ref|kl_", line):
            move = "kl"
        elif (noted := note_in_place_of(i, added, pairs)) is not None:
            move = moves[noted]
        else:  # it goes with its neighbour
            nearest = min(of_removed, key=lambda k: (k < i, abs(k - i)), default=None)
            move = moves[0] if nearest is None else of_removed[nearest]
        edits.append(Edit(script, move, place, start + i, True, None))
    for j, (line, place) in enumerate(added):
        later = [i for k, i in pairs.items() if k >= j]
        at = start + min(later, default=len(removed))
        edits.append(Edit(script, moves[j], place, at, j in pairs, line))
    return edits


def note_in_place_of(i, added, pairs):
    """Index in added of a marked comment that stands where removed line i stood; None if none."""
    first = max((j for j, k in pairs.items() if k < i), default=-1) + 1
    last = min((j for j, k in pairs.items() if k > i), default=len(added))
    notes = [j for j in range(first, last) if added[j][0].strip().startswith("#")]
    return next((j for j in notes if marker(added[j][0])), None)


def moves_of(added):
    """The move of each added line: its own marker's, else that of the lines above, else below."""
    moves = []
    move = None
    for line, place in added:
        if marker(line):
            move = move_on(marker(line), place)
        moves.append(move)
    first = next((move for move in moves if move), None)
    moves = [move or first for move in moves]
    for j in reversed(range(len(added) - 1)):  # a blank line belongs to what follows it
        if not added[j][0].strip():
            moves[j] = moves[j + 1]
    return moves


def move_on(axis, place):
    """The move that a marker in this function means."""
    if axis == "length + std":
        return "length" if place == "aggregate_loss" else "std"
    return next(move for move, name in MOVES.items() if name == axis)


def partners(removed, added):
    """{index in added: index in removed} of lines that define the same name, in order."""

    def subject(line):
        return re.match(r'\s*(def \w+|"*[\w.]*)', line)[0]

    pairs = {}
    first = 0
    for j, (line, _) in enumerate(added):
        for i in range(first, len(removed)):
            if line.strip() and subject(removed[i][0]) == subject(line):
                pairs[j] = i
                first = i + 1
                break
    return pairs


def changed_lines(old, new):
    """What the maps say of a diff of two sources, "+added -removed", in code lines."""
    parts = matched(code_lines(old), code_lines(new)).get_opcodes()
    parts = [part for part in parts if part[0] != "equal"]
    return f"+{sum(d - c for *_, c, d in parts)} -{sum(b - a for _, a, b, *_ in parts)}"

"""What the page says of a script beside its code, each thing read from where it stands.

Its story is a section of docs/methods.md, its places on the map a row of the README's table or of
docs/reference/map.md, and its flags are rows there. Effects are measured from the logs, and
questions are those of docs/questions.md that name it. A script that is documented nowhere has no
story, and its places are what its own docstring says.
"""

import re

import common
from compose.reader import (
    AXES,
    EXTRAS,
    code_lines,
    coordinates,
    docstring_length,
    docstring_of,
    equations,
    method_in_code,
    moved_axes,
    parent,
    source_of,
    without_comment,
)
from experiments.catalogue import ARMS
from experiments.effects import all_measured, number
from plots.markdown import inline, section, table_of

STORIES = "docs/methods.md"
MAP = "docs/reference/map.md"
SYMBOLS = {  # as they stand in docstrings: what they mean
    "A_i": "advantage of completion i",
    "A_it": "advantage of token t of completion i",
    "R_i": "reward of completion i",
    "R_it": "reward of token t of completion i",
    "R_ik": "reward component k of completion i",
    "R_len": "punishment of a completion that nears the budget",
    "Z_ik": "component k, normalised within the group",
    "S_i": "weighted sum of the normalised components",
    "C_i": "reward minus the group's mean",
    "S_ik": "what the turn k is worth among turns from the same state",
    "r_it": "importance ratio of a token: pi / pi_old",
    "s_i": "importance ratio of a completion",
    "w_it": "weight of a token, held fixed in the gradient",
    "c_it": "what corrects a token for the policy that drew it",
    "M_i": "0 for a completion that is left out, else 1",
    "g_it": "a soft gate in place of the clip",
    "k_it": "estimate of the KL to the initial model, at a token",
    "V_it": "what the critic expects after the prefix",
    "L": "the loss",
    "G": "completions in a group",
    "P": "prompts in a rollout",
    "T": "token budget of a completion",
    "o_i": "completion i; |o_i| its number of tokens",
    "o_it": "token t of completion i",
    "pi": "the policy that is updated",
    "pi_old": "the policy that sampled",
    "mu": "the policy that really drew the tokens, in its own precision",
    "pi_ref": "the initial policy, frozen",
    "beta": "weight of the KL term",
    "e": "half-width of the clip",
    "e_low": "half-width of the clip, below 1",
    "e_high": "half-width of the clip, above 1",
}
PLACES = {  # left side of an equation: (function that computes it, how the line begins)
    "A_i": ("compute_advantages", "advantages = "),
    "A_it": ("compute_advantages", "advantages = "),
    "C_i": ("compute_advantages", "centred = "),
    "S_i": ("compute_advantages", "pooled = "),
    "r_it": ("policy_loss", "ratio = "),
    "s_i": ("policy_loss", "ratio = "),
    "w_it": ("policy_loss", "weight = "),
    "g_it": ("policy_loss", "gate = "),
    "d_it": ("policy_loss", "log_ratio = "),
    "m_it": ("policy_loss", "clipped = "),
    "k_it": ("policy_loss", "kl_ref = "),
    "L": ("aggregate_loss", "return "),
}


def method(script):
    """The method's name, with which its docstring begins: GSPO."""
    return docstring_of(source_of(script)).partition(":")[0]


def file_name(script):
    return f"{script.rpartition('.')[2]}.py"


def is_documented(script):
    """Whether the docs have a section on it; a script that a student writes has none."""
    return bool(section(STORIES, method(script)))


def story(script):
    """[[Problem, text], [Change, text], ...] as HTML; [] for a script that has none, as mine.py."""
    text = section(STORIES, method(script))
    found = re.findall(r"^\*\*(.+?)\*\*((?:.+\n)+)", text, re.MULTILINE)
    return [[title.rstrip("."), inline(body.strip())] for title, body in found]


def places(names):
    """{script: its cells of the map, as HTML: the axes in order, and what lies beside them}."""
    six = table_of("README.md", "The map")[1:]
    ladder = table_of(MAP, "The ladder")[1:]
    frontier = table_of(MAP, "The frontier")[1:]
    found = {row[0].removesuffix(".py"): [*row[1:8], ""] for row in six}
    found |= {f"zoo.{row[0].removesuffix('.py')}": row[1:9] for row in ladder}
    found |= {f"zoo.{row[0].removesuffix('.py')}": [*row[1:8], ""] for row in frontier}
    return {name: found.get(name) or places_by_docstring(name) for name in names}


def places_by_docstring(script):
    """The same cells for a script that no table has."""
    source = source_of(script)
    moved = moved_axes(source, source_of("grpo"))
    cells = [coordinates(source)[axis] if axis in moved else "=" for axis in AXES]
    return [*map(inline, cells), ", ".join(filter(moved.__contains__, EXTRAS))]


def flags(script):
    """{TRL: [flags], verl: [flags]}, as HTML; empty where the library has no such method."""
    head, *rows = table_of(MAP, "Flags")
    found = {"TRL": [], "verl": []}
    name = ""
    for row in rows:
        name = row[0] or name
        for library, cells in found.items():
            cell = row[next(i for i, title in enumerate(head) if title.startswith(library))]
            if name == file_name(script) and cell not in ("", "-"):
                cells.append(cell)
    return found


def effects(script, most=6):
    """[[what, before, after, difference, interval, seeds]] of rows that move to this script."""
    rows = []
    for found in all_measured():
        effect = found.effect
        arm = ARMS[effect.moved]
        if script in (arm.script, *arm.swap.values()) and effect.base != effect.moved:
            rows.append((found.verdict != "seen", cells(found)))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])][:most]


def cells(found):
    """[what, before, after, difference, interval, seeds] of one measured effect."""
    low, high = map(number, found.interval)
    row = [found.effect.what, number(found.base), number(found.moved)]
    return [*row, number(found.difference), f"{low} to {high}", str(found.seeds)]


def questions(script):
    """[[question, address of its section]] of those that name the script."""
    text = (common.HERE / "docs/questions.md").read_text(encoding="utf-8")
    found = []
    for part in text.split("\n## ")[1:]:
        heading, _, body = part.partition("\n")
        anchor = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for question, answer in re.findall(r"^\*\*(.+?)\*\*((?:.+\n)*)", body, re.MULTILINE):
            if re.search(rf"(?<![\w.]){re.escape(file_name(script))}", question + answer):
                found.append([inline(question), f"questions.md#{anchor}"])
    return found


def computed_at(script):
    """[line or 0 for each equation]: the last one that computes what its left side names."""
    source = source_of(script)
    found = []
    for equation in equations(source):
        function, begins = PLACES.get(equation.partition(" ")[0], ("", ""))
        lines = [
            at
            for at, (line, place) in enumerate(code_lines(source), docstring_length(source) + 1)
            if place == function and line.strip().startswith(begins)
        ]
        line = max(lines, default=0)
        found.append(0 if line in found else line)  # gigpo.py's A_i and A_it meet in one name
    return found


def quoted_at(script):
    """[line, or 0 where it is not, for each line that the docstring quotes as the method]."""
    source = source_of(script)
    lines = {
        without_comment(line): at
        for at, (line, _) in enumerate(code_lines(source), docstring_length(source) + 1)
    }
    return [lines.get(quoted, 0) for quoted in method_in_code(source)]


def symbols(script):
    """[[symbol, meaning]] of those that the script's equations use."""
    used = set(re.findall(r"\w+", " ".join(equations(source_of(script)))))
    return [[symbol, meaning] for symbol, meaning in SYMBOLS.items() if symbol in used]


def described(script):
    """All of it, for the page."""
    return {
        "method": method(script),
        "parent": parent(source_of(script)),
        "story": story(script),
        "page": STORIES.removeprefix("docs/"),
        "flags": flags(script),
        "effects": effects(script),
        "questions": questions(script),
        "computed": computed_at(script),
        "quoted": method_in_code(source_of(script)),
        "quoted_at": quoted_at(script),
        "symbols": symbols(script),
    }

"""The docstring of a composition: equations, coordinates and where each move came from."""

import re
import textwrap

from compose.edits import MOVES, edits_of
from compose.reader import (
    AXES,
    EXTRAS,
    coordinates,
    correction,
    docstring_of,
    equations,
    loss_line,
    marker,
    method_in_code,
    moved_axes,
    short,
    source_of,
    surrogate,
    without_comment,
    without_remark,
)
from compose.rules import ONE_EACH, PER_TOKEN, UNDIVIDED
from tasks import InputError

SYMBOL = re.compile(r"\b(?!o_)[A-Za-z]_i[tk]?\b")
RATIOS = ("s_i", "r_it")
OWN_BASELINE = ONE_EACH | {"zoo.prime", "gdpo"}  # their advantage is stated by their own lines
# Scripts whose equations of A are put together here, one's baseline with another's std. Of others
# that move one of the two, the lines are taken whole.
MERGED = {"grpo", "dr_grpo", "gdpo", "zoo.gigpo", "zoo.rloo", "zoo.reinforce_pp_baseline"}
MERGED |= {"zoo.deepseek_v32"}
MERGED |= OWN_BASELINE
WHOLE = ("advantage", "std")


def docstring(parts, owner, notes, preset, code):
    """Text of the docstring of what these parts make; owner: {move: script}; code: below it."""
    taken = {move: owner.get(move, "grpo") for move in MOVES}
    names = " + ".join(first_line(part.script).partition(":")[0] for part in parts)
    command = " ".join(part.text for part in parts)
    said = [
        f"{index}) {short(part.script)}{paper(part.script)}: "
        + ", ".join(move for move in part.moves if taken[move] == part.script)
        for index, part in enumerate(parts, 1)
    ]
    origin = f"vs grpo.py: composed by `python -m compose {command}`: {'; '.join(said)}."
    left_out = "what the parts leave out, as their docstrings say"
    title = names
    if preset:
        title = f"{preset.title} ({preset.source})"
        left_out = f"{preset.left_out}; {left_out}"
        notes = [f"Run it with {preset.flags}.", *notes] if preset.flags else notes
    paragraphs = [origin, *notes, f"Not implemented: {left_out}."]
    blocks = [
        f"{title}: a composition.",
        "\n".join(introduction(taken)),
        "\n".join(f"    {line}" for line in stated(taken)),
        "Coordinates on the seven axes:\n" + "\n".join(coordinate_lines(taken, AXES)),
        "\n".join(coordinate_lines(taken, EXTRAS)),
        "\n".join(["The method in code:", *methods(parts, code)]),
        "\n".join(map(wrapped, paragraphs)),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def methods(parts, code):
    """The lines that the parts' docstrings quote as their methods.

    Of a part of which only some axes are taken, none of these may be there: then its first marked
    line stands for it.
    """
    written = list(map(without_comment, code.splitlines()))
    quoted = []
    for part in parts:
        lines = method_in_code(source_of(part.script))
        marked = [
            without_comment(edit.line)
            for edit in edits_of(part.script)
            if edit.move in part.moves and edit.line and marker(edit.line)
        ]
        bodies = [line for line in marked if not line.startswith(("def ", "class "))]
        found = [line for line in lines if written.count(line) == 1]
        quoted += found or [line for line in bodies if written.count(line) == 1][:1]
    return [f"    {line}" for line in dict.fromkeys(quoted)]


def wrapped(text):
    return textwrap.fill(
        text, 100, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False
    )


def first_line(script):
    return docstring_of(source_of(script)).partition("\n")[0]


def paper(script):
    found = re.search(r"arXiv:[\d.]+\d", first_line(script))
    return f" ({found[0]})" if found else ""


def introduction(taken):
    """The sentence on what is sampled and what the baseline is."""
    source = taken["turns"] if taken["advantage"] == "zoo.gigpo" else taken["sampling"]
    source = source if source in ONE_EACH | {"zoo.gigpo"} else "grpo"
    return docstring_of(source_of(source)).split("\n\n")[1].splitlines()


# ---- Equations ----------------------------------------------------------------------------------


def by_symbol(script):
    """{symbol: its line} of a script's equations; lines after the loss stand under "after"."""
    found = {}
    after = []
    for line in equations(source_of(script)):
        symbol = re.match(r"(\w+) +(=|<-) ", line)
        if "L" in found:
            after.append(line)
        else:
            found[symbol[1] if symbol else line] = line
    return found | {"after": after}


def stated(taken):
    """The lines of equations, in the order of grpo.py's."""
    kl = [re.sub("r_it", ratio_name(taken), line) for line in kl_lines(taken)]
    of_loss = [*ratio(taken), *corrections(taken), *kl, *loss(taken, bool(kl))]
    require_defined(of_loss)
    lines = [*votes(taken), *advantage(taken), *of_loss]
    for move in ("sampling", "tracker", "critic"):
        lines += by_symbol(taken[move])["after"]
    lines = list(dict.fromkeys(lines))
    if taken["sampling"] == "dapo":
        lines = [line.replace("of reward components", "of components + R_len") for line in lines]
    return [per_token(line) if taken["advantage"] in PER_TOKEN else line for line in lines]


def kl_lines(taken):
    return [line for symbol, line in by_symbol(taken["kl"]).items() if symbol == "k_it"]


def corrections(taken):
    """The line on what corrects for the sampler, if anything does."""
    symbol = correction(source_of(taken["sampler"]))
    return [by_symbol(taken["sampler"])[symbol]] if symbol else []


def ratio_name(taken):
    """The symbol of the ratio: s_i of a completion, else r_it."""
    needed = symbols_of(taken["granularity"])
    return next((name for name in RATIOS if name in needed), "r_it")


def votes(taken):
    return [by_symbol("zoo.ttrl")["y"]] if taken["reward"] == "zoo.ttrl" else []


def advantage(taken):
    """From the reward to A: by the script that moves the advantage, or by the one of the std."""
    script = taken["advantage"]
    own = {
        symbol: line
        for symbol, line in by_symbol(script).items()
        if symbol not in (*symbols_of(script), "k_it", "L", "after")
    }
    if script in OWN_BASELINE:
        return list(own.values())
    if script == "zoo.rloo":
        lines = [own["A_i"]]
    elif new := next((taken[move] for move in WHOLE if taken[move] not in MERGED), None):
        lines = whole_advantage(new, taken)
    else:
        of_std = by_symbol("dr_grpo" if taken["std"] == "zoo.rloo" else taken["std"])
        lines = [of_std[symbol] for symbol in ("C_i", "A_i") if symbol in of_std]
        of_turn = own | (turn_without_its_std(taken["std"]) if "S_ik" in own else {})
        lines += [of_turn[name] for name in ("R_ik", "C_ik", "S_ik", "A_it") if name in of_turn]
    pays = "R_i: weighted sum of reward components"
    if taken["kl"] == "zoo.rloo":
        lines = [by_symbol("zoo.rloo")["R_i"], *(line.replace(pays, "").rstrip() for line in lines)]
    if taken["reward"] == "zoo.ttrl":
        agreed = by_symbol("zoo.ttrl")["A_i"].partition("   R_i")
        lines = [line.replace(pays, f"R_i{agreed[2]}") for line in lines]
    return lines


def turn_without_its_std(script):
    """{symbol: line} of GiGPO's turns where the std is another script's; {} where it is not."""
    centred = f"{'R_ik - mean':<47}over the turns of the group in its state"
    if script in UNDIVIDED:
        return {"S_ik": f"S_ik = {centred}"}
    if script == "zoo.reinforce_pp_baseline":
        of_all = f"{'C_ik / std(C)':<47}over all turns of the rollout"
        return {"C_ik": f"C_ik = {centred}", "S_ik": f"S_ik = {of_all}"}
    return {}


def whole_advantage(script, taken):
    """The lines on A of a script that MERGED does not know: they hold for what it moves, together.

    InputError if its advantage is taken without its std or the other way round, because then no
    script has the equation.
    """
    source = source_of(script)
    moved = moved_axes(source, source_of("grpo"))
    own = {"advantage": "advantage" in moved, "std": "std" in {e.move for e in edits_of(script)}}
    for move, is_own in own.items():
        if taken[move] != (script if is_own else "grpo"):
            stated = " and ".join(
                f"{'its own' if yes else 'the usual'} {name}" for name, yes in own.items()
            )
            raise InputError(
                f"{short(script)} states A for {stated}, not for {short(taken[move])}'s {move}; no "
                "equation would be right: take them as it has them"
            )
    left_out = (*symbols_of(script), "k_it", "L", "after")
    return [line for symbol, line in by_symbol(script).items() if symbol not in left_out]


def symbols_of(script):
    """The ratios and weights that a script's surrogate needs, and those that these need."""
    lines = by_symbol(script)
    needed = [name for name in SYMBOL.findall(surrogate(source_of(script))) if name[0] != "A"]
    for symbol in needed:  # it grows
        beside = SYMBOL.findall(lines.get(symbol, "").partition("=")[2])
        needed += [name for name in beside if name[0] != "A"]
    return [symbol for symbol in lines if symbol in needed]


def ratio(taken):
    """Ratios and weights, by the scripts that move granularity and clip."""
    script = taken["turns"] if taken["granularity"] == "grpo" else taken["granularity"]
    of_ratio = by_symbol(script)
    of_clip = by_symbol(taken["clip_width"])
    names = [name for name in symbols_of(script) if script == taken["clip_width"] or name in RATIOS]
    beside = [name for name in symbols_of(taken["clip_width"]) if name not in (*names, *RATIOS)]
    return [of_ratio[name] for name in names] + [of_clip[name] for name in beside]


def loss(taken, with_kl):
    """Lines of L: how tokens are averaged, the surrogate, the KL."""
    outer = re.search(r"L    = (.*?sum_t)", loss_line(source_of(taken["length"])))
    if not outer:
        raise InputError(f"{short(taken['length'])}: its L has no sum_t: take another's length")
    outer = outer[1].replace("1/G", "1/P") if taken["sampling"] in ONE_EACH else outer[1]
    inner = surrogate(source_of(taken["clip_width"]))
    if taken["granularity"] != taken["clip_width"]:
        inner = re.sub("|".join(RATIOS), ratio_name(taken), inner)
    inner = f"{correction(source_of(taken['sampler']))} {inner}".lstrip()
    lines = [f"L    = {outer} [ -{inner}", "+ beta k_it ]" if with_kl else "]"]
    lines = [" ".join(lines)] if len(" ".join(lines)) <= 94 else [lines[0], " " * 7 + lines[1]]
    return [*lines, f"{'':<54}T: token budget"] if "1/T" in outer else lines


def require_defined(lines):
    """InputError if a line uses a ratio or weight that none of them defines."""
    defined = {line.partition(" ")[0] for line in lines}
    for line in lines:
        for symbol in SYMBOL.findall(line):
            if symbol[0] not in "AR" and symbol not in defined:
                raise InputError(
                    f"the equation `{without_remark(line)}` uses {symbol}, which nothing defines: "
                    "its part goes with another ratio; name the axes to take"
                )


def per_token(line):
    """In a line about the loss an advantage has two indices."""
    return line.replace("A_i", "A_it").replace("A_itt", "A_it") if line[:1] in "Lw" else line


# ---- Coordinates --------------------------------------------------------------------------------


def coordinate_lines(taken, names):
    lines = []
    for name in names:
        keys = [move for move, axis in MOVES.items() if axis == name]
        said = [coordinates(source_of(taken[key])).get(name) for key in keys]
        if name == "length + std":
            said = [", ".join(half.split(", ")[i] for i, half in enumerate(said))]
        if said[0] and (name in AXES or taken[keys[0]] != "grpo"):
            lines.append(f"    {name:<14}{said[0]}")
    return lines

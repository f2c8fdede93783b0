"""The docstring of a composition: equations, coordinates and where each move came from."""

import re
import textwrap

from compose.edits import MOVES
from compose.reader import AXES, EXTRAS, coordinates, docstring_of, equations, short, source_of
from compose.rules import ONE_EACH, PER_TOKEN

OWN_BASELINE = ONE_EACH | {"zoo.prime", "gdpo"}  # their advantage is stated by their own lines


def docstring(parts, owner, notes, preset):
    """Text of the docstring of what these parts make; owner: {move: script}."""
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
        "Coordinates on the six axes:\n" + "\n".join(coordinate_lines(taken, AXES)),
        "\n".join(coordinate_lines(taken, EXTRAS)),
        "\n".join(map(wrapped, paragraphs)),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def wrapped(text):
    return textwrap.fill(
        text, 100, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False
    )


def first_line(script):
    return docstring_of(source_of(script)).partition("\n")[0]


def paper(script):
    found = re.search(r"arXiv:[\d.]+\d", first_line(script))
    return f" ({found[0]})" if found else ""


def made_of(source):
    """The parts that a composition's docstring names; none for another script."""
    found = re.search(r"composed by `python\s+-m\s+compose\s+([^`]+)`", source)
    return found[1].split() if found else []


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
    lines = [*votes(taken), *advantage(taken), *ratio(taken)]
    k3 = by_symbol(taken["kl"]).get("k_it")
    lines += [k3] if k3 else []
    lines += loss(taken, bool(k3))
    for move in ("sampling", "tracker", "critic"):
        lines += by_symbol(taken[move])["after"]
    lines = list(dict.fromkeys(lines))
    if taken["sampling"] == "dapo":
        lines = [line.replace("of reward components", "of components + R_len") for line in lines]
    return [per_token(line) if taken["advantage"] in PER_TOKEN else line for line in lines]


def votes(taken):
    return [by_symbol("zoo.ttrl")["y"]] if taken["reward"] == "zoo.ttrl" else []


def advantage(taken):
    """From the reward to A: by the script that moves the advantage, or by the one of the std."""
    script = taken["advantage"]
    own = {
        symbol: line
        for symbol, line in by_symbol(script).items()
        if symbol not in ("r_it", "s_i", "k_it", "L", "after")
    }
    if script in OWN_BASELINE:
        return list(own.values())
    if script == "zoo.rloo":
        lines = [own["A_i"]]
    else:
        of_std = by_symbol("dr_grpo" if taken["std"] == "zoo.rloo" else taken["std"])
        lines = [of_std[symbol] for symbol in ("C_i", "A_i") if symbol in of_std]
        lines += [own[symbol] for symbol in ("R_ik", "S_ik", "A_it") if symbol in own]
    pays = "R_i: weighted sum of reward components"
    if taken["kl"] == "zoo.rloo":
        lines = [by_symbol("zoo.rloo")["R_i"], *(line.replace(pays, "").rstrip() for line in lines)]
    if taken["reward"] == "zoo.ttrl":
        agreed = by_symbol("zoo.ttrl")["A_i"].partition("   R_i")
        lines = [line.replace(pays, f"R_i{agreed[2]}") for line in lines]
    return lines


def ratio(taken):
    """Ratios and weights, by the scripts that move granularity and clip."""
    symbols = ("d_it", "m_it", "s_i") if taken["granularity"] == "zoo.gmpo" else ("s_i", "r_it")
    found = by_symbol(taken["turns"] if taken["granularity"] == "grpo" else taken["granularity"])
    lines = [found[symbol] for symbol in symbols if symbol in found]
    weight = by_symbol(taken["clip_width"]).get("w_it")
    return [*lines, weight] if weight else lines


def loss(taken, with_kl):
    """Lines of L: how tokens are averaged, the surrogate, the KL."""
    outer = re.search(r"L    = (.*?sum_t)", by_symbol(taken["length"])["L"])[1]
    outer = outer.replace("1/G", "1/P") if taken["sampling"] in ONE_EACH else outer
    bounds = re.search(r"clip\(\w+, (.*?)\)", by_symbol(taken["clip_width"])["L"])
    ratio = "s_i" if taken["granularity"] in ("gspo", "zoo.rloo") else "r_it"
    if taken["clip_width"] == "cispo":
        surrogate = "w_it A_i log pi(o_it | o_i<t)"
    elif bounds is None:
        surrogate = "s_i A_i"
    else:
        surrogate = f"min({ratio} A_i, clip({ratio}, {bounds[1]}) A_i)"
    lines = [f"L    = {outer} [ -{surrogate}", "+ beta k_it ]" if with_kl else "]"]
    lines = [" ".join(lines)] if len(" ".join(lines)) <= 94 else [lines[0], " " * 7 + lines[1]]
    return [*lines, f"{'':<54}T: token budget"] if "1/T" in outer else lines


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

"""What the page needs to move the axes by itself, read off the scripts, compose and the atlas.

plots/page/compose.js puts it together as compose/composition.py and compose/text.py do.
"""

import ast
import re
from dataclasses import asdict

from compose import composition, rules, text
from compose.edits import MOVES, edits_of
from compose.reader import (
    code_lines,
    coordinates,
    correction,
    loss_line,
    moved_axes,
    parent,
    parts_named,
    source_of,
    surrogate,
)
from experiments.catalogue import ARMS
from experiments.effects import all_measured
from plots import atlas, stories

# A library's flag: the moves that it sets, where it does not set all that its script moves.
SETS = {
    '^loss_type="cispo"': ("clip_width", "length"),
    '^loss_type="sapo"': ("clip_width",),
    "^loss_type=|loss_agg_mode=|loss_scale_factor=": ("length",),
    "scale_rewards=|norm_adv_by_std|adv_estimator=(grpo|.*_baseline)": ("std",),
    "^beta=|kl_loss|use_bias_correction_kl=": ("kl",),
    "^epsilon|clip_ratio_(low|high|c)|tau_|loss_mode=(sapo|cispo|dppo)": ("clip_width",),
    "importance_sampling_level=": ("granularity",),
    "loss_mode=gspo": ("granularity", "clip_width"),
    "loss_mode=dro": ("clip_width", "kl"),
    "adv_estimator=rloo": ("advantage", "std"),
    "multi_objective|adv_estimator=gdpo|reward_(weights|keys|manager)|use_v1": ("advantage",),
    "filter_groups|overlong": ("sampling",),
    "rollout_correction|^vllm_|off_policy_mask": ("sampler",),
}


def described(names):
    """All of it, for a page that shows these scripts."""
    parts = [name for name in names if is_part(name)]
    return {
        "moves": MOVES,
        "known": composition.known(),
        "places": [place for _, place in code_lines(source_of("grpo"))],
        "scripts": {name: of_script(name) for name in ("grpo", *parts)},
        "positions": {move: positions(move, parts) for move in MOVES},
        "methods": methods(parts),
        "flags": {name: flags(name) for name in ("grpo", *parts)},
        "measured": measured(parts),
        "together": rules.TOGETHER,
        "clashes": [as_lists(clash) for clash in rules.CLASHES],
        "cautions": [as_lists(caution) for caution in rules.CAUTIONS],
        "interactions": [as_lists(one) for one in rules.INTERACTIONS],
        "presets": {name: asdict(preset) for name, preset in rules.PRESETS.items()},
        "one_each": sorted(rules.ONE_EACH),
        "per_token": sorted(rules.PER_TOKEN),
        "undivided": sorted(rules.UNDIVIDED),
        "own_baseline": sorted(text.OWN_BASELINE),
        "merged": sorted(text.MERGED),
    }


def is_part(name):
    """Whether compose takes it: compared with grpo.py, and no composition itself."""
    source = source_of(name)
    return name != "grpo" and parent(source) == "grpo" and not parts_named(source)


def as_lists(rule):
    """A rule with its sets as sorted lists, the same on every machine."""
    found = asdict(rule)
    return found | {"owners": {move: sorted(names) for move, names in found["owners"].items()}}


def of_script(name):
    """A script taken apart: its edits of grpo.py's code, and the pieces of its docstring."""
    source = source_of(name)
    mean = re.search(r"L    = (.*?sum_t)", loss_line(source))
    return {
        "edits": [[e.move, e.place, e.at, e.replaces, e.line] for e in edits_of(name)],
        "paper": text.paper(name),
        "introduction": text.introduction(dict.fromkeys(MOVES, name)),
        "stated": text.by_symbol(name),
        "symbols": text.symbols_of(name),
        "surrogate": surrogate(source),
        "correction": correction(source),
        "mean": mean[1] if mean else "",
        "moved": sorted(moved_axes(source, source_of("grpo"))),
        "options": numbers(source),
    }


def numbers(source):
    """{option: default} of those of a script's options that are numbers, or lists of them."""
    config = next(n for n in ast.parse(source).body if getattr(n, "name", "") == "Config")
    found = {line.target.id: ast.literal_eval(line.value.args[0]) for line in config.body}
    found = {name: value for name, value in found.items() if not isinstance(value, (str, bool))}
    return {k: v for k, v in found.items() if not isinstance(v, list) or isinstance(v[0], float)}


def positions(move, parts):
    """[[short, in full, scripts]]: where a move can go, grpo.py's position first.

    Scripts share a position if they make the same edits.
    """
    short = {row.here: row.moves for row in reversed(list(atlas.rows()))}
    found = {}
    for name in ("grpo", *parts):
        lines = tuple(edit.line for edit in edits_of(name) if edit.move == move)
        if not lines and name != "grpo":
            continue
        full = coordinate(name, move)
        label = short.get(name, {}).get(move, full)
        if label == MOVES[move]:  # the atlas has no word for it
            label = full.partition(":")[0]
        found.setdefault(lines, [label, full, []])[2].append(name)
    return list(found.values())


def coordinate(name, move):
    """Where a script says that it lies, of length or std alone where that is the move."""
    full = coordinates(source_of(name)).get(MOVES[move], "as in grpo.py")
    return full.split(", ")[move == "std"] if move in ("length", "std") else full


def methods(parts):
    """Rows of the atlas that compose makes of these scripts, with the parts that it makes them of.

    `own`: a script's own row, as in the maps; others run as it, with flags.
    """
    names = {name.rpartition(".")[2] for name in parts}
    found = []
    scripts_seen = set()
    for row in atlas.rows():
        if row.here in ("grpo", *parts):
            made = [] if row.here == "grpo" else [row.here.rpartition(".")[2]]
        elif row.here.startswith("python -m compose "):
            made = row.here.removesuffix(" -o mine.py").split()[3:]
            made = rules.PRESETS[made[1]].parts.split() if made[0] == "--preset" else made
        else:
            continue
        if {part.partition(":")[0] for part in made} <= names:
            entry = {"name": row.name, "year": row.year, "arxiv": row.arxiv, "words": row.words}
            entry |= {"parts": made, "own": row.here not in scripts_seen}
            found.append(entry | {"TRL": row.trl, "verl": row.verl})
            scripts_seen.add(row.here)
    return found


def flags(name):
    """{TRL: [[flag, moves that it sets]], verl: ...} of a script, out of the tables of the docs."""
    own = list(dict.fromkeys(edit.move for edit in edits_of(name)))
    found = {}
    for library, cells in stories.flags(name).items():
        found[library] = []
        for flag in re.findall("<code>(.*?)</code>", " ".join(cells)):
            plain = flag.replace("&quot;", '"')
            sets = next((moves for key, moves in SETS.items() if re.search(key, plain)), own)
            found[library].append([plain, list(sets)])
    return found


def measured(parts):
    """[{parts, rows}] of compositions that ran: what moving to each did, rows as a story's."""
    names = {name.rpartition(".")[2] for name in parts}
    found = {}
    for row in all_measured():
        made = ARMS[row.effect.moved].parts
        made = [part.rpartition(".")[2] for part in made]
        if made and {part.partition(":")[0] for part in made} <= names:
            found.setdefault(tuple(made), []).append(stories.cells(row))
    return [{"parts": list(made), "rows": rows} for made, rows in found.items()]

"""The diff contract: a script differs from its parent where its axes move, and nowhere else.

`violations` says what breaks it, with the line and what to do. The tests hold every script to it
(tests/core/test_diffs.py), and compose takes no part that does not keep it.
"""

import ast
import difflib
import re
from dataclasses import dataclass
from functools import cache, cached_property

from compose.reader import (
    AXES,
    EXTRAS,
    code_lines,
    coordinates,
    docstring_length,
    loss_line,
    made_of,
    marker,
    method_in_code,
    moved_axes,
    parent,
    source_of,
    surrogate,
    undefined_symbols,
    without_comment,
)

NEW_SCRIPT = 45  # changed lines that a script may have which is in no table yet


@dataclass(frozen=True)
class Contract:
    """What a script may change: how many code lines, which axes where, and functions it adds."""

    budget: int  # changed lines outside the docstring
    places: dict[str, set[str]]  # function or class: the axes that its lines may move
    new: set[str]  # functions and classes that its parent does not have


NO_KL = {key: {"KL"} for key in ["Config", "Rollout", "policy_loss", "update_policy", "train"]}
MEAN = {"aggregate_loss": {"length + std"}}
STD = {"compute_advantages": {"length + std"}}
CLIP = {"Config": {"clip width"}, "policy_loss": {"granularity"}}
BOTH = {"Config": {"KL", "clip width"}, "policy_loss": {"KL", "clip width"}}
DRAW = {"Config": {"KL", "clip width", "sampling"}, "policy_loss": {"KL"}}
DRAW |= {key: {"sampling"} for key in ["imports", "sample_batch", "compute_advantages"]}
DRAW |= {"update_policy": {"KL", "sampling"}}
LOG_CLIP = CLIP | {"policy_loss": {"clip width", "granularity"}}
REWARD_KL = {key: {"KL"} for key in ["Config", "policy_loss", "train"]}
REWARD_KL |= {"compute_advantages": {"KL", "advantage", "length + std"}}
OTHERS = REWARD_KL | {"policy_loss": {"KL", "granularity"}}
SINGLE = REWARD_KL | {"Config": {"KL", "sampling"}}
VOTE = {"imports": {"reward"}, "compute_rewards": {"reward"}}
MEMORY = NO_KL | MEAN | {"compute_advantages": {"advantage", "length + std"}}
MEMORY |= {"Config": {"sampling", "clip width", "tracker"}, "Rollout": {"tracker"}}
MEMORY |= {"sample_batch": {"sampling", "tracker"}, "train": {"tracker"}}
TURNS = {key: {"turns"} for key in ["imports", "Rollout", "generate", "sample_groups"]}
TURNS |= {"Config": {"advantage", "turns"}, "train": {"advantage"}}
TURNS |= {"compute_advantages": {"advantage"}}
CRITIC = NO_KL | MEAN | {key: {"critic"} for key in ["Rollout", "train"]}
CRITIC |= {"Config": {"sampling", "advantage", "critic", "KL"}, "update_policy": {"KL"}}
CRITIC |= {"compute_advantages": {"advantage", "length + std", "critic"}}
NETWORK = {"load_critic", "value_loss", "prefix_values", "update_critic"}
AUGMENTED = {"Config": {"sampling", "clip width", "advantage", "critic"}, "train": {"critic"}}
AUGMENTED |= {"compute_advantages": {"advantage", "critic"}, "update_policy": {"advantage"}}
IMPLICIT = {"Config": {"KL", "reward"}, "policy_loss": {"KL"}, "train": {"reward"}} | MEAN
IMPLICIT |= {"compute_advantages": {"advantage", "length + std", "reward"}}
PROCESS = {"mean_of_others", "to_go", "process_rewards", "update_reward_model"}
CORRECTED = {key: {"sampler"} for key in ["Config", "update_policy", "train"]}
INSTEAD = {"Config": {"clip width"}, "policy_loss": {"clip width"}}
CONTRACT = {
    "dr_grpo": Contract(20, NO_KL | MEAN | STD, set()),
    "dapo": Contract(70, NO_KL | MEAN | DRAW, {"join_groups", "soft_overlong_punishment"}),
    "gspo": Contract(9, CLIP, set()),
    "gdpo": Contract(14, {"compute_advantages": {"advantage"}}, set()),
    "cispo": Contract(28, NO_KL | MEAN | BOTH, set()),
    "zoo.reinforce_pp_baseline": Contract(6, STD | {"policy_loss": {"KL"}}, set()),
    "zoo.gmpo": Contract(18, LOG_CLIP, set()),
    "zoo.rloo": Contract(20, OTHERS, set()),
    "zoo.reinforce_pp": Contract(26, SINGLE, set()),
    "zoo.gigpo": Contract(60, TURNS, {"turn_advantages"}),
    "zoo.ppo": Contract(115, CRITIC, NETWORK),
    "zoo.vapo": Contract(50, AUGMENTED, {"pretrain_critic"}),
    "zoo.prime": Contract(80, IMPLICIT, PROCESS),
    "zoo.spo": Contract(123, MEMORY, {"Tracker"}),
    "zoo.ttrl": Contract(22, VOTE, {"agreement"}),
    "zoo.tis": Contract(20, CORRECTED | {"Rollout": {"sampler"}}, set()),
    "zoo.deepseek_v32": Contract(30, CORRECTED | STD | {"policy_loss": {"KL"}}, set()),
    "zoo.sapo": Contract(16, INSTEAD, set()),
    "zoo.dppo": Contract(20, INSTEAD | {"train": {"sampler"}}, set()),
    "zoo.maxrl": Contract(12, STD | {"Config": {"length + std"}}, set()),
    "zoo.dro": Contract(16, BOTH | {"train": {"sampler"}}, set()),
}


def top_level_names(source):
    return [node.name for node in ast.parse(source).body if hasattr(node, "name")]


def options(source):
    """The fields of a script's Config, in order."""
    config = next(n for n in ast.parse(source).body if getattr(n, "name", "") == "Config")
    return [statement.target.id for statement in config.body]


def contract_of(name, source, hub):
    """The contract of a script.

    One that is in no table yet may move the axes that its docstring moves, anywhere. A composition
    may do what its parts may, and answers what they ask of each other in four lines.
    """
    if name in CONTRACT:
        return CONTRACT[name]
    added = set(top_level_names(source)) - set(top_level_names(hub))
    parts = [contract_of(part, source_of(part), hub) for part in made_of(source)]
    if parts:
        places = {}
        for part in parts:
            for place, axes in part.places.items():
                places[place] = places.get(place, set()) | axes
        new = set().union(*(part.new for part in parts)) & added
        return Contract(sum(part.budget for part in parts) + 4, places, new)
    places = dict.fromkeys(["imports", *top_level_names(hub)], moved_axes(source, hub))
    return Contract(NEW_SCRIPT, places, added)


def squeeze(lines):
    """The text without white space, comments and trailing commas: equal if only reflowed."""
    return re.sub(r"[\s,]", "", re.sub(r"  #.*", "", "\n".join(line for line, _ in lines)))


def spans(lines):
    """Every run of neighbouring lines."""
    ends = range(1, len(lines) + 1)
    return [lines[start:end] for end in ends for start in range(end)]


def reflowed(removed, added):
    """Whether all of a hunk, or a part without a marker, only breaks its lines elsewhere.

    Lines that move into a loop are indented as they were broken: that is no reflow.
    """
    if squeeze(removed) == squeeze(added):
        return True
    before = {squeeze(span): len(span) for span in spans(removed)}
    plain = [span for span in spans(added) if not any(marker(line) for line, _ in span)]
    return any(before.get(squeeze(span), len(span)) != len(span) for span in plain)


def shape(line):
    """The line with every name and number alike: equal for two lines if these alone differ."""
    return re.sub(r"[A-Za-z_]\w*|\d[\w.]*", "x", line)


# ---- What breaks it: sentences, each with the line it is about and what to do -------------------


@dataclass(frozen=True)
class Comparison:
    """A script beside its parent: code as [(line, the function or class it belongs to)]."""

    name: str
    source: str
    hub_name: str
    hub: str

    @cached_property
    def contract(self):
        return contract_of(self.name, self.source, self.hub)

    @cached_property
    def moved(self):
        return moved_axes(self.source, self.hub)

    @cached_property
    def before(self):
        return code_lines(self.hub)

    @cached_property
    def after(self):
        return code_lines(self.source)

    def at(self, index, what):
        """A sentence about line `index` of the script's code."""
        number = docstring_length(self.source) + 1 + index
        return f"line {number}, `{self.after[index][0].strip()}`: {what}"


@cache
def violations(name, source):
    """What breaks the contract of a script: of its order alone, until that is restored."""
    hub_name = parent(source)
    pair = Comparison(name, source, hub_name, source_of(hub_name))
    return of_order(pair) or [*of_options(pair), *of_docstring(pair), *of_hunks(pair)]


def of_order(pair):
    """Functions and options stand as in the parent, new ones between them."""
    found = []
    names = [name for name in top_level_names(pair.source) if name not in pair.contract.new]
    if names != top_level_names(pair.hub):
        found.append(
            f"its functions are {', '.join(names)}: keep those of {pair.hub_name}.py in their "
            "order; new ones go between"
        )
    shared = [option for option in options(pair.source) if option in options(pair.hub)]
    order = [option for option in options(pair.hub) if option in shared]
    wrong = [(here, there) for here, there in zip(shared, order, strict=True) if here != there]
    if wrong:
        here, there = wrong[0]
        found.append(
            f"option {here} stands where {pair.hub_name}.py has {there}: restore the order; new "
            "options go between"
        )
    return found


def of_options(pair):
    """What the code reads is an option, the method's options are read, and the ratio is logged."""
    known = options(pair.source)
    tree = ast.parse(pair.source)
    read = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "config"
    ]
    lines = pair.source.splitlines()
    found = [
        f"line {node.lineno}, `{lines[node.lineno - 1].strip()}`: Config has no {node.attr}; give "
        "it this option, marked, below `# This algorithm`, or do without"
        for node in read
        if node.attr not in known
    ]
    own = pair.source.partition("    # This algorithm\n")[2].partition("    # Task\n")[0]
    unread = set(re.findall(r"^    (\w+):", own, re.MULTILINE)) - {node.attr for node in read}
    found += [f"option {name} is read nowhere: take it out" for name in sorted(unread)]
    loss = next(node for node in tree.body if getattr(node, "name", "") == "policy_loss")
    reported = [key.value for d in ast.walk(loss) if isinstance(d, ast.Dict) for key in d.keys]
    if "ratio" not in reported:
        found.append('policy_loss: its metrics need "ratio", which the log shows; put it back')
    return found


def of_docstring(pair):
    """Coordinates, equations and the quoted method fit each other and the code."""
    found = []
    length_std = coordinates(pair.source)["length + std"]
    code = [line for line, _ in pair.after]
    if ", " not in length_std:
        found.append(
            "length + std: its coordinate says two things, as grpo.py's does: what tokens are "
            "divided by and, after a comma, whether advantages are divided by a std"
        )
    if ("divided by the group's std" in length_std) != any(".std(1" in line for line in code):
        found.append(
            "length + std: its coordinate says `divided by the group's std` if, and only if, "
            "compute_advantages has `.std(1`: change one of the two"
        )
    if not loss_line(pair.source):
        found.append(
            "the equations need a line `L    = ... sum_t [ -SURROGATE ]`, with `+ beta k_it ]` at "
            "its end if there is a KL, as in grpo.py"
        )
    here, there = (surrogate(text).replace("A_it", "A_i") for text in (pair.source, pair.hub))
    if here != there and not pair.moved & {"granularity", "clip width"}:
        found.append(
            f"L has the surrogate `{here}`, {pair.hub_name}.py's is `{there}`: restore it, or say "
            "in the coordinates that granularity or clip width moves"
        )
    found += [
        f"the equations use {symbol}, which nothing defines: give it a line, or a remark behind one"
        for symbol in undefined_symbols(pair.source)
    ]
    quoted = method_in_code(pair.source)
    if not quoted:
        found.append(
            "the docstring quotes no code: add `The method in code:` below the coordinates, and "
            "under it the one to three lines that are the method"
        )
    written = list(map(without_comment, code))
    for line in quoted:
        if line != without_comment(line):
            found.append(f"the docstring quotes `{line}`: leave out its comment")
        elif written.count(line) != 1:
            found.append(
                f"the docstring quotes `{line}`, which stands {written.count(line)} times in the "
                "code: quote a line that is there once"
            )
    return found


def of_hunks(pair):
    """Every changed line lies where an axis moves, is marked, and is nothing but the move."""
    axes = ", ".join(AXES + EXTRAS)
    contract = pair.contract
    texts = [line for line, _ in pair.before], [line for line, _ in pair.after]
    hunks = [
        (c, pair.before[a:b], pair.after[c:d])
        for tag, a, b, c, d in difflib.SequenceMatcher(None, *texts, False).get_opcodes()
        if tag != "equal"
    ]
    changed = sum(len(removed) + len(added) for _, removed, added in hunks)
    marked = {marker(line) for _, _, added in hunks for line, _ in added} - {None}
    found = [sentence for hunk in hunks for sentence in of_hunk(pair, *hunk)]
    for function in sorted(contract.new):
        defined = re.compile(rf"(def|class) {function}\(")
        heads = [i for i, (line, _) in enumerate(pair.after) if defined.match(line)]
        found += [
            pair.at(i, "new, and its first line has no marker: end it in `# <- AXIS`")
            for i in heads
            if not marker(pair.after[i][0])
        ]
    for index, (line, _) in enumerate(pair.after):
        if re.search("#.*<-", line) and not marker(line):
            found.append(
                pair.at(index, f"its marker is not one of {axes}, followed by a colon or nothing")
            )
    for axis in sorted(pair.moved - marked):
        found.append(
            f"the docstring moves {axis}, and no line is marked with it: mark the line that moves "
            f"it with `# <- {axis}`, or give it {pair.hub_name}.py's coordinate"
        )
    for axis in sorted(marked - pair.moved):
        found.append(
            f"lines are marked with {axis}, whose coordinate in the docstring is still "
            f"{pair.hub_name}.py's: say there where the script lies, or take the markers away"
        )
    if changed > contract.budget:
        found.append(
            f"{changed} changed lines, {contract.budget} allowed: move less, or take another "
            "parent with `vs PARENT.py:`"
        )
    return found


def of_hunk(pair, start, removed, added):
    """The sentences on one hunk; start: where its added lines begin in the script's code."""
    axes = ", ".join(AXES + EXTRAS)
    contract = pair.contract
    found = []
    places = {place for line, place in removed + added if line.strip()}
    outside = places - set(contract.places) - contract.new
    gone = "" if added else f" (`{removed[0][0].strip()}` stood before it)"
    if not places or outside:
        where = ", ".join(sorted(outside)) or "a blank line"
        what = f"changed in {where}, where no axis of this script lies: undo it{gone}"
        found.append(pair.at(start, what))
    for index, (line, place) in enumerate(added, start):
        axis = marker(line)
        allowed = contract.places.get(place, set())
        if axis in pair.moved and place not in contract.new and axis not in allowed:
            may = ", ".join(sorted(allowed)) or "nothing"
            found.append(pair.at(index, f"{place} may not move {axis}, it may move {may}"))
        twins = [x for x, _ in removed if x.strip() and shape(x) == shape(line) and x != line]
        if twins and not axis:
            found.append(
                pair.at(
                    index,
                    f"only names or numbers differ from `{twins[0].strip()}`: keep "
                    f"{pair.hub_name}.py's, or end the line in `# <- AXIS` if it moves one",
                )
            )
    if reflowed(removed, added):
        found.append(
            pair.at(
                start,
                f"broken into lines otherwise than in {pair.hub_name}.py, and nothing moved: undo "
                f"it{gone}",
            )
        )
    if added and not places & contract.new and not any(marker(line) for line, _ in added):
        found.append(
            pair.at(start, f"changed without a marker: end the line in `# <- AXIS`, one of {axes}")
        )
    if not added and not all(re.search("ref|kl_", line) for line, _ in removed):
        found.append(
            f"`{removed[0][0].strip()}` of {pair.hub_name}.py is gone without a marker: put it "
            "back, or leave a comment in its place that ends in `# <- AXIS`"
        )
    return found

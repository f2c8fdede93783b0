"""The diff contract: a script differs from its parent where its axes move, and nowhere else.

`violations` says what breaks it, each with its line and what to do. The tests hold every script to
it (tests/core/test_diffs.py), and compose takes no part that does not keep it.
"""

import ast
import difflib
import re
from dataclasses import dataclass
from functools import cache

from compose.reader import (
    AXES,
    EXTRAS,
    code_lines,
    coordinates,
    docstring_length,
    made_of,
    marker,
    method_in_code,
    moved_axes,
    parent,
    source_of,
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
PROCESS = {"mean_of_others", "process_rewards", "update_reward_model"}
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
    "zoo.prime": Contract(75, IMPLICIT, PROCESS),
    "zoo.spo": Contract(123, MEMORY, {"Tracker"}),
    "zoo.ttrl": Contract(22, VOTE, {"agreement"}),
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
    """The line with every name alike: equal for two lines if names alone differ."""
    return re.sub(r"[A-Za-z_]\w*", "x", line)


@cache
def violations(name, variant):
    """What breaks the contract: sentences, each with the line it is about and what to do."""
    hub_name = parent(variant)
    hub = source_of(hub_name)
    contract = contract_of(name, variant, hub)
    before = code_lines(hub)
    after = code_lines(variant)
    start = docstring_length(variant) + 1
    axes = ", ".join(AXES + EXTRAS)
    found = []
    changed = 0
    marked = set()

    def say(index, line, what):
        found.append(f"line {start + index}, `{line.strip()}`: {what}")

    texts = [line for line, _ in before], [line for line, _ in after]
    for tag, a, b, c, d in difflib.SequenceMatcher(None, *texts, False).get_opcodes():
        if tag == "equal":
            continue
        removed = before[a:b]
        added = after[c:d]
        changed += len(removed) + len(added)
        places = {place for line, place in removed + added if line.strip()}
        first = (added or removed)[0][0]
        marked |= {marker(line) for line, _ in added} - {None}
        outside = places - set(contract.places) - contract.new
        if not places or outside:
            where = ", ".join(sorted(outside)) or "a blank line"
            say(c, first, f"changed in {where}, where no axis of this script lies: undo it")
        for index, (line, place) in enumerate(added, c):
            axis = marker(line)
            if axis and place not in contract.new and axis not in contract.places.get(place, ()):
                may = ", ".join(sorted(contract.places.get(place, ()))) or "nothing"
                say(
                    index,
                    line,
                    f"{place} may not move {axis}, it may move {may}: coordinates "
                    f"in the docstring say which axes a script moves",
                )
            twins = [x for x, _ in removed if x.strip() and shape(x) == shape(line) and x != line]
            if twins and not axis:
                say(
                    index,
                    line,
                    f"a renamed `{twins[0].strip()}`: keep {hub_name}.py's names, or "
                    f"end the line in `# <- AXIS` if it moves one",
                )
        if reflowed(removed, added):
            say(
                c,
                first,
                f"broken into lines otherwise than in {hub_name}.py, and nothing moved: undo it",
            )
        if added and not places & contract.new and not any(marker(line) for line, _ in added):
            say(c, first, f"changed without a marker: end the line in `# <- AXIS`, one of {axes}")
        if not added and not all(re.search("ref|kl_", line) for line, _ in removed):
            say(
                c,
                first,
                f"removed from {hub_name}.py without a marker: keep it, or mark the line "
                "that takes its place",
            )
    for function in sorted(contract.new):
        defined = re.compile(rf"(def|class) {function}\(")
        heads = [(i, line) for i, (line, _) in enumerate(after) if defined.match(line)]
        if not any(marker(line) for _, line in heads):
            for index, line in heads:
                say(index, line, "new, and its first line has no marker: end it in `# <- AXIS`")
    for index, (line, _) in enumerate(after):
        if re.search("#.*<-", line) and not marker(line):
            say(index, line, f"its marker is not one of {axes}, followed by a colon or nothing")
    moved = moved_axes(variant, hub)
    for axis in sorted(moved - marked):
        found.append(
            f"the docstring moves {axis}, and no line is marked with it: mark the line "
            f"that moves it with `# <- {axis}`, or give it {hub_name}.py's coordinate"
        )
    for axis in sorted(marked - moved):
        found.append(
            f"lines are marked with {axis}, and its coordinate in the docstring is "
            f"{hub_name}.py's: say there where the script lies"
        )
    length_std = coordinates(variant)["length + std"]
    if ", " not in length_std:
        found.append(
            "length + std: its coordinate says two things, as grpo.py's does: what tokens are "
            "divided by and, after a comma, whether advantages are divided by a std"
        )
    said = "divided by the group's std" in length_std
    if said != any(".std(1" in line for line in texts[1]):
        found.append(
            "length + std: its coordinate says `divided by the group's std` if, and only "
            "if, compute_advantages has `.std(1`: change one of the two"
        )
    written = list(map(without_comment, texts[1]))
    quoted = method_in_code(variant)
    if not quoted:
        found.append(
            "the docstring quotes no code: add `The method in code:` below the coordinates, and "
            "under it the one to three lines that are the method"
        )
    found += [
        f"the docstring quotes `{line}`, which stands {written.count(line)} times in the code: "
        "quote a line that is there once"
        for line in quoted
        if written.count(line) != 1
    ]
    if changed > contract.budget:
        found.append(
            f"{changed} changed lines, {contract.budget} allowed: move less, or take "
            "another parent with `vs PARENT.py:`"
        )
    kept = [n for n in top_level_names(variant) if n not in contract.new]
    if kept != top_level_names(hub):
        found.append(
            f"functions are not those of {hub_name}.py in their order: {', '.join(kept)}; "
            "new ones go between, with a marker"
        )
    shared = [o for o in options(variant) if o in options(hub)]
    if shared != [o for o in options(hub) if o in shared]:
        found.append(
            f"options are not in the order of {hub_name}.py: {', '.join(shared)}; put new "
            "ones between"
        )
    return found

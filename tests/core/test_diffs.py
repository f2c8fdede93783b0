"""The diff contract: a script differs from its parent where its axes move, and nowhere else."""

import ast
import difflib
import re

import pytest

from common import HERE
from compose import composition, reader
from compose.reader import (
    AXES,
    EXTRAS,
    code_lines,
    coordinates,
    marker,
    moved_axes,
    parent,
    scripts,
    source_of,
)
from compose.text import made_of

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
# script: (changed lines outside the docstring at most, {where: which axes}, new functions)
CONTRACT = {
    "dr_grpo": (20, NO_KL | MEAN | STD, set()),
    "dapo": (70, NO_KL | MEAN | DRAW, {"join_groups", "soft_overlong_punishment"}),
    "gspo": (9, CLIP, set()),
    "gdpo": (14, {"compute_advantages": {"advantage"}}, set()),
    "cispo": (28, NO_KL | MEAN | BOTH, set()),
    "zoo.reinforce_pp_baseline": (6, STD | {"policy_loss": {"KL"}}, set()),
    "zoo.gmpo": (18, LOG_CLIP, set()),
    "zoo.rloo": (20, OTHERS, set()),
    "zoo.reinforce_pp": (26, SINGLE, set()),
    "zoo.gigpo": (60, TURNS, {"turn_advantages"}),
    "zoo.ppo": (115, CRITIC, NETWORK),
    "zoo.vapo": (50, AUGMENTED, {"pretrain_critic"}),
    "zoo.prime": (75, IMPLICIT, PROCESS),
    "zoo.spo": (123, MEMORY, {"Tracker"}),
    "zoo.ttrl": (22, VOTE, {"agreement"}),
}
LONGEST = {"dapo": 340} | {name: 390 for name in scripts() if "." in name}  # else 320 lines
NEW_OPTIONS = {
    "dapo": ["max_refills", "overlong_cache", "mask_truncated"],
    "zoo.gigpo": ["step_coef", "gamma"],
    "zoo.ppo": ["gae_lambda", "critic_learning_rate", "value_clip"],
    "zoo.vapo": ["gae_alpha", "imitation_coef", "pretrain_rollouts"],
    "zoo.prime": ["process_coef", "reward_learning_rate", "score"],
    "zoo.spo": ["pool_size", "offline_completions", "rho_min", "rho_max", "half_life"],
}


def top_level_names(source):
    return [node.name for node in ast.parse(source).body if hasattr(node, "name")]


def options(source):
    config = next(n for n in ast.parse(source).body if getattr(n, "name", "") == "Config")
    return [statement.target.id for statement in config.body]


def parts_of(source):
    """The scripts that a composition is made of; none for another script."""
    return [composition.parse_part(part).script for part in made_of(source)]


def contract(name, source, hub):
    """The contract of a script; a new one may move the axes that its docstring moves, anywhere.

    A composition may do what its parts may, and answers what they ask of each other in four lines.
    """
    if name in CONTRACT:
        return CONTRACT[name]
    if parts := [CONTRACT[part] for part in parts_of(source)]:
        allowed = {}
        for _, places, _ in parts:
            allowed |= {key: allowed.get(key, set()) | axes for key, axes in places.items()}
        new = set().union(*(functions for *_, functions in parts)) & set(top_level_names(source))
        return sum(budget for budget, *_ in parts) + 4, allowed, new
    new = set(top_level_names(source)) - set(top_level_names(hub))
    places = ["imports", *top_level_names(hub)]
    return 45, dict.fromkeys(places, moved_axes(source, hub)), new


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


def violations(name, variant):
    """What breaks the contract, as a list of sentences."""
    hub = source_of(parent(variant))
    budget, allowed, new = contract(name, variant, hub)
    old, lines = code_lines(hub), code_lines(variant)
    found, changed, marked = [], 0, set()
    matcher = difflib.SequenceMatcher(None, [x for x, _ in old], [x for x, _ in lines], False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            continue
        removed, added = old[a:b], lines[c:d]
        changed += len(removed) + len(added)
        places = {place for line, place in removed + added if line.strip()}
        first = (added or removed)[0][0].strip()
        marked |= {marker(line) for line, _ in added} - {None}
        if not places or not places <= set(allowed) | new:
            found.append(f"outside the allowed functions, in {sorted(places)}: {first}")
        for line, place in added:
            axis = marker(line)
            if axis and place not in new and axis not in allowed.get(place, ()):
                found.append(f"{place} may not move {axis}: {line}")
            twins = [x for x, _ in removed if x.strip() and shape(x) == shape(line) and x != line]
            if twins and not axis:
                found.append(f"renamed: {line}")
        if reflowed(removed, added):
            found.append(f"reflowed, no axis moved: {first}")
        if added and not places & new and not any(marker(line) for line, _ in added):
            found.append(f"unmarked: {first}")
        if not added and not all(re.search("ref|kl_", line) for line, _ in removed):
            found.append(f"removed without a marker: {first}")
    for function in new:
        defined = re.compile(rf"(def|class) {function}\(")
        if not any(defined.match(line) and marker(line) for line, _ in lines):
            found.append(f"unmarked function {function}")
    arrows = [line for line, _ in lines if re.search("#.*<-", line)]
    found += [f"not marked with one axis: {line}" for line in arrows if not marker(line)]
    if marked != moved_axes(variant, hub):
        moved = sorted(moved_axes(variant, hub))
        found.append(f"the docstring moves {moved}, the code marks {sorted(marked)}")
    said = "divided by the group's std" in coordinates(variant)["length + std"]
    if said != (".std(1" in variant):
        found.append("its coordinate and its advantages disagree on the group's std")
    if changed > budget:
        found.append(f"{changed} changed lines, {budget} allowed")
    if [n for n in top_level_names(variant) if n not in new] != top_level_names(hub):
        found.append("functions renamed or reordered")
    new_options = {o for part in (name, *parts_of(variant)) for o in NEW_OPTIONS.get(part, [])}
    kept = [o for o in options(variant) if o not in new_options]
    if kept != [o for o in options(hub) if o in kept]:
        found.append("options renamed or reordered")
    return found


def test_every_script_is_held_to_it():
    """Those of CONTRACT, and each file of zoo/, though it forgot its coordinates."""
    files = {f"zoo.{file.stem}" for file in HERE.glob("zoo/*.py")}
    others = {"zoo.__init__", "zoo.common", "zoo.calculator"}  # a signpost, an environment
    assert {*CONTRACT, *files} <= {*scripts(), *others}


@pytest.mark.parametrize("name", scripts()[1:])
def test_contract(name):
    assert violations(name, source_of(name)) == []


def changes(old, new):
    """What the documents say of a diff, "+added -removed", in code lines."""
    old, new = ([line for line, _ in code_lines(source)] for source in (old, new))
    parts = difflib.SequenceMatcher(None, old, new, False).get_opcodes()
    parts = [part for part in parts if part[0] != "equal"]
    return f"+{sum(d - c for *_, c, d in parts)} -{sum(b - a for _, a, b, *_ in parts)}"


@pytest.mark.parametrize("name", CONTRACT)
def test_the_maps_count_the_lines(name):
    """The last column of the README's map and of the ladder's."""
    page = "docs/ladder.md" if name.startswith("zoo.") else "README.md"
    text = (HERE / page).read_text(encoding="utf-8")
    file = f"{name.rpartition('.')[2]}.py"
    rows = re.findall(rf"^\| \[?{file}\b.*(\+\d+ -\d+) \|$", text, re.MULTILINE)
    assert rows == [changes(source_of(parent(source_of(name))), source_of(name))]


@pytest.mark.parametrize("name", scripts())
def test_length_and_docstring(name):
    source = source_of(name)
    longest = 420 if made_of(source) else 320
    assert len(source.splitlines()) <= LONGEST.get(name, longest)
    assert max(map(len, source.splitlines())) <= 100
    doc = ast.get_docstring(ast.parse(source))
    for part in ("arXiv:", "Coordinates on the six axes:", "Not implemented:"):
        assert part in doc
    assert re.search(r"^vs [\w/]+\.py:", doc, re.MULTILINE)
    assert [axis for axis in coordinates(source) if axis not in EXTRAS] == list(AXES)


def swap(text, old, new):
    assert old in text
    return text.replace(old, new, 1)


MUTATIONS = {
    "reflowed line": lambda s: swap(
        s, "    completions = [\n        tokenizer", "    completions = [tokenizer"
    ),
    "reflowed and marked": lambda s: swap(
        s,
        "ids = rollout.completion_ids[rows, :T]\n    return engine",
        "ids = rollout.completion_ids\n    ids = ids[rows, :T]  # <- KL: no\n    return engine",
    ),
    "renamed variable": lambda s: s.replace("uniform", "noise_"),
    "renamed variable in an allowed function": lambda s: s.replace("clipped", "bounded"),
    "moved blank line": lambda s: swap(s, "    with common.autocast", "\n    with common.autocast"),
    "changed comment": lambda s: swap(s, "# EOS is trained", "# eos is trained"),
    "changed default": lambda s: swap(s, "steps: int = option(30", "steps: int = option(3"),
    "marked, but not its function": lambda s: swap(
        s, "optimizer.zero_grad()", "optimizer.zero_grad(True)  # <- sampling: no"
    ),
    "function renamed": lambda s: s.replace("over_rollout", "over_all"),
    "options reordered": lambda s: swap(
        swap(s, "    group_size: int", "    later: int"), "    steps: int", "    group_size: int"
    ),
    "markers removed": lambda s: s.replace("# <-", "#"),
    "marker of two": lambda s: re.sub("(# <- [^:\n]*)", r"\1, turns", s, count=1),
    "lines removed": lambda s: swap(s, "        optimizer.zero_grad()\n", ""),
    "an axis that the docstring does not move": lambda s: swap(
        s, "advantages[minibatch].any():", "advantages[minibatch].any():  # <- granularity"
    ).replace("<- granularity: one", "#"),
    "coordinates that the code does not move": lambda s: re.sub(
        "^    (sampling|granularity)  ", r"    \1  not ", s, flags=re.MULTILINE
    ),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("name", CONTRACT)
def test_contract_can_fail(name, mutation):
    source = source_of(name)
    if mutation == "renamed variable in an allowed function" and "clipped = ratio" not in source:
        pytest.skip("it clips something else")
    assert violations(name, MUTATIONS[mutation](source))


def test_budget_can_fail():
    padded = source_of("gspo").replace(
        "    ratio = torch.exp(log_ratio)",
        "    log_ratio = log_ratio + 0\n" * 20 + "    ratio = torch.exp(log_ratio)",
    )
    assert any("allowed" in sentence for sentence in violations("gspo", padded))


def seventh():
    """A copy of grpo.py with two axes moved, as docs/exercises.md has its reader make one."""
    source = swap(source_of("grpo"), "minus the group's mean", "minus the mean of the others")
    source = swap(source, "divided by the group's std", "no division by the std")
    return swap(
        source,
        "    advantages = centred / (pooled.std(1, keepdim=True) + 1e-4)  # sample std\n",
        "    advantages = centred  # <- length + std: not divided by the group's std\n"
        "    G = config.group_size  # <- advantage\n    advantages = advantages * G / (G - 1)\n",
    )


def test_a_new_script_is_held_to_the_axes_it_names():
    """It fails if it moves another axis, silently or marked, or lacks a marker."""
    assert violations("zoo.seventh", seventh()) == []
    assert violations("zoo.seventh", seventh().replace("  # <- advantage", ""))
    assert violations("zoo.seventh", swap(seventh(), "= option(0.04", "= option(0.0"))
    marked = swap(seventh(), 'to the reference")', 'to the reference")  # <- KL: higher')
    assert any("may not move KL" in sentence for sentence in violations("zoo.seventh", marked))
    unsaid = swap(seventh(), "no division by the std", "well divided by the group's std")
    assert any("the group's std" in sentence for sentence in violations("zoo.seventh", unsaid))
    long = swap(seventh(), "    G = ", "    G = 0\n" * 45 + "    G = ")
    assert "49 changed lines, 45 allowed" in violations("zoo.seventh", long)


def test_a_new_script_is_found(tmp_path, monkeypatch):
    """In zoo/ or beside grpo.py, without being listed anywhere."""
    (tmp_path / "zoo").mkdir()
    for name in ("zoo/seventh", "grpo", "dr_grpo"):
        (tmp_path / f"{name}.py").write_text(seventh(), encoding="utf-8")
    monkeypatch.setattr(reader, "HERE", tmp_path)
    assert scripts() == ["grpo", "dr_grpo", "zoo.seventh"]


def test_a_script_is_compared_with_the_parent_it_names():
    """zoo/vapo.py is zoo/ppo.py moved on; here one of rloo.py."""
    child = swap(source_of("zoo.rloo"), "vs grpo.py:", "vs zoo/rloo.py:")
    child = swap(swap(child, "beta 0.05", "beta 0.1"), "= option(0.05", "= option(0.1")
    assert violations("zoo.child", child) == []
    assert parent(swap(child, "vs zoo/rloo.py:", "vs rloo.py:")) == "zoo.rloo"
    assert violations("zoo.child", swap(child, "vs zoo/rloo.py:", "vs gspo.py:"))

"""The diff contract: a script differs from its parent where its axes move, and nowhere else."""

import ast
import difflib
import re

import pytest

from common import HERE
from plots.axes import AXES, EXTRAS, coordinates, moved_axes, parent

NO_KL = {key: {"KL"} for key in ["Config", "Rollout", "policy_loss", "update_policy", "train"]}
MEAN = {"aggregate_loss": {"length + std"}}
CLIP = {"Config": {"clip width"}, "policy_loss": {"granularity"}}
BOTH = {"Config": {"KL", "clip width"}, "policy_loss": {"KL", "clip width"}}
DRAW = {"Config": {"KL", "clip width", "sampling"}, "policy_loss": {"KL"}}
DRAW |= {key: {"sampling"} for key in ["imports", "sample_batch", "compute_advantages"]}
REWARD_KL = {key: {"KL"} for key in ["Config", "policy_loss", "train", "compute_advantages"]}
ADVANTAGE = {"compute_advantages": {"KL", "advantage", "length + std"}}
SINGLE = {"Config": {"sampling", "KL"}}
SPO = {"Config": {"sampling", "clip width", "tracker"}, "Rollout": {"tracker"}}
SPO |= {"compute_advantages": {"advantage", "length + std"}, "train": {"tracker"}}
SPO |= {"sample_batch": {"tracker", "sampling"}}
# variant: (changed lines outside the docstring at most, {where: which axes}, new functions)
CONTRACT = {
    "dr_grpo": (20, NO_KL | MEAN | {"compute_advantages": {"length + std"}}, set()),
    "dapo": (70, NO_KL | MEAN | DRAW, {"join_groups", "soft_overlong_punishment"}),
    "gspo": (9, CLIP, set()),
    "gdpo": (14, {"compute_advantages": {"advantage"}}, set()),
    "cispo": (28, NO_KL | MEAN | BOTH, set()),
    "zoo.reinforce_pp_baseline": (
        10,
        {"compute_advantages": {"length + std"}, "policy_loss": {"KL"}},
        set(),
    ),
    "zoo.gmpo": (
        20,
        {"Config": {"clip width"}, "policy_loss": {"clip width", "granularity"}},
        set(),
    ),
    "zoo.rloo": (30, REWARD_KL | ADVANTAGE | {"policy_loss": {"KL", "granularity"}}, set()),
    "zoo.reinforce_pp": (45, REWARD_KL | ADVANTAGE | SINGLE, set()),
    "zoo.spo": (125, NO_KL | MEAN | SPO, {"Tracker"}),
    "zoo.ttrl": (30, {"imports": {"reward"}, "compute_rewards": {"reward"}}, {"agreement"}),
}
SIX = ("grpo", "dr_grpo", "dapo", "gspo", "gdpo", "cispo")
NEW_OPTIONS = {
    "dapo": ["max_refills", "overlong_cache", "mask_truncated"],
    "zoo.spo": ["pool_size", "offline_completions", "rho_min", "rho_max", "half_life"],
}
MARKER = re.compile(rf"#.*<- ({'|'.join(map(re.escape, AXES + EXTRAS))})")


def read(name):
    return (HERE / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")


def code_lines(source):
    """[(line, the top-level function or class it belongs to)], the docstring left out."""
    tree, where = ast.parse(source), {}
    for node in tree.body[1:]:
        label = "imports" if isinstance(node, ast.Import | ast.ImportFrom) else "other"
        label = getattr(node, "name", label)
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        where |= dict.fromkeys(range(first, node.end_lineno + 1), label)
    skip = tree.body[0].end_lineno
    lines = source.splitlines()
    return [(line, where.get(i, "between")) for i, line in enumerate(lines[skip:], skip + 1)]


def top_level_names(source):
    return [node.name for node in ast.parse(source).body if hasattr(node, "name")]


def options(source):
    config = next(n for n in ast.parse(source).body if getattr(n, "name", "") == "Config")
    return [statement.target.id for statement in config.body]


def contract(name, source, hub):
    """The contract of a variant; a new one may move the axes that its docstring moves, anywhere."""
    if name in CONTRACT:
        return CONTRACT[name]
    new = set(top_level_names(source)) - set(top_level_names(hub))
    places = ["imports", *top_level_names(hub)]
    return 45, dict.fromkeys(places, moved_axes(source, hub)), new


def new_variants():
    """Scripts beside grpo.py that name their axes, all in zoo/; without those of CONTRACT."""
    paths = [*sorted(HERE.glob("*.py")), *sorted(HERE.glob("zoo/*.py"))]
    names = [".".join(path.relative_to(HERE).with_suffix("").parts) for path in paths]
    named = [name for name in names if coordinates(read(name)).keys() >= set(AXES)]
    signposts = ("zoo.__init__", "zoo.common")
    named += [n for n in names if n.startswith("zoo.") and n not in (*named, *signposts)]
    return [name for name in named if name not in ("grpo", *CONTRACT)]


def squeeze(lines):
    """The text without white space, comments and trailing commas: equal if only reflowed."""
    return re.sub(r"[\s,]", "", re.sub(r"  #.*", "", "\n".join(line for line, _ in lines)))


def shape(line):
    """The line with every name alike: equal for two lines if names alone differ."""
    return re.sub(r"[A-Za-z_]\w*", "x", line)


def violations(name, variant, hub=None):
    """What breaks the contract, as a list of sentences."""
    hub = hub or read(parent(variant))
    budget, allowed, new = contract(name, variant, hub)
    old, found, changed = code_lines(hub), [], 0
    lines = code_lines(variant)
    matcher = difflib.SequenceMatcher(None, [x for x, _ in old], [x for x, _ in lines], False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            continue
        removed, added = old[a:b], lines[c:d]
        changed += len(removed) + len(added)
        places = {place for line, place in removed + added if line.strip()}
        first = (added or removed)[0][0].strip()
        if not places or not places <= set(allowed) | new:
            found.append(f"outside the allowed functions, in {sorted(places)}: {first}")
        for line, place in added:
            axis = MARKER.search(line)
            if axis and place not in new and axis[1] not in allowed.get(place, ()):
                found.append(f"{place} may not move {axis[1]}: {line}")
            twins = [x for x, _ in removed if x.strip() and shape(x) == shape(line) and x != line]
            if twins and not axis:
                found.append(f"renamed: {line}")
        if squeeze(removed) == squeeze(added):
            found.append(f"reflowed, no axis moved: {first}")
        if added and not places & new and not any(MARKER.search(line) for line, _ in added):
            found.append(f"unmarked: {first}")
        if not added and not all(re.search("ref|kl_", line) for line, _ in removed):
            found.append(f"removed without a marker: {first}")
    for function in new:
        defined = re.compile(rf"(def|class) {function}\(")
        if not any(defined.match(line) and MARKER.search(line) for line, _ in lines):
            found.append(f"unmarked function {function}")
    marked = {match[1] for line, _ in lines if (match := MARKER.search(line))}
    if marked != moved_axes(variant, hub):
        moved = sorted(moved_axes(variant, hub))
        found.append(f"the docstring moves {moved}, the code marks {sorted(marked)}")
    if changed > budget:
        found.append(f"{changed} changed lines, {budget} allowed")
    if [n for n in top_level_names(variant) if n not in new] != top_level_names(hub):
        found.append("functions renamed or reordered")
    kept = [o for o in options(variant) if o not in NEW_OPTIONS.get(name, [])]
    if kept != [o for o in options(hub) if o in kept]:
        found.append("options renamed or reordered")
    return found


@pytest.mark.parametrize("name", [*CONTRACT, *new_variants()])
def test_contract(name):
    assert violations(name, read(name)) == []


@pytest.mark.parametrize("name", ["grpo", *CONTRACT, *new_variants()])
def test_length_and_docstring(name):
    source = read(name)
    assert len(source.splitlines()) <= {"dapo": 340}.get(name, 320 if name in SIX else 380)
    assert max(map(len, source.splitlines())) <= 100
    doc = ast.get_docstring(ast.parse(source))
    for part in ("arXiv:", "Coordinates on the six axes:", "vs grpo.py:", "Not implemented:"):
        assert part in doc
    assert [axis for axis in coordinates(source) if axis not in EXTRAS] == list(AXES)


def test_every_file_of_the_zoo_is_held_to_the_contract():
    files = {f"zoo.{path.stem}" for path in HERE.glob("zoo/*.py")} - {"zoo.__init__", "zoo.common"}
    assert files <= {*CONTRACT, *new_variants()} and "zoo.rloo" in files


def swap(text, old, new):
    assert old in text
    return text.replace(old, new, 1)


MUTATIONS = {
    "reflowed line": lambda s: swap(
        s, "    completions = [\n        tokenizer", "    completions = [tokenizer"
    ),
    "reflowed and marked": lambda s: swap(
        s,
        "logp = F.log_softmax(logits.float() / config.temperature, dim=-1)\n    T =",
        "logits = logits.float() / config.temperature\n"
        "    logp = F.log_softmax(logits, dim=-1)  # <- KL: no\n    T =",
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
    source = read(name)
    if mutation == "renamed variable in an allowed function" and "clipped = ratio" not in source:
        pytest.skip("it clips something else")
    assert violations(name, MUTATIONS[mutation](source))


def test_budget_can_fail():
    padded = read("gspo").replace(
        "    ratio = torch.exp(log_ratio)",
        "    log_ratio = log_ratio + 0\n" * 20 + "    ratio = torch.exp(log_ratio)",
    )
    assert any("allowed" in sentence for sentence in violations("gspo", padded))


def test_a_new_variant_is_held_to_the_axes_it_names():
    """rloo.py as in docs/exercises.md; it fails if it moves another axis or lacks a marker."""
    rloo = swap(read("grpo"), "minus the group's mean", "minus the mean of the others")
    rloo = swap(
        rloo, "completion, divided by the group's std", "completion, no division by the std"
    )
    rloo = swap(
        rloo,
        "    advantages = centred / (pooled.std(1, keepdim=True) + 1e-4)  # sample std\n",
        "    advantages = centred  # <- length + std: not divided by the group's std\n"
        "    G = config.group_size  # <- advantage\n    advantages = advantages * G / (G - 1)\n",
    )
    assert violations("rloo", rloo) == []
    assert violations("rloo", rloo.replace("  # <- advantage", ""))
    other = swap(rloo, "= option(0.04", "= option(0.0")
    assert violations("rloo", other)
    marked = swap(rloo, 'the KL to the reference")', 'the KL to the reference")  # <- KL: higher')
    assert any("may not move KL" in sentence for sentence in violations("rloo", marked))

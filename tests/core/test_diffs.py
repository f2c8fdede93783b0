"""The diff contract: a script differs from its parent where its axes move, and nowhere else."""

import ast
import re

import pytest

from common import HERE
from compose import reader
from compose.contract import CONTRACT, violations
from compose.reader import (
    AXES,
    EXTRAS,
    coordinates,
    made_of,
    method_in_code,
    moved_axes,
    parent,
    scripts,
    source_of,
    without_comment,
)

LONGEST = {"dapo": 346} | {name: 396 for name in scripts() if "." in name}  # else 320 lines


def test_every_script_is_held_to_it():
    """Those of CONTRACT, and each file of zoo/, though it forgot its coordinates."""
    files = {f"zoo.{file.stem}" for file in HERE.glob("zoo/*.py")}
    others = {"zoo.__init__", "zoo.runtime", "zoo.calculator"}  # a signpost, an environment
    assert {*CONTRACT, *files} <= {*scripts(), *others}


@pytest.mark.parametrize("name", scripts()[1:])
def test_contract(name):
    broken = violations(name, source_of(name))
    if broken:  # one a line, whole: an assertion would cut the list
        pytest.fail("\n".join([f"{name} breaks the contract:", *broken]), pytrace=False)


@pytest.mark.parametrize("name", scripts())
def test_length_and_docstring(name):
    source = source_of(name)
    longest = 420 if made_of(source) else 320
    assert len(source.splitlines()) <= LONGEST.get(name, longest)
    wide = [number for number, line in enumerate(source.splitlines(), 1) if len(line) > 100]
    assert not wide, f"lines {wide} have more than 100 columns: shorten them"
    doc = ast.get_docstring(ast.parse(source))
    for part in ("arXiv:", "Coordinates on the seven axes:", "Not implemented:"):
        assert part in doc
    assert re.search(r"^vs [\w/]+\.py:", doc, re.MULTILINE)
    assert [axis for axis in coordinates(source) if axis not in EXTRAS] == list(AXES)


def swap(text, old, new):
    assert old in text
    return text.replace(old, new, 1)


MUTATIONS = {
    "reflowed line": lambda s: swap(
        s, "decode(model, tokenizer, ids)", "decode(\n        model, tokenizer, ids\n    )"
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
        s, '"evaluation")\n', '"evaluation", 0)  # <- sampling: no\n'
    ),
    "function renamed": lambda s: s.replace("over_rollout", "over_all"),
    "options reordered": lambda s: swap(
        swap(s, "    group_size: int", "    later: int"), "    steps: int", "    group_size: int"
    ),
    "markers removed": lambda s: s.replace("# <-", "#"),
    "an option that is not there": lambda s: swap(s, "config.max_grad_norm)", "config.max_norm)"),
    "no ratio to log": lambda s: swap(s, '        "ratio": ratio,\n', ""),
    "a symbol without a meaning": lambda s: swap(s, "    L    = ", "    L    = z_i "),
    "another surrogate": lambda s: re.sub(
        r"(\n    L    = .*?sum_[it] (?:\[ )?-)", r"\1r_it A_i + ", s, count=1
    ),
    "a comment quoted": lambda s: re.sub(
        "(The method in code:\n    .*)", r"\1  # so it is", s, count=1
    ),
    "marker of two": lambda s: re.sub("(# <- [^:\n]*)", r"\1, turns", s, count=1),
    "lines removed": lambda s: swap(s, "        optimizer.zero_grad()\n", ""),
    "an axis that the docstring does not move": lambda s: swap(
        s, "advantages[minibatch].any():", "advantages[minibatch].any():  # <- granularity"
    ).replace("<- granularity: one", "#"),
    "coordinates that the code does not move": lambda s: re.sub(
        "^    (sampling|granularity)  ", r"    \1  not ", s, flags=re.MULTILINE
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("name", ["gspo", "dapo", "zoo.rloo", "zoo.gigpo", "zoo.vapo"])
def test_contract_can_fail(name, mutation):
    source = source_of(name)
    if mutation == "renamed variable in an allowed function" and "clipped = ratio" not in source:
        pytest.skip("it clips something else")
    moved = moved_axes(source, source_of(parent(source)))
    if mutation == "another surrogate" and moved & {"granularity", "clip width"}:
        pytest.skip("its surrogate is its own")
    assert violations(name, MUTATIONS[mutation](source))


def test_an_axis_moves_only_where_it_lies():
    """A script's own axis, marked, and in a function that is not that axis's place."""
    line = "ratio = torch.exp(log_ratio)  # (B, 1)  <- "
    elsewhere = swap(source_of("gspo"), f"{line}granularity", f"{line}clip width")
    (found, *_) = violations("gspo", elsewhere)
    assert "policy_loss may not move clip width, it may move granularity" in found


def test_budget_can_fail():
    padded = source_of("gspo").replace(
        "    ratio = torch.exp(log_ratio)",
        "    log_ratio = log_ratio + 0\n" * 20 + "    ratio = torch.exp(log_ratio)",
    )
    assert any("allowed" in sentence for sentence in violations("gspo", padded))


HEART = "advantages = centred\n    G = config.group_size\n"  # what the script below quotes


def seventh():
    """A copy of grpo.py with two axes moved, as docs/exercises.md has its reader make one."""
    source = swap(source_of("grpo"), "minus the group's mean", "minus the mean of the others")
    source = swap(source, "divided by the group's std", "no division by the std")
    source = swap(source, "advantages = centred / (pooled.std(1, keepdim=True) + 1e-4)\n", HEART)
    return swap(
        source,
        "    advantages = centred / (pooled.std(1, keepdim=True) + 1e-4)  # sample std\n",
        "    advantages = centred  # <- length + std: not divided by the group's std\n"
        "    G = config.group_size  # <- advantage\n    advantages = advantages * G / (G - 1)\n",
    )


def says(source, text):
    """Whether the contract says this of a new script."""
    return any(text in sentence for sentence in violations("zoo.seventh", source))


def test_a_new_script_is_held_to_the_axes_it_names():
    """It fails if it moves another axis, silently or marked, or lacks a marker."""
    assert violations("zoo.seventh", seventh()) == []
    assert violations("zoo.seventh", seventh().replace("  # <- advantage", ""))
    assert violations("zoo.seventh", swap(seventh(), "= option(0.04", "= option(0.0"))
    marked = swap(seventh(), 'reference [beta]")', 'reference [beta]")  # <- KL: higher')
    assert says(marked, "lines are marked with KL, whose coordinate")
    unsaid = swap(seventh(), "no division by the std", "well divided by the group's std")
    assert says(unsaid, "the group's std")
    line = "    G = config.group_size  # <- advantage"
    long = swap(seventh(), line, "    G = 0\n" * 45 + line)
    assert says(long, "49 changed lines, 45 allowed")


def test_a_new_script_may_have_options():
    """Without being in a table: marked, and those of grpo.py in their order."""
    line = '    kl_coef: float = option(0.04, "weight of the KL to the reference [beta]")\n'
    marked = "  # <- advantage\n"
    with_option = swap(seventh(), line, f'    tau: float = option(1.0, "t", above=0){marked}{line}')
    assert says(with_option, "option tau is read nowhere")
    with_option = swap(with_option, "= advantages * G", "= config.tau * advantages * G")
    assert violations("zoo.seventh", with_option) == []
    assert says(swap(with_option, f"above=0){marked}", "above=0)\n"), "without a marker")


def test_a_violation_names_its_line_and_the_cure():
    unmarked = swap(seventh(), "  # <- advantage", "")
    assert says(unmarked, "advantage, and no line is marked with it: mark the line")
    two = swap(seventh(), "# <- advantage", "# <- advantage, sampling")
    line = "    G = config.group_size  # <- advantage, sampling"
    number = 1 + two.splitlines().index(line)
    assert says(two, f"line {number}, `{line.strip()}`: its marker is not one of")
    unquoted = swap(seventh(), HEART, "advantages = centred * 2\n")
    assert says(unquoted, "quotes `advantages = centred * 2`, which stands 0 times in the code")
    none = swap(seventh(), "The method in code:", "The method:")
    assert says(none, "quotes no code")
    unknown = swap(seventh(), "config.max_grad_norm)", "config.max_norm)")
    assert says(unknown, "Config has no max_norm; give it this option")
    swapped = MUTATIONS["options reordered"](seventh())
    assert violations("zoo.seventh", swapped)[0].startswith("option max_new_tokens stands")
    undefined = swap(seventh(), "(R_i - mean(R)) / std(R)", "(R_i - mean(R)) / q_i")
    assert says(undefined, "the equations use q_i, which nothing defines")
    number_alone = swap(seventh(), "= option(0.04", "= option(0.0")
    assert says(number_alone, "only names or numbers differ from `kl_coef")
    half = re.sub("(    length .*), no division.*", r"\1", seventh())
    assert says(half, "says two things")


@pytest.mark.parametrize("name", ["zoo.spo", "zoo.ppo", "zoo.prime", "zoo.gigpo", "zoo.vapo"])
def test_a_quoted_line_carries_a_marker(name):
    """In long scripts the one line that is the method is found with grep."""
    lines = source_of(name).splitlines()
    for quoted in method_in_code(source_of(name)):
        assert any(without_comment(line) == quoted and "<- " in line for line in lines)


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

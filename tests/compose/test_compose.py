"""Compositions: what a script is made of, what goes together, and that the result is right."""

import difflib
import itertools
import re
import subprocess
import sys
from functools import cache

import pytest
import torch

import dapo
from common import HERE
from compose import __main__, composition, reader, rules
from compose.edits import MOVES, edits_of
from compose.reader import code_lines, coordinates, source_of
from compose.rules import CLASHES, INTERACTIONS, PRESETS, TOGETHER
from countdown_task import InputError
from experiments.catalogue.pairs import PARTS
from tests.core.test_diffs import changes, seventh, violations

PAIRS = list(itertools.combinations(composition.composable(), 2))
SUBSETS = [
    moves
    for size in range(1, 5)
    for moves in itertools.combinations(("clip_width", "length_std", "kl", "sampling"), size)
]


@cache
def composed(pair):
    """(the order in which two scripts compose, or None; why another order does not)."""
    return composition.in_some_order(*pair)


def code(source):
    return [line for line, _ in code_lines(source)]


def made(*parts):
    return composition.compose(parts).source


def refused(*parts):
    with pytest.raises(InputError) as error:
        composition.compose(parts)
    return str(error.value)


def held_to_the_contract(source):
    """As any script: markers where axes move, nothing else changed, formatted, a full docstring."""
    assert violations("a composition", source) == []
    assert max(map(len, source.splitlines())) <= 100 and len(source.splitlines()) <= 420
    assert source.count('"""\n') and "Coordinates on the six axes:" in source
    formatted = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "-"], input=source, capture_output=True, text=True
    )
    assert formatted.stdout == source


def trains(parts, folder, model):
    """Two steps of a tiny run, of which everything that is logged is finite."""
    module = composition.module_of(parts, folder)
    tiny = {"model": model, "steps": 2, "prompts_per_step": 4, "minibatches": 2}
    tiny |= {"max_new_tokens": 24, "eval_problems": 2, "eval_every": 0, "dtype": "float32"}
    fields = module.Config.__dataclass_fields__
    tiny |= {"pool_size": 4, "offline_completions": 1} if "pool_size" in fields else {}
    tiny |= {"overlong_cache": 8, "max_refills": 1} if "overlong_cache" in fields else {}
    module.train(module.Config(**tiny, output_dir=str(folder / "run")))
    rows = (folder / "run/metrics.jsonl").read_text(encoding="utf-8")
    assert '"step": 2' in rows and "NaN" not in rows and "Infinity" not in rows


# ---- Taking apart -------------------------------------------------------------------------------


@pytest.mark.parametrize("script", PARTS)
def test_a_script_is_the_sum_of_its_moves(script):
    """Taken apart and put together again it is what it was, line for line."""
    assert code(made(script)) == code(source_of(script))


@pytest.mark.parametrize("script", PARTS)
def test_moves_are_those_of_the_coordinates(script):
    moved = {MOVES[edit.move] for edit in edits_of(script)}
    hub = coordinates(source_of("grpo"))
    assert moved == {k for k, v in coordinates(source_of(script)).items() if hub.get(k) != v}


def test_lines_that_carry_no_marker():
    """DAPO's clip, refill and punishment stand in one block with the KL that goes."""
    config = [(e.move, e.line) for e in edits_of("dapo") if e.place == "Config"]
    found = {line.split(":")[0].strip(): move for move, line in config if line}
    assert found == {
        "clip_high": "clip_width",
        **dict.fromkeys(["max_refills", "overlong_cache", "mask_truncated"], "sampling"),
    }
    assert [move for move, line in config if line is None] == ["kl"]
    lengths = {e.place: e.move for e in edits_of("dr_grpo") if MOVES[e.move] == "length + std"}
    assert lengths == {"compute_advantages": "std", "aggregate_loss": "length"}


# ---- Together -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_every_pair_composes_or_says_why_not(pair, tmp_path, llama_folder):
    order, reasons = composed(pair)
    if order is None:
        assert reasons.count(": ") >= 2 and "\n" not in reasons
        return
    source = made(*order)
    held_to_the_contract(source)
    for script in order:  # both have left something
        assert f"{composition.short(script)} (arXiv:" in " ".join(source.split())
    trains(order, tmp_path, llama_folder)


def test_how_many_pairs_compose():
    """As docs/compose.md counts them."""
    measured = list(itertools.combinations(PARTS, 2))
    count = sum(composed(pair)[0] is not None for pair in measured)
    text = (HERE / "docs/compose.md").read_text(encoding="utf-8")
    assert f"Of {len(measured)} pairs {count} compose" in " ".join(text.split())


@pytest.mark.slow
@pytest.mark.parametrize("moves", SUBSETS, ids="+".join)
def test_every_subset_of_dapo(moves, tmp_path, llama_folder):
    part = f"dapo:{','.join(moves)}"
    source = made(part)
    held_to_the_contract(source)
    at, hub = coordinates(source), coordinates(source_of("grpo"))
    assert [k for k in at if at[k] != hub[k]] == [MOVES.get(m, "length + std") for m in moves]
    trains([part], tmp_path, llama_folder)


def test_the_later_part_wins():
    assert coordinates(made("dapo", "gspo"))["clip width"].startswith("3e-4")
    assert coordinates(made("dr_grpo", "dapo"))["length + std"] == (
        "mean over the tokens of the minibatch, no division by the group's std"
    )
    assert "Of length dapo.py's is taken, not dr_grpo.py's." in made("dr_grpo", "dapo")
    assert made("gspo", "dr_grpo:kl").count("<- KL") == made("dr_grpo").count("<- KL")


def test_a_composition_against_its_parent_is_the_other_part():
    """dapo.py and dapo + gspo differ by gspo.py's lines, and by what they take the place of."""
    removed, added = [], []
    for line in difflib.ndiff(code(source_of("dapo")), code(made("dapo", "gspo"))):
        (removed if line[0] == "-" else added if line[0] == "+" else []).append(line[2:])
    assert added == [e.line for e in edits_of("gspo") if e.line is not None]
    assert len(removed) == 3 and changes(source_of("grpo"), source_of("gspo")) == "+4 -3"


def test_named_axes_only():
    """The example of the help text: three parts, six moves."""
    source = made("dapo:sampling", "gspo:granularity,clip_width", "dr_grpo:length_std")
    held_to_the_contract(source)
    at = coordinates(source)
    assert at["KL"] == coordinates(source_of("grpo"))["KL"]
    assert at["length + std"] == coordinates(source_of("dr_grpo"))["length + std"]


# ---- By hand ------------------------------------------------------------------------------------


def random_batch():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([[6], [1], [4], [3], [6], [2], [5], [1]])
    mask = (torch.arange(6) < lengths).float()
    logprobs = -torch.rand(8, 6, generator=generator) * mask
    old = logprobs - 0.3 * torch.randn(8, 6, generator=generator) * mask
    advantages = torch.randn(8, 1, generator=generator)
    return logprobs.requires_grad_(), old, advantages, mask


def test_dapo_with_gspo_by_hand(tmp_path):
    """The token mean of a sequence ratio, clipped at 3e-4 and 4e-4, without a KL."""
    module = composition.module_of(("dapo", "gspo"), tmp_path)
    config = module.Config()
    logprobs, old, A, mask = random_batch()
    token_loss, _ = module.policy_loss(logprobs, old, A, mask, config)
    loss = module.aggregate_loss(token_loss, mask, 8, mask.sum(), config)
    total = 0.0
    for row in range(8):
        length = int(mask[row].sum())
        s = torch.exp((logprobs[row, :length] - old[row, :length]).mean())
        surrogate = torch.min(s * A[row], s.clamp(1 - 3e-4, 1 + 4e-4) * A[row])
        total = total - length * surrogate / mask.sum()
    torch.testing.assert_close(loss, total[0])
    ours, theirs = (torch.autograd.grad(x, logprobs, retain_graph=True)[0] for x in (loss, total))
    torch.testing.assert_close(ours, theirs)
    rewards = torch.rand(2, 4, 3)
    torch.testing.assert_close(
        module.compute_advantages(rewards, config), dapo.compute_advantages(rewards, dapo.Config())
    )


def test_dapo_with_gdpo_by_hand(tmp_path):
    """Where they meet: the punishment is a third component, normalised in its group, weight 1."""
    module = composition.module_of(("dapo", "gdpo"), tmp_path)
    rewards = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0))
    parts = [
        (rewards[..., k] - rewards[..., k].mean(1, keepdim=True))
        / (rewards[..., k].std(1, keepdim=True) + 1e-4)
        for k in range(3)
    ]
    total = 1.0 * parts[0] + 0.1 * parts[1] + 1.0 * parts[2]
    expected = (total - total.mean()) / (total.std() + 1e-4)
    torch.testing.assert_close(module.compute_advantages(rewards, module.Config()), expected)


def test_dapo_with_rloo_by_hand(tmp_path):
    """Where they meet: punishment and KL are both columns of the reward, of weights 1 and -beta."""
    module = composition.module_of(("dapo", "rloo"), tmp_path)
    config = module.Config()
    rewards = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0))
    R = rewards @ torch.tensor([1.0, 0.1, 1.0, -config.kl_coef])
    others = (R.sum(1, keepdim=True) - R) / (config.group_size - 1)
    torch.testing.assert_close(module.compute_advantages(rewards, config), R - others)


# ---- What does not go together ------------------------------------------------------------------

CONTRADICTIONS = [  # one for each row of CLASHES
    ("gspo", "dapo:clip_width"),
    ("gspo", "cispo:clip_width"),
    ("gspo:clip_width",),
    ("gspo", "gigpo"),
    ("rloo", "reinforce_pp_baseline:std"),
    ("gdpo", "rloo:kl"),
    ("spo", "rloo:kl"),
    ("ttrl", "spo"),
    ("ttrl", "dapo"),
    ("spo", "gigpo:turns"),
]


@pytest.mark.parametrize(("parts", "clash"), list(zip(CONTRADICTIONS, CLASHES, strict=True)))
def test_contradictions_are_refused(parts, clash):
    """Each row of the table by an example that only it refuses."""
    assert refused(*parts) == f"{clash.why} ({clash.source})"
    assert re.fullmatch(r"arXiv:\d{4}\.\d{5}", clash.source)


def test_a_completion_that_counts_as_often_as_it_has_tokens(tmp_path):
    """The caution on RLOO's ratio: at ratio 1 a token's gradient is |o| A / T, not A."""
    for parts, times in ((("rloo",), 1.0), (("dr_grpo", "rloo"), 2.0)):
        module = composition.module_of(parts, tmp_path)
        config = module.Config()
        mask = torch.ones(2, 8)
        mask[1, 4:] = 0  # half as long
        logprobs = torch.zeros(2, 8, requires_grad=True)
        old = logprobs.detach()
        token_loss, _ = module.policy_loss(logprobs, old, old, torch.ones(2, 1), mask, config)
        module.aggregate_loss(token_loss, mask, 2, mask.sum(), config).backward()
        assert logprobs.grad[0, 0] / logprobs.grad[1, 0] == pytest.approx(times)
        noted = any("counts |o| times" in note for note in composition.compose(parts).notes)
        assert noted == (times == 2)


@pytest.mark.parametrize("script", TOGETHER)
def test_moves_that_belong_together(script):
    first, *rest = TOGETHER[script]
    assert "cannot do without its" in refused(f"{script}:{first}")
    assert "cannot do without its" in refused(f"{script}:{','.join(rest)}")


def test_turns_of_gigpo():
    """Its advantage needs turns; turns do without it."""
    assert "cannot do without its turns" in refused("gigpo:advantage")
    held_to_the_contract(made("gigpo:turns"))


def test_a_part_of_which_nothing_is_left():
    assert "dr_grpo: later parts move all" in refused("dr_grpo", "spo")


def test_two_parts_that_rewrite_one_line():
    """No table knows this pair: the merge itself refuses."""
    assert "rewrite the same line of compute_advantages" in refused("rloo:kl", "gigpo")


def test_gdpo_keeps_its_own_std():
    for order in (("dr_grpo", "gdpo"), ("gdpo", "dr_grpo")):
        made_so = composition.compose(order)
        assert "gdpo.py divides each component by its own std: not dr_grpo.py's." in made_so.notes
        assert "divided by the group's std" in coordinates(made_so.source)["length + std"]


def test_every_interaction_is_used():
    used = [made("dapo", "gdpo"), made("dapo", "rloo"), made("dapo:sampling")]
    for interaction, source in zip(INTERACTIONS, used, strict=True):
        assert all(new in source for new in interaction.rewrite.values())


# ---- Presets ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_presets(name, tmp_path, llama_folder):
    preset = PRESETS[name]
    parts = preset.parts.split()
    source = composition.compose(parts, preset).source
    held_to_the_contract(source)
    assert source.startswith(f'"""{preset.title} (') and preset.source in source
    flags = [word[2:] for word in preset.flags.split() if word.startswith("--")]
    config = composition.module_of(parts, tmp_path).Config
    assert set(flags) <= config.__dataclass_fields__.keys()
    trains(parts, tmp_path, llama_folder)


# ---- Command line -------------------------------------------------------------------------------


def called(*words):
    command = [sys.executable, "-m", "compose", *map(str, words)]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True)


BAD = {
    "unknown script": ("dappo", "no such script; there are grpo, "),
    "the hub": ("grpo", "it moves nothing"),
    "another parent": ("vapo", "compared with another script than grpo.py"),
    "unknown axis": ("gspo:length", "moves granularity, clip_width, not 'length'"),
    "no axis": ("gspo:", "moves granularity, clip_width, not ''"),
    "not a script": ("common.py", "no such script"),
    "nothing": ("", "no such script"),
    "escape": ("\x1b[2J", "no such script"),
}


@pytest.mark.parametrize(("part", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(part, message):
    found = called(part)
    assert found.returncode == 2 and message in found.stderr
    assert found.stderr.count("\n") == 1 and "\x1b" not in found.stderr and not found.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("grpo.py", "it exists"),
        ("mine.txt", "needs a name such as mine.py"),
        ("two words.py", "needs a name such as mine.py"),
        ("docs/mine.py", "put it beside grpo.py or into zoo/"),
    ],
)
def test_output_is_never_overwritten(path, message):
    before = source_of("grpo")
    found = called("dapo", "gspo", "-o", path)
    assert found.returncode == 2 and message in found.stderr and found.stderr.count("\n") == 1
    assert source_of("grpo") == before


def test_every_script_is_a_part():
    """But for grpo.py, and for vapo.py, which is compared with another."""
    assert set(PARTS) | {"grpo", "zoo.vapo"} <= {"grpo", "zoo.vapo", *composition.composable()}
    assert "zoo.vapo" not in composition.composable()
    assert {"dr_grpo", "dapo", "cispo", "zoo.spo", "zoo.ppo"} <= rules.NO_REFERENCE
    assert {"dr_grpo", "zoo.rloo"} <= rules.UNDIVIDED and "grpo" not in rules.UNDIVIDED


@pytest.fixture
def newcomer(tmp_path, monkeypatch):
    """A new script with an advantage and a std of its own, in no table, beside some others."""
    (tmp_path / "zoo").mkdir()
    for script in ("grpo", "dapo", "dr_grpo"):
        (tmp_path / f"{script}.py").write_text(source_of(script), encoding="utf-8")
    source = seventh().replace(
        "    A_i  = (R_i - mean(R)) / std(R)  ", "    A_i  = R_i - mean of R_j over j != i"
    )
    (tmp_path / "zoo/seventh.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(reader, "HERE", tmp_path)
    composition.known.cache_clear()
    yield "seventh"
    composition.known.cache_clear()


def test_a_new_script_states_its_own_advantage(newcomer):
    """Or is refused where only a part of that is taken: its equation would be wrong."""
    source = made("dapo:sampling", newcomer)
    assert "    A_i  = R_i - mean of R_j over j != i" in source and "std(R)" not in source
    assert "states A for its own advantage and its own std, not for grpo.py's std" in refused(
        f"{newcomer}:advantage"
    )
    assert "not for dr_grpo.py's std" in refused(newcomer, "dr_grpo:std")


def test_a_move_named_twice():
    """Two parts of one script may share no move; apart from each other they go together."""
    assert "dapo.py's kl is named twice" in refused("dapo:kl", "gspo", "dapo:sampling,kl")
    assert code(made("dapo:kl", "dapo:length")) == code(made("dapo:kl,length"))


def test_a_composition_is_no_part(monkeypatch):
    """It names its own parts instead."""
    mine = made("dapo", "gspo")
    monkeypatch.setattr(composition, "known", lambda: ["grpo", "mine"])
    monkeypatch.setattr(composition, "source_of", lambda name: mine)
    assert refused("mine", "gdpo") == "mine: it is a composition; name its parts, dapo gspo"


def test_parts_or_a_preset():
    for words in ((), ("dapo", "--preset", "grpo_zero")):
        assert "name the parts" in called(*words).stderr
    listed = called("--list").stdout
    assert all(name in listed for name in (*map(composition.short, PARTS), *PRESETS))


def test_write_and_run(tmp_path, monkeypatch):
    """The command of the README: written beside grpo.py, and it says how to run it."""
    monkeypatch.setattr(__main__, "HERE", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["compose", "dapo", "gspo", "-o", "mine.py"])
    __main__.main()
    text = (tmp_path / "mine.py").read_text(encoding="utf-8")
    assert text == made("dapo", "gspo") and coordinates(text) != coordinates(source_of("dapo"))


def test_it_prints_what_to_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(__main__, "HERE", tmp_path)
    (tmp_path / "zoo").mkdir()
    for words, run in (
        (["dapo", "gspo", "-o", "mine.py"], "python mine.py\n"),
        (["dapo", "gspo", "-o", "zoo/mine.py"], "python -m zoo.mine\n"),
        (["--preset", "grpo_zero", "-o", "zero.py"], "python zero.py --minibatches 1\n"),
    ):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["compose", *words])
        __main__.main()
        assert capsys.readouterr().out.endswith(run)

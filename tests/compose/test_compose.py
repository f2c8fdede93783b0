"""Compositions: what a script is made of, what goes together, and that the result is right."""

import difflib
import inspect
import itertools
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

import common
import dapo
from common import HERE
from compose import __main__, composition, reader, rules
from compose.edits import MOVES, changed_lines, edits_of
from compose.reader import code_lines, coordinates, source_of
from compose.rules import CLASHES, INTERACTIONS, PRESETS, TOGETHER
from countdown_task import CountdownTask, Problem
from tasks import InputError
from tests.core.test_diffs import seventh, violations

PARTS = [s for s in composition.composable() if composition.parse_part(s).moves]  # not a copy
PAIRS = list(itertools.combinations(PARTS, 2))
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
    """As any script: marked where axes move, nothing else changed, formatted, no name undefined."""
    assert violations("a composition", source) == []
    assert max(map(len, source.splitlines())) <= 100 and len(source.splitlines()) <= 420
    assert source.count('"""\n') and "Coordinates on the seven axes:" in source
    formatted = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "-"], input=source, capture_output=True, text=True
    )
    assert formatted.stdout == source
    names = subprocess.run(  # a tiny model earns nothing, so that `trains` may never reach the loss
        [sys.executable, "-m", "ruff", "check", "--select", "F821", "-"], input=source, text=True
    )
    assert names.returncode == 0


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
    """As docs/reference/compose.md counts them."""
    count = sum(composed(pair)[0] is not None for pair in PAIRS)
    text = (HERE / "docs/reference/compose.md").read_text(encoding="utf-8")
    assert f"Of {len(PAIRS)} pairs {count} compose" in " ".join(text.split())


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
    assert len(removed) == 3 and changed_lines(source_of("grpo"), source_of("gspo")) == "+4 -3"


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


# ---- Where two moves meet -----------------------------------------------------------------------

FILTERING = [("dapo", "gspo"), ("dapo", "gmpo"), ("dapo:sampling",), ("dapo:sampling", "gdpo")]
FILTERING += [("dapo", "prime"), ("dapo", "rloo"), ("dapo", "gigpo"), ("dr_grpo", "dapo:sampling")]


@pytest.mark.parametrize("parts", FILTERING, ids="+".join)
def test_overlong_filtering_in_every_composition(parts, tmp_path, llama_folder):
    """The update of a batch with cut-off rows is that of its other rows, one by one, by hand."""
    module = composition.module_of(parts, tmp_path)
    config = module.Config(
        prompts_per_step=2, group_size=4, max_new_tokens=24, minibatches=1, mask_truncated=True
    )
    if "gigpo" in parts:
        config.reward_components, config.reward_weights = ["answer"], [1.0]
    model, tokenizer = common.load_model(llama_folder)
    reference, _ = common.load_model(llama_folder)
    problems = CountdownTask().held_out(2)
    stream = torch.Generator().manual_seed(0)
    rollout = module.sample_groups(model, tokenizer, problems, config, stream)
    rollout.truncated = torch.tensor([1, 0, 0, 1, 0, 0, 0, 0])
    rollout.logprobs = rollout.logprobs + 0.1 * torch.randn(8, 24, generator=stream) * rollout.mask
    takes_ref = "ref_logprobs" in inspect.signature(module.policy_loss).parameters
    if takes_ref:
        rollout.ref_logprobs = module.over_rollout(
            module.completion_logprobs, reference, rollout, config
        )
    advantages = torch.randn(2, 4, generator=stream)
    kept = [row for row in range(8) if not rollout.truncated[row]]
    num_tokens = rollout.mask[kept].sum()
    config.max_grad_norm = 1e9
    for row in kept:
        logprobs = module.completion_logprobs(model, rollout, [row], config)
        T = logprobs.shape[1]
        tensors = [logprobs, rollout.logprobs[[row], :T]]
        tensors += [rollout.ref_logprobs[[row], :T]] if takes_ref else []
        A, mask = advantages.view(8, 1)[[row]], rollout.mask[[row], :T]
        token_loss, _ = module.policy_loss(*tensors, A, mask, config)
        module.aggregate_loss(token_loss, mask, 8, num_tokens, config).backward()
    by_hand = [p.detach() - p.grad for p in model.parameters()]
    model.zero_grad()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    metrics = module.update_policy(model, optimizer, rollout, advantages, config)
    assert metrics["updates"] == 1 and metrics["grad_norm"] > 0
    for ours, theirs in zip(model.parameters(), by_hand, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("parts", FILTERING[:4], ids="+".join)
def test_overlong_filtering_trains(parts, tmp_path):
    """A batch of the base of which a third is cut off: two steps, and no NaN."""
    module = composition.module_of(parts, tmp_path)
    folder = tmp_path / "run"
    options = {"max_new_tokens": 48, "overlong_cache": 8, "prompts_per_step": 8, "group_size": 8}
    options |= {"mask_truncated": True, "steps": 2, "eval_problems": 2, "eval_every": 0}
    module.train(module.Config(**options, output_dir=str(folder)))
    rows = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    assert '"step": 2' in rows and "NaN" not in rows
    cut = [row["truncated"] for row in map(json.loads, rows.splitlines()) if "truncated" in row]
    assert min(cut) > 0.1


def test_a_reward_model_learns_from_what_is_trained_on(tmp_path, llama_folder):
    """DAPO's filter with PRIME: what was cut off neither moves the reward model nor breaks A."""
    module = composition.module_of(("dapo", "prime"), tmp_path)
    config = module.Config(group_size=4, max_new_tokens=6, minibatches=1, mask_truncated=True)
    model, tokenizer = common.load_model(llama_folder)
    problems = CountdownTask().held_out(1)
    stream = torch.Generator().manual_seed(0)
    rollout = module.sample_groups(model, tokenizer, problems, config, stream)
    rollout.ref_logprobs = rollout.logprobs.clone()
    rollout.correct = torch.tensor([1, 0, 1, 0])
    moved = {}
    for cut in ([0, 0, 0, 1], [1, 1, 1, 1]):
        rollout.truncated = torch.tensor(cut)
        learner, _ = common.load_model(llama_folder)
        optimizer = torch.optim.SGD(learner.parameters(), lr=1.0)
        module.update_reward_model(learner, optimizer, rollout, config)
        pairs = zip(learner.parameters(), model.parameters(), strict=True)
        moved[sum(cut)] = any(not torch.equal(a, b) for a, b in pairs)
    assert moved == {1: True, 4: False}
    process = torch.rand(4, 6) * rollout.mask
    rewards = torch.tensor([[1.0, 0, 0], [0, 0, -1], [1, 0, 0], [0, 0, -1]])[None]
    assert module.compute_advantages(rewards, process, rollout.mask, config).isfinite().all()


def test_the_tools_tokens_fill_the_budget(tmp_path, monkeypatch):
    """T 64, C 16: cut-off rows with 36 tokens of their own are punished by 1; with 20, ended, by 0.

    A row that ended at place 56 with 40 tokens of its own is half way through the cache: -1/2.
    """
    module = composition.module_of(("dapo", "gigpo"), tmp_path)
    config = module.Config(
        prompts_per_step=1, group_size=5, max_new_tokens=64, overlong_cache=16, max_refills=0
    )
    mask = torch.zeros(5, 64)
    mask[:3, :18] = mask[:3, 40:58] = 1  # a reply of the tool in the middle, another at the end
    mask[3, :10] = mask[3, 30:40] = 1
    mask[4, :20] = mask[4, 36:56] = 1
    zeros = torch.zeros(5, 64)
    rollout = module.Rollout(
        problems=[Problem((1, 2, 3), 6)] * 5,
        prompts=[[1]] * 5,
        completions=[""] * 5,
        completion_ids=zeros.long(),
        mask=mask,
        logprobs=zeros,
        entropy=zeros,
        truncated=torch.tensor([1, 1, 1, 0, 0]),
        correct=torch.tensor([0, 0, 0, 1, 1]),
        completions_sampled=5,
        tokens_sampled=int(mask.sum()),
        turns=zeros.long(),
        states=[[(1, 2, 3)]] * 5,
    )
    assert mask.sum(1).tolist() == [36.0, 36.0, 36.0, 20.0, 40.0]
    monkeypatch.setattr(module, "sample_groups", lambda *_: rollout)
    _, rewards = module.sample_batch(None, None, CountdownTask(), config, 1)
    assert rewards[0, :, -1].tolist() == [-1.0, -1.0, -1.0, 0.0, -0.5]


@pytest.mark.parametrize("other", ["dr_grpo", "reinforce_pp_baseline", "rloo:std"])
def test_a_turn_has_the_std_of_its_trajectory(other, tmp_path):
    """As in the authors' code, where one switch says it of both: none, or one for the rollout."""
    module = composition.module_of(("gigpo", other), tmp_path)
    config = module.Config(group_size=3, reward_components=["answer"], reward_weights=[1.0])
    states = [[(1, 2), (3,)], [(1, 2), (3,)], [(1, 2)], [(4, 5)], [(4, 5), (9,)], [(4, 5)]]
    pooled = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    gamma = config.gamma
    centred = torch.zeros(6, 2)
    for first, returns in ((0, [gamma, 0.0, 0.0]), (3, [1.0, gamma, 0.0])):
        centred[first : first + 3, 0] = torch.tensor(returns) - sum(returns) / 3
    centred[:2, 1] = torch.tensor([0.5, -0.5])  # in (3,): 1 and 0; nobody else comes to (9,)
    turns_there = centred[[0, 1, 2, 3, 4, 5, 0, 1, 4], [0, 0, 0, 0, 0, 0, 1, 1, 1]]
    scale = turns_there.std() + 1e-4 if other == "reinforce_pp_baseline" else 1.0
    torch.testing.assert_close(module.turn_advantages(pooled, states, config), centred / scale)
    held_to_the_contract(made("gigpo", other))


def test_advantages_pass_over_a_tool(tmp_path):
    """V = R = 1: nothing is a surprise, whatever lambda, and a reply of the tool is no step."""
    module = composition.module_of(("ppo", "gigpo:turns"), tmp_path)
    config = module.Config(gae_lambda=0.9, reward_components=["answer"], reward_weights=[1.0])
    mask = torch.tensor([[1.0, 1, 0, 0, 1, 1], [1, 1, 1, 1, 0, 0]])
    rewards = torch.tensor([1.0, 0.0]).view(2, 1, 1)
    values = mask * torch.tensor([[1.0], [0.5]])
    _, returns = module.compute_advantages(rewards, values, mask, config)
    gae = returns - values
    torch.testing.assert_close(gae[0] * mask[0], torch.zeros(6))
    falling = -0.5 * 0.9 ** torch.arange(3, -1, -1.0)  # the last token's surprise is -V
    torch.testing.assert_close(gae[1, :4], falling)


# ---- What does not go together ------------------------------------------------------------------

CONTRADICTIONS = [  # one for each row of CLASHES
    ("gspo", "dapo:clip_width"),
    ("gspo", "cispo:clip_width"),
    ("rloo", "sapo"),
    ("rloo", "dppo"),
    ("rloo", "dro:clip_width"),
    ("dapo", "maxrl"),
    ("rloo:kl", "maxrl"),
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
    used = [made("dapo", "gdpo"), made("dapo", "rloo")]
    used += [made("dapo", "gigpo"), made("dapo", "prime"), made("dr_grpo", "gigpo")]
    used += [made("reinforce_pp_baseline", "gigpo")]
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
    assert {"grpo", "zoo.vapo", *PARTS} >= set(reader.scripts())
    assert not {"grpo", "zoo.vapo"} & set(PARTS)
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


def test_an_unfinished_script_is_in_nobodys_way(newcomer):
    """It is passed over; asked for by name it says where it does not parse."""
    (reader.HERE / "mine.py").write_text('"""Mine."""\n\nx = (\n', encoding="utf-8")
    (reader.HERE / "zoo/other.py").write_bytes(b'"""\xff."""\n')
    assert reader.scripts() == ["grpo", "dapo", "dr_grpo", "zoo.seventh"]
    assert made("dapo", "dr_grpo")
    for name in ("mine", "mine.py"):
        assert refused(name) == "mine.py, line 3: '(' was never closed"
    (reader.HERE / "mine.py").rename(reader.HERE / "zoo/mine.py")
    for name in ("mine", "zoo/mine.py"):
        assert refused(name) == "zoo/mine.py, line 3: '(' was never closed"


def test_a_module_is_whole_while_it_is_written(tmp_path, monkeypatch):
    """Another job may be importing the file: a write that is cut off leaves it as it was."""
    file = Path(composition.module_of(("gspo",), tmp_path).__file__)
    whole = file.read_text(encoding="utf-8")

    def cut(path, text, **_):
        path.write_bytes(text[:99].encode())
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", cut)
    with pytest.raises(KeyboardInterrupt):
        composition.module_of(("gspo",), tmp_path)
    assert file.read_text(encoding="utf-8") == whole


def test_a_new_script_states_its_own_advantage(newcomer):
    """Or is refused where only a part of that is taken: its equation would be wrong."""
    source = made("dapo:sampling", newcomer)
    assert "    A_i  = R_i - mean of R_j over j != i" in source and "std(R)" not in source
    assert "states A for its own advantage and its own std, not for grpo.py's std" in refused(
        f"{newcomer}:advantage"
    )
    assert "not for dr_grpo.py's std" in refused(newcomer, "dr_grpo:std")


def test_a_part_keeps_the_diff_contract(newcomer):
    """What moves no axis would come along unseen."""
    file = reader.HERE / "zoo/seventh.py"
    source = file.read_text(encoding="utf-8")
    file.write_text(source.replace("weight_decay=0.0", "weight_decay=0.1"), encoding="utf-8")
    assert refused(newcomer).startswith("seventh.py breaks the diff contract: line ")


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


def test_what_compose_wrote_is_written_anew_until_it_is_changed(tmp_path, monkeypatch, capsys):
    """Pages use one name again and again; an edit is the user's, and is not lost."""
    monkeypatch.setattr(__main__, "HERE", tmp_path)
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "mine.py"
    for words in (["dapo", "gspo"], ["--preset", "trl_default"], ["dr_grpo", "gspo"]):
        monkeypatch.setattr(sys, "argv", ["compose", *words, "-o", "mine.py"])
        __main__.main()
    assert mine.read_text(encoding="utf-8") == made("dr_grpo", "gspo")
    edited = made("dr_grpo", "gspo").replace("weight_decay=0.0", "weight_decay=0.1")
    mine.write_text(edited, encoding="utf-8")
    with pytest.raises(SystemExit):
        __main__.main()
    assert "it exists" in capsys.readouterr().err and mine.read_text(encoding="utf-8") == edited


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

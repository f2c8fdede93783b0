"""The page's own composing and its own gradients: the same as compose's and the scripts'."""

import itertools
import math
import random
from functools import cache

import pytest
import torch

from compose import composition
from compose.edits import MOVES
from compose.rules import PRESETS
from experiments.catalogue import ARMS
from plots import atlas, side_by_side
from tasks import InputError
from tests.plots.conftest import opened

PARTS = [name.rpartition(".")[2] for name in composition.composable()]
WRONG = ["grpo", "none", "dapo:tracker", "dapo:", "dapo dapo:kl", "dapo:kl,kl", "gspo gspo"]
WRITE = """(texts, preset) => {
  const made = attempt(texts, preset);
  return made.refused ? `refused: ${made.refused}` : made.source;
}"""


@pytest.fixture
def page(browser):
    with opened(browser, side_by_side.PAGE, "grpo..gspo") as page:
        yield page


# ---- Composing ----------------------------------------------------------------------------------


def asked_for():
    """Parts as they are named anywhere: every script, pair, arm and command of the atlas."""
    found = [(part,) for part in PARTS]
    found += itertools.permutations(PARTS, 2)
    found += [arm.parts for arm in ARMS.values() if arm.parts]
    commands = [row.here for row in atlas.rows() if row.here.startswith("python -m compose ")]
    named = [command.removesuffix(" -o mine.py").split()[3:] for command in commands]
    found += [tuple(parts) for parts in named if parts[0] != "--preset"]
    return list(dict.fromkeys(found))


def written(parts, preset=None):
    """What `python -m compose` writes, or why it refuses."""
    try:
        return composition.compose(parts, preset).source
    except InputError as error:
        return f"refused: {error}"


@pytest.mark.slow
def test_the_page_composes_as_compose_does(page):
    """Every text that compose writes, to the letter, and every line of its refusals."""
    asked = [*asked_for(), *(tuple(text.split()) for text in WRONG)]
    found = page.evaluate(f"asked => asked.map(texts => ({WRITE})(texts, ''))", asked)
    for parts, text in zip(asked, found, strict=True):
        assert text == written(parts), parts
    assert sum(text.startswith('"""') for text in found) > 300 < len(asked)
    for name, preset in PRESETS.items():
        made = page.evaluate(
            f"([texts, name]) => ({WRITE})(texts, name)", [preset.parts.split(), name]
        )
        assert made == written(preset.parts.split(), preset), name


# ---- Gradients ----------------------------------------------------------------------------------

CHOICES = 250
GROUPS = 4  # under each choice
CHOOSE = """tried => tried.map(([start, moved]) => {
  const texts = moved.reduce((texts, [move, index]) => movedTo(texts, move, index), start);
  const taken = takenOf(texts);
  if (!texts.length || beyondOneGroup(taken).length || attempt(texts, "").refused) return null;
  return [texts, MOVES.map(move => [move, positionOf(move, taken[move])])];
})"""


def random_choices(page, rng):
    """[parts] that the page draws a group for, at random; every position of such is among them."""
    places = page.evaluate("MOVES.map(move => [move, data.compose.positions[move].length])")
    single = [(move, index) for move, count in places for index in range(count)]
    tried = [([part], []) for part in PARTS]
    for _ in range(4 * CHOICES):
        start = rng.sample(PARTS, rng.randint(0, 1))
        tried.append((start, rng.sample(single, rng.randint(1, 4))))
    found = [one for one in page.evaluate(CHOOSE, tried) if one]
    assert len(found) > CHOICES
    chosen = found[:CHOICES]
    at = [{tuple(place) for _, places in some for place in places} for some in (found, chosen)]
    assert at[0] == at[1]
    assert {move for move, index in at[0] if index} == set(MOVES) - {"critic", "tracker", "turns"}
    return [parts for parts, _ in chosen]


def random_group(rng):
    """Completions as the page's formulas take them: rewards, and four policies' log-probs."""
    drift, stale = (rng.choice([1e-4, 0.05, 0.4, 1.2]) for _ in range(2))
    equal = rng.random() < 0.1  # no signal
    group = []
    for _ in range(rng.randint(4, 8)):
        length = rng.choice([rng.randint(1, 12), rng.randint(1, 12), rng.randint(180, 256)])
        old = [-rng.expovariate(1) for _ in range(length)]
        near = {
            name: [x + rng.gauss(0, spread) for x in old]
            for name, spread in (("policy", drift), ("sampler", stale), ("reference", 0.3))
        }
        answer = 1.0 if equal else rng.choice([0.0, 1.0, rng.random()])
        group.append({"answer": answer, "format": float(equal or rng.random() < 0.5), "old": old})
        group[-1] |= near
    return group


class Policy(torch.nn.Module):
    """A policy whose parameters are the log-probs of the group's tokens, (B, T)."""

    def __init__(self, logprobs):
        super().__init__()
        self.logprobs = torch.nn.Parameter(logprobs)


@pytest.fixture
def double():
    """1e-6 of a gradient is less than float32 has."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@cache
def module_of(parts, folder):
    module = composition.module_of(parts, folder)
    module.completion_logprobs = lambda policy, rollout, rows, config: policy.logprobs[rows]
    return module


def by_the_script(module, parts, group):
    """(advantages, minus the gradient) of the script's own update, in one step of SGD."""
    config = module.Config(
        prompts_per_step=1, group_size=len(group), minibatches=1, max_grad_norm=math.inf
    )
    T = config.max_new_tokens
    padded = {
        name: torch.tensor([one[name] + [0.0] * (T - len(one[name])) for one in group])
        for name in ("old", "policy", "sampler", "reference")
    }
    lengths = torch.tensor([len(one["old"]) for one in group])
    mask = (torch.arange(T) < lengths[:, None]).double()
    unused = dict.fromkeys(module.Rollout.__dataclass_fields__)
    unused |= {"prompts": [[]] * len(group), "entropy": 0 * mask}
    rollout = module.Rollout(**unused | {"mask": mask, "logprobs": padded["sampler"]})
    taken = composition.owners_of([composition.parse_part(part) for part in parts])[0]
    if taken.get("sampler") == "zoo.tis":  # as its train()
        rollout.weights = torch.exp(padded["old"] - padded["sampler"]).clamp(max=config.max_weight)
        rollout.logprobs = padded["old"]
    rollout.ref_logprobs = padded["reference"]
    columns = [torch.tensor([one[name] for one in group]) for name in config.reward_components]
    if taken.get("sampling") == "dapo":
        columns.append(module.soft_overlong_punishment(lengths, config).double())
    if taken.get("kl") == "zoo.rloo":
        columns.append((rollout.logprobs - rollout.ref_logprobs).sum(1))
    advantages = module.compute_advantages(torch.stack(columns, -1)[None], config)
    policy = Policy(padded["policy"].clone())
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    module.update_policy(policy, optimizer, rollout, advantages, config)
    return advantages[0], policy.logprobs.detach() - padded["policy"]


def close(found, wanted, parts):
    torch.testing.assert_close(
        torch.tensor([*map(float, found)]),
        wanted,
        rtol=1e-6,
        atol=1e-6,
        msg=lambda text: f"{parts}: {text}",
    )


@pytest.mark.slow
@pytest.mark.usefixtures("double")
def test_the_pages_gradients_are_the_scripts(page, tmp_path):
    """A thousand groups, each under a choice of its own: what autograd finds in update_policy."""
    rng = random.Random(44)
    choices = random_choices(page, rng) * GROUPS
    groups = [random_group(rng) for _ in choices]
    found = page.evaluate(
        "([choices, groups]) => choices.map((texts, i) => gradientOf(takenOf(texts), groups[i]))",
        [choices, groups],
    )
    for parts, group, drawn in zip(choices, groups, found, strict=True):
        advantages, pushes = by_the_script(module_of(tuple(parts), tmp_path), parts, group)
        close(drawn["advantages"], advantages, parts)
        for weights, row in zip(drawn["weights"], pushes, strict=True):
            close(weights, row[: len(weights)], parts)

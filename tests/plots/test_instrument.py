"""The page's own composing and its own gradients: the same as compose's and the scripts'."""

import itertools
import math
import random
import re
from functools import cache

import pytest
import torch

from common import HERE
from compose import composition
from compose.edits import MOVES, changed_lines
from compose.reader import source_of
from compose.rules import PRESETS
from experiments.catalogue import ARMS
from plots import atlas, side_by_side
from tasks import InputError
from tests.plots.conftest import SCREENS, opened

PARTS = [name.rpartition(".")[2] for name in composition.composable()]
WRONG = ["grpo", "none", "dapo:tracker", "dapo:", "dapo dapo:kl", "dapo:kl,kl", "gspo gspo"]
WRITE = """(texts, preset) => {
  const made = attempt(texts, preset);
  return made.refused ? `refused: ${made.refused}` : made.source;
}"""


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


def by_the_script(module, parts, group, second_weight):
    """(advantages, minus the gradient) of the script's own update, in one step of SGD."""
    config = module.Config(
        prompts_per_step=1, group_size=len(group), minibatches=1, max_grad_norm=math.inf
    )
    config.reward_weights = [1.0, second_weight][: len(config.reward_weights)]
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
    second = [rng.choice([0.1, 1.0]) for _ in choices]  # weight of the second reward
    found = page.evaluate(
        """([choices, groups, second]) => choices.map(
          (texts, i) => gradientOf(takenOf(texts), groups[i], [1, second[i]])
        )""",
        [choices, groups, second],
    )
    for parts, group, weight, drawn in zip(choices, groups, second, found, strict=True):
        module = module_of(tuple(parts), tmp_path)
        advantages, pushes = by_the_script(module, parts, group, weight)
        close(drawn["advantages"], advantages, parts)
        for weights, row in zip(drawn["weights"], pushes, strict=True):
            close(weights, row[: len(weights)], parts)


# ---- What is said of a choice -------------------------------------------------------------------


@pytest.mark.slow
def test_every_method_of_the_atlas_is_found(page):
    """At its own place on the axes a method is named, not only its neighbours."""
    said = page.evaluate(
        """methods.map(({name, parts}) => {
          chooseParts(parts, "");
          return [name, by("verdict").textContent, by("made").textContent];
        })"""
    )
    assert {"DAPO", "GRPO-Zero", "ScaleRL", "TIS"} <= {name for name, *_ in said}
    for name, verdict, made in said:
        assert verdict.startswith("This is ") and name in verdict
        assert "python " in made and "TRL" in made and "verl" in made


@pytest.mark.slow
def test_the_diff_is_counted_as_in_the_maps(page):
    for part in PARTS:
        page.evaluate("part => chooseParts([part], '')", part)
        count = changed_lines(source_of("grpo"), source_of(composition.find_script(part)))
        assert page.inner_text(".diffs h3").endswith(f": {count}")


@pytest.mark.slow
def test_flags_of_a_script_are_those_of_the_docs(page):
    """A flag is shown where the choice is what its table is about, and a gap is named."""
    page.evaluate("chooseParts(['gspo'], '')")
    flags = page.inner_text("#made .flags")
    assert 'importance_sampling_level="sequence"' in flags and "loss_mode=gspo" in flags
    page.evaluate("chooseParts(['maxrl'], '')")
    assert "no flag for std: / group mean" in page.inner_text("#made .flags")
    for part, estimator in (("gdpo", "gdpo"), ("dr_grpo", "grpo")):
        page.evaluate("part => chooseParts([part], '')", part)
        flags = page.inner_text("#made .flags")
        assert f"adv_estimator={estimator}" in flags and "cannot be both" not in flags
    page.evaluate("chooseParts(['rloo'], '')")
    assert "loss_type" not in page.inner_text("#made .flags")  # RLOOConfig has none


@pytest.mark.slow
@SCREENS
def test_the_axes_by_keyboard_and_by_address(page, browser):
    """Arrows move along a row; a contradiction is one line; the address brings all of it back."""
    page.locator("#moves input[name=move-granularity]:checked").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("location.hash") == "#grpo..gspo&axes=gspo:granularity"
    why = written(("gspo:granularity",)).removeprefix("refused: ")
    assert page.inner_text("#verdict") == f"compose refuses: {why}."
    assert page.evaluate("document.activeElement.name") == "move-granularity"
    page.locator("#moves input[name=move-clip_width]:checked").focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert page.inner_text("#verdict").startswith("This is GSPO (2025-07)")
    page.locator("#completions input").first.focus()
    page.keyboard.press("ArrowLeft")
    bars = page.inner_text("#completions")
    assert page.inner_text("#completions output >> nth=0") == "0.95"
    address = page.evaluate("location.hash")
    width = page.viewport_size["width"]
    with opened(browser, side_by_side.PAGE, address[1:], width) as again:
        assert again.inner_text("#verdict").startswith("This is GSPO (2025-07)")
        assert again.inner_text("#completions") == bars
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
def test_links_of_the_docs_are_states(page):
    """What a page or the notebook links to opens as it is written, and says what that is."""
    texts = [path.read_text(encoding="utf-8") for path in (HERE / "docs").glob("**/*.[mi]*")]
    states = {state for text in texts for state in re.findall(r"index\.html#([^)\s\\\"]+)", text)}
    assert len(states) > 8
    for state in states:
        page.evaluate("state => { location.hash = state; open(); }", state)
        assert page.evaluate("location.hash") == f"#{state}"
        said = page.inner_text("#verdict")
        assert said.startswith(("This is", "No method", "compose refuses: a clip of 0.2 is dead"))


@pytest.mark.slow
def test_an_address_may_be_encoded_or_nonsense(page):
    """As mail and course systems write it; a word of JavaScript's own names no situation."""
    page.evaluate("() => { location.hash = 'grpo..gspo&axes=gspo%3Agranularity'; open(); }")
    assert page.inner_text("#verdict").startswith("compose refuses: a clip of 0.2 is dead")
    for state in ("grpo..gspo&group=constructor", "grpo..gspo&axes=--preset+constructor"):
        page.evaluate("state => { location.hash = state; open(); }", state)
        assert page.locator("#completions input").count() == 8 * 3


@pytest.mark.slow
def test_a_group_that_changes_loses_its_name(page):
    """Menu, sentence and address say what is there, and what it was is a choice again."""
    page.select_option("#situation", "one_right")
    assert "its advantage is 2.5" in page.inner_text("#see")
    page.locator("#fewer").click()
    assert page.input_value("#situation") == page.inner_text("#see") == ""
    assert page.evaluate("location.hash").count(";") == 6
    page.select_option("#situation", "one_right")
    assert page.locator("#completions .completion").count() == 8
    page.select_option("#situation", "stale_sampler")
    page.locator("#extras input[value=stale]").uncheck()
    bars = page.inner_text("#completions")
    page.evaluate("open()")
    assert page.inner_text("#completions") == bars


# ---- What is seen of a group --------------------------------------------------------------------


def pushed(page, situation, parts):
    """{title: [[of grpo.py], [of the parts]]}, two digits each."""
    found = page.evaluate(
        """([situation, parts]) => {
          setSituation(situation);
          return pushes(takenOf(parts));
        }""",
        [situation, parts],
    )
    return {title: [[round(x, 2) for x in side] for side in sides] for title, sides in found}


@pytest.mark.slow
def test_situations_show_what_they_say(page):
    """The sentence above the bars, by the bars."""
    assert pushed(page, "one_right", ["maxrl"])["advantage"] == [
        [2.47] + 7 * [-0.35],
        [7.0] + 7 * [-1.0],
    ]
    assert pushed(page, "all_right", ["dr_grpo"])["weight of a token"] == 2 * [8 * [0.0]]
    far = ["1,1,64,0,0,0", "1,1,64,0,0,0", "0,1,64,0,0,0", "0,1,64,0.5,0,0"]  # ratio e^32
    page.evaluate("text => readGroup(text)", ";".join(far))
    weights = page.evaluate("() => pushes(takenOf(['rloo']))[1][1][1]")
    assert weights[3] == 0 > weights[2]
    hub, constant = pushed(page, "long_wrong", ["dr_grpo"])["weight of a token"]
    assert hub[7] / hub[6] == pytest.approx(64 / 240, abs=0.01) and constant[7] == constant[6]
    advantages = pushed(page, "long_wrong", ["dapo"])["advantage"][1]
    assert advantages[7] < 2 * advantages[6] < 0
    hub, apart = pushed(page, "two_rewards", ["gdpo"])["advantage"]
    assert hub[0] == hub[1] and apart[0] > 3 * apart[1] > 0
    rare = {
        part: pushed(page, "rare_token", [part])["weight of the rare token"][1][0]
        for part in ("dapo", "cispo", "dppo")
    }
    assert rare["dapo"] == 0 < rare["cispo"] < rare["dppo"]
    hub, whole = pushed(page, "rare_token", ["gspo"])["weight of a token"]
    assert hub[0] == hub[1] > 0 == whole[0]
    hub, weighed = pushed(page, "stale_sampler", ["tis"])["weight of a token"]
    assert hub[2] == hub[6] == 0 and weighed[2] == pytest.approx(2 * weighed[1], abs=0.02)
    assert weighed[6] == pytest.approx(0.41 * weighed[5], abs=0.01)
    hub, dropped = pushed(page, "stale_sampler", ["deepseek_v32"])["weight of the rare token"]
    assert hub[7] < -1 and abs(dropped[7]) < 0.1


@pytest.mark.slow
def test_what_one_group_cannot_show(page):
    """Nothing is drawn of a critic, a tracker, turns or a learnt reward: the page says why."""
    for part in ("ppo", "spo", "gigpo", "prime", "reinforce_pp"):
        page.evaluate("part => chooseParts([part], '')", part)
        assert page.inner_text("#drawn").startswith("One group cannot show what this moves")
        assert not page.locator(".bar.here").count()
    page.evaluate("chooseParts(['cispo'], '')")
    assert page.inner_text("#drawn") == "" and page.inner_text("#legend").split() == [
        "grpo.py",
        "cispo",
    ]
    shown = page.locator("#completions .bar.here").count()
    assert shown == page.locator("#completions .bar.hub").count() == 8 * 3
    page.evaluate("chooseParts(['gspo:granularity'], '')")
    assert page.inner_text("#drawn").startswith("Your choice contradicts itself")


# ---- The whole page -----------------------------------------------------------------------------


@pytest.mark.slow
@SCREENS
def test_a_story_comes_into_view(page):
    """With its code; and it goes when others are compared."""
    for name in ("dr_grpo", "vapo"):
        page.locator("#map").get_by_role("button", name=f"{name}.py", exact=True).click()
        assert page.evaluate("by('right').value").endswith(name)
        top = page.locator("#story").bounding_box()["y"]
        assert page.locator("header").bounding_box()["height"] < top < 700
    page.select_option("#right", "gspo")
    page.select_option("#left", "dapo")
    assert page.inner_text("#story h3 >> nth=0") == "GSPO (gspo.py)"
    assert page.locator("#places tbody th").first.bounding_box()["width"] < 0.35 * 390 or (
        page.viewport_size["width"] > 390
    )


@pytest.mark.slow
@SCREENS
def test_curves_have_values(page):
    """Under the pointer, and by keyboard; a line can be put away."""
    figure = page.locator("#charts figure").first
    figure.locator("input").focus()
    page.keyboard.press("Home")
    first = figure.locator(".readout").inner_text()
    assert first.startswith("thousand tokens generated 0: grpo.py 0.2")
    figure.locator("figcaption button").first.press("Enter")
    assert "grpo.py" not in figure.locator(".readout").inner_text()
    figure.locator("svg").first.hover()
    assert figure.locator(".readout").inner_text() != first


@pytest.mark.slow
@SCREENS
def test_accessible(page):
    """No finding of axe-core, with a story, a composition and a group open."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.locator("#map").get_by_role("button", name="tis.py", exact=True).click()
    for parts in (["dapo", "gspo"], ["gspo:granularity"]):
        page.evaluate("parts => chooseParts(parts, '')", parts)
        page.select_option("#situation", "stale_sampler")
        found = axe.run(page).response["violations"]
        assert [(one["id"], one["impact"], len(one["nodes"])) for one in found] == []


@pytest.mark.slow
def test_it_is_quick_and_prints(page):
    page.wait_for_function("performance.getEntriesByType('paint').length")
    paints = page.evaluate("performance.getEntriesByType('paint').map(entry => entry.startTime)")
    assert max(paints) < 1000  # milliseconds
    page.evaluate("chooseParts(['dapo', 'gspo'], '')")
    assert page.pdf().count(b"/Type /Page\n") < 12

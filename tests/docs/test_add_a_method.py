"""docs/reference/add_a_method.md, done as written: the script that it makes keeps every promise."""

import re

import pytest
import torch

from common import HERE
from compose import composition, reader
from compose.contract import violations
from compose.reader import coordinates, source_of

PAGE = (HERE / "docs/reference/add_a_method.md").read_text(encoding="utf-8")


def made():
    """grpo.py after every diff block of the page, in order."""
    source = source_of("grpo")
    for block in re.findall(r"^```diff\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        removed, added = (
            "".join(line[1:] for line in block.splitlines(keepends=True) if line[0] == sign)
            for sign in "-+"
        )
        before, found, after = source.rpartition(removed)  # the code, where the docstring quotes it
        assert found, removed
        source = before + added + after
    return source


@pytest.fixture
def two_sided(tmp_path):
    path = tmp_path / "two_sided.py"
    path.write_text(made(), encoding="utf-8")
    return composition.load(path)


def test_it_keeps_the_contract():
    assert violations("zoo.two_sided", made()) == []


def test_the_complaint_that_the_page_shows():
    """Without the option's marker, in the page's own words."""
    unmarked = made().replace("above=1)  # <- clip width", "above=1)")
    (complaint,) = violations("zoo.two_sided", unmarked)
    shown = " ".join(re.search(r"^```\n(line \d+.*?), \.\.\.\n```", PAGE, re.M | re.S)[1].split())
    assert complaint.startswith(shown)


def test_the_number_by_hand(two_sided):
    """Ratio 50 and A = -1: a loss of delta, 4, in place of 50."""
    logprobs = torch.tensor([[50.0]]).log()
    old = torch.zeros(1, 1)
    config = two_sided.Config(kl_coef=0.0)
    loss, _ = two_sided.policy_loss(logprobs, old, old, -torch.ones(1, 1), torch.ones(1, 1), config)
    assert loss.item() == pytest.approx(4.0)


def test_it_trains(two_sided, llama_folder, tmp_path):
    tiny = {"model": llama_folder, "steps": 2, "prompts_per_step": 4, "max_new_tokens": 16}
    tiny |= {"group_size": 4, "eval_problems": 2, "output_dir": str(tmp_path / "run")}
    two_sided.train(two_sided.Config(**tiny, reward_components=["brevity", "format"]))
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 4


def test_it_composes(tmp_path, monkeypatch):
    """With its own equation, beside another part's."""
    for script in ("grpo", "dapo"):
        (tmp_path / f"{script}.py").write_text(source_of(script), encoding="utf-8")
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo/two_sided.py").write_text(made(), encoding="utf-8")
    monkeypatch.setattr(reader, "HERE", tmp_path)
    composition.known.cache_clear()
    source = composition.compose(["dapo:sampling", "two_sided"]).source
    composition.known.cache_clear()
    assert violations("a composition", source) == []
    assert "-min(b_it A_i, clip(r_it, 1-e, 1+e) A_i)" in source and "    b_it = min(r_it" in source
    assert coordinates(source)["clip width"] == coordinates(made())["clip width"]

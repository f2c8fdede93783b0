"""The catalogue: every arm is possible and defined once, and its logs are of it as it stands."""

import importlib
import itertools
import json
import math
import re
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from common import HERE
from compose import composition
from countdown_task import problems_of
from experiments import archive, curves, run, runs
from experiments.catalogue import (
    ARMS,
    DEFINED_IN,
    EXPERIMENTS,
    MODULES,
    coin_entropy,
    defaults,
    ladder,
    length_inflation,
    pairs,
    planted_anew,
    real_model,
)
from experiments.catalogue.arm import Arm
from experiments.run import edited, prepare
from experiments.symptoms import SYMPTOMS
from tasks import InputError
from tasks.source import is_held_out


def script_of(arm):
    """Its script as a module: made for it if it has parts or edits."""
    return prepare(arm) if arm.parts or arm.edits else importlib.import_module(arm.script)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARMS)
def test_arms_are_possible(name):
    """Options and swapped functions exist; all seeds have a log of a whole run of the arm."""
    arm = ARMS[name]
    module = script_of(arm)
    configured = importlib.import_module(arm.swap["Config"]) if "Config" in arm.swap else module
    steps = configured.Config(**arm.flags).steps
    for function, source in arm.swap.items():
        assert hasattr(module, function) and hasattr(importlib.import_module(source), function)
    for seed in arm.seeds:
        head, *rows = archive.read(name, seed)
        assert head["flags"] == arm.flags
        assert head["swap"] == arm.swap and head["seed"] == seed
        assert head.get("parts", []) == list(arm.parts)
        assert head.get("edits", {}) == arm.edits
        trained = [row["step"] for row in rows if "updates" in row]
        assert trained == list(range(1, (len(trained) if "stopped" in rows[-1] else steps) + 1))


def test_every_arm_is_defined_once_and_compared():
    assert len(ARMS) == sum(len(module.ARMS) for module in MODULES.values())
    compared = {name for experiment in EXPERIMENTS.values() for name in experiment.arms}
    assert compared == ARMS.keys()


def test_there_are_enough_seeds():
    """Five; ten where README rests on an arm, and fewer where a run takes long."""
    enough = {name: 3 if name.startswith("beyond_") else 5 for name in ARMS} | {"long": 2}
    ten = (defaults, coin_entropy, length_inflation, ladder)
    enough |= {name: 10 for experiment in ten for name in experiment.ARMS}
    enough |= {**dict.fromkeys(pairs.ARMS, 2), **dict.fromkeys(planted_anew.ARMS, 1)}
    enough |= {**dict.fromkeys(real_model.ARMS, 1), "real_grpo": 2}
    assert all(len(arm.seeds) >= enough[name] for name, arm in ARMS.items())


def test_twenty_are_planted_anew():
    """Five of each state; no seed is another run's, and no arm one that set a threshold."""
    plants = planted_anew.PLANTS.values()
    states = [plant.state for plant in plants]
    assert {word: states.count(word) for word in states} == dict.fromkeys(
        ("healthy", "starved", "broken", "hacked"), 5
    )
    assert all(set(plant.symptoms) <= SYMPTOMS.keys() for plant in plants)
    planted_symptoms = {name for plant in plants for name in plant.symptoms}
    assert planted_symptoms >= {
        "every completion is cut",
        "never writes the format",
        "reward rises, accuracy does not",
        "sampler and update disagree",
    }
    seeds = [seed for plant in plants for seed in plant.arm.seeds]
    others = {seed for name in ARMS.keys() - planted_anew.ARMS.keys() for seed in ARMS[name].seeds}
    assert len(set(seeds)) == len(seeds) == 20 and not set(seeds) & others


def test_every_seed_of_an_arm_is_run(tmp_path, monkeypatch):
    """Unless --seeds says otherwise: the seeds of what is planted anew are not 1 to 5."""
    monkeypatch.setattr(archive, "LOGS", tmp_path)
    started = []
    monkeypatch.setattr(run, "run_all", lambda todo, jobs: started.extend(todo))
    for words, count in ((["--only", "planted_anew"], 20), (["--only", "long", "--seeds", "2"], 1)):
        monkeypatch.setattr(sys, "argv", ["run", *words])
        assert run.main() is None and len(started) == count
        started.clear()


def test_easy_problems_are_products():
    """1 * a * b: nothing that a search could miss; some are held out."""
    problems = problems_of(str(HERE / "experiments/easy.jsonl"))
    assert all(p.numbers[0] == 1 and p.target == math.prod(p.numbers) for p in problems)
    held_out = sum(map(is_held_out, problems))
    assert held_out == planted_anew.ARMS["starved_easy"].flags["eval_problems"]
    assert len(problems) - held_out == 12


@pytest.mark.parametrize("name", [name for name, arm in ARMS.items() if arm.edits])
def test_edits_apply(name):
    """Each line that an edit replaces stands in the script, once."""
    assert edited(ARMS[name]) != edited(ARMS["grpo"])
    compile(edited(ARMS[name]), name, "exec")


@pytest.mark.slow
def test_pairs_are_those_that_compose():
    """The list is what compose says of all pairs: which, and in which order."""
    found = [composition.in_some_order(*pair)[0] for pair in itertools.combinations(pairs.PARTS, 2)]
    assert tuple(order for order in found if order) == pairs.PAIRS


def test_the_list_loads_no_torch_and_composes_nothing():
    program = (
        "import sys; from experiments import run; sys.argv = ['run', '--list']; run.main(); "
        "from compose.edits import edits_between; "
        "print('torch' in sys.modules, edits_between.cache_info().misses)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=HERE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *listed, last = done.stdout.splitlines()
    assert last == "False 0"
    assert "  kl_0             5/5  python grpo.py --seed 1 --steps 20" in "\n".join(listed)


# ---- The packed logs ----------------------------------------------------------------------------


def test_every_log_is_in_the_zip_of_its_experiment():
    """A log in another zip would never be found."""
    arms = {}
    for file in archive.LOGS.glob("*.zip"):
        with zipfile.ZipFile(file) as packed:
            names = packed.namelist()
            assert {member.date_time for member in packed.infolist()} == {archive.DATE}
        assert names == sorted(names)
        for name in names:
            arm, seed = re.fullmatch(r"(.+)-seed(\d+)\.jsonl", name).groups()
            assert DEFINED_IN[arm] == file.stem
            arms.setdefault(arm, []).append(int(seed))
    assert arms.keys() == ARMS.keys()
    assert all(set(seeds) >= set(ARMS[arm].seeds) for arm, seeds in arms.items())


def test_a_saved_run_is_read_back(tmp_path, monkeypatch):
    """Its newest version, and runs beside it stay; a name finds it, in no other spelling."""
    monkeypatch.setattr(archive, "LOGS", tmp_path)
    arm = "dapo+reinforce_pp"
    other = "dapo+reinforce_pp_baseline"
    assert archive.seeds_of(arm) == [] and archive.find(f"{arm}-seed2") is None
    archive.save(arm, 2, ['{"seed": 2}', '{"step": 1}'])
    archive.save(other, 7, ['{"seed": 7}'])
    archive.save(arm, 10, ['{"seed": 10}'])
    archive.save(arm, 2, ['{"seed": 2}', '{"step": 3}'])
    assert archive.read(arm, 2) == [{"seed": 2}, {"step": 3}]
    assert archive.seeds_of(arm) == [2, 10] and archive.seeds_of(other) == [7]
    assert archive.find(f"{arm}-seed10") == (arm, 10)
    for name in (f"{arm}-seed3", arm, "reinforce_pp-seed2", "nothing-seed1", f"{arm}-seed²"):
        assert archive.find(name) is None
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.zip"]


def test_one_more_run_moves_no_verdict(tmp_path, monkeypatch):
    """Its seed is none of the arm's own: a name finds it, tables and figures leave it out."""
    rows = archive.read("long", 2)
    monkeypatch.setattr(archive, "LOGS", tmp_path)
    for seed in (2, 77):
        archive.save("long", seed, map(json.dumps, rows))
    assert archive.find("long-seed77") == ("long", 77)
    curves.load.cache_clear()
    assert curves.load("long") == {2: rows[1:]}
    assert [run.name for run in runs.committed("long")] == ["long-seed2"]
    curves.load.cache_clear()


def test_the_log_of_a_run_that_stopped_is_kept(tmp_path, monkeypatch):
    """An update that breaks the model is a result; any other refusal leaves no log."""
    rows = ['{"step": 0, "eval_accuracy": 0.3}']

    def train(config):
        Path(config.output_dir).mkdir(parents=True)
        (Path(config.output_dir) / "metrics.jsonl").write_text("\n".join(rows))
        raise InputError("step 1: update 2 broke the model")

    module = SimpleNamespace(Config=lambda **options: SimpleNamespace(**options), train=train)
    monkeypatch.setattr(run, "prepare", lambda arm: module)
    monkeypatch.setattr(archive, "LOGS", tmp_path)
    monkeypatch.setitem(ARMS, "long", Arm("grpo", {"steps": 14}))
    monkeypatch.setattr(run, "RUNS", tmp_path / "refused")
    with pytest.raises(InputError):
        run.run_one("long", 1)
    assert archive.seeds_of("long") == []
    rows.append('{"step": 1, "stopped": "step 1: update 2 broke the model"}')
    monkeypatch.setattr(run, "RUNS", tmp_path / "stopped")
    run.run_one("long", 1)
    assert archive.read("long", 1)[-1]["stopped"].startswith("step 1")


def test_equal_logs_make_equal_zips(tmp_path, monkeypatch):
    """Whatever the order in which runs end, and whenever that is."""
    written = []
    for folder, seeds in (("a", (1, 2, 3)), ("b", (3, 1, 2))):
        monkeypatch.setattr(archive, "LOGS", tmp_path / folder)
        for seed in seeds:
            archive.save("long", seed, [f'{{"seed": {seed}}}'])
        written.append(archive.zip_of("long").read_bytes())
    assert written[0] == written[1]


def test_runs_that_end_at_once_are_all_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "LOGS", tmp_path)
    threads = [
        threading.Thread(target=archive.save, args=("grpo", seed, ['{"seed": 0}'] * 500))
        for seed in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert archive.seeds_of("grpo") == list(range(12))

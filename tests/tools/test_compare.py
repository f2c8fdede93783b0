"""tools/compare.py: differences with their noise, committed seeds as a range, one clear line."""

import json
import sys
from statistics import fmean

from runtime.intervals import prediction

import pytest

from experiments import archive, runs
from experiments.catalogue import ARMS
from tools import compare

STEPS = 12


def write_run(folder, script="grpo", **columns):
    """A run of STEPS steps whose metrics are these lists, and one evaluation at the end."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"script": script}))
    always = dict.fromkeys(["reward", "accuracy", "length", "entropy"], [1.0] * STEPS)
    columns = {**always, **columns}
    rows = [{"step": i + 1, **{k: v[i] for k, v in columns.items()}} for i in range(STEPS)]
    rows.append({"step": STEPS, "eval_accuracy": columns["accuracy"][-1]})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_difference_by_hand():
    """Gaps of 1, 2 and 3: 2 on average; standard error 1 / sqrt(3), t of two degrees 4.303."""
    gap, half = compare.difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert gap == 2 and half == pytest.approx(4.302653 / 3**0.5)
    assert compare.difference([2.0], [1.0]) == (1.0, None)  # an evaluation


def test_window_by_hand():
    """The last quarter, at least three steps, of the shorter run; no step before the first."""
    of = {
        n: runs.Run("a", "grpo", [{"step": step} for step in range(1, n + 1)], [])
        for n in (1, 6, 40)
    }
    assert compare.window([of[40]], None) == (31, 40)
    assert compare.window([of[40], of[6]], None) == (4, 6)
    assert compare.window([of[1]], None) == (1, 1)
    assert compare.window([of[40]], "6-10") == (6, 10)
    assert compare.window([of[40]], "7") == (7, 7)


def printed(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["compare", *map(str, words)])
    compare.main()
    return capsys.readouterr().out


def test_two_runs(tmp_path, monkeypatch, capsys):
    """Longer in every step, an entropy that only scatters, and a picture."""
    scatter = [0.1, 0.3] * 6
    one = write_run(tmp_path / "one", length=[50.0] * STEPS, entropy=scatter)
    two = write_run(tmp_path / "two", length=[80.0] * STEPS, entropy=scatter[::-1])
    picture = tmp_path / "c.png"
    text = printed(monkeypatch, capsys, one, two, "--steps", "9-12", "--figure", picture)
    rows = {line.split()[0]: line.rstrip() for line in text.splitlines()}
    assert "means over steps 9 to 12" in text
    assert rows["length"].endswith("80 (+30 ± 0)*")
    assert rows["entropy"].split()[1] == "0.2" and not rows["entropy"].endswith("*")
    assert "kl_ref" not in rows and picture.stat().st_size > 10_000


def test_the_steps_of_both_are_compared(tmp_path):
    """Of two runs that are alike wherever both have a number, neither is starred."""
    columns = {}
    for name, missing in (("one", 7), ("two", 12)):
        lengths = [float(step * step) for step in range(1, STEPS + 1)]
        lengths[missing - 1] = None
        columns[name] = runs.read(write_run(tmp_path / name, length_wrong=lengths))
    lines = compare.table(list(columns.values()), {}, 6, 12)
    row = next(line for line in lines if line.startswith("length_wrong"))
    mine = compare.number((36 + 64 + 81 + 100 + 121 + 144) / 6)
    both = compare.number((36 + 64 + 81 + 100 + 121) / 5)
    assert row.split(maxsplit=2) == ["length_wrong", mine, f"{both} (+0 ± 0)"]
    assert compare.against({1: 2.0}, {2: 2.0}) == "-"


@pytest.mark.slow
def test_committed_seeds(tmp_path, monkeypatch, capsys):
    """A run of the arm itself lies within its seeds; one that is far off gets a star."""
    far = write_run(tmp_path / "far", length_wrong=[40.0] * STEPS)
    options = ("--committed", "first_grpo", "--figure", tmp_path / "c.png")
    for path, inside in (("first_grpo-seed1", True), (far, False)):
        text = printed(monkeypatch, capsys, path, *options)
        row = next(line for line in text.splitlines() if line.startswith("length_wrong"))
        assert row.rstrip().endswith("*") != inside and " to " in row


def test_evaluations_of_one_step_are_compared():
    """Accuracy rises: that of step 10 against that of step 8 would be a difference of steps."""

    def run(evaluations):
        rows = [{"step": step, "eval_accuracy": found} for step, found in evaluations.items()]
        return runs.Run("a", "grpo", [], rows)

    mine = run({0: 0, 5: 5, 10: 10})
    other = run({0: 0, 4: 4, 8: 8})
    same = run({0: 7, 10: 7, 20: 7})
    rows = compare.table([mine, other, same], {"arm": [other, same, same]}, 1, 12)
    assert rows[1].split() == ["eval_accuracy", "10", "-", "7", "(-3)", "7", "to", "7*"]
    assert len(compare.table([mine], {}, 6, 9)) == 1  # none in these steps, so none is shown


def test_a_band_spans_the_seeds_where_all_have_a_number():
    rows = [{1: 3.0, 2: 5.0, 3: 1.0}, {1: 4.0, 2: 2.0}]
    seeds = [runs.Run("a", "grpo", [{"step": s, "x": x} for s, x in r.items()], []) for r in rows]
    steps, low, high = compare.band(seeds, "x")
    assert (list(steps), low, high) == ([1, 2], [3.0, 2.0], [4.0, 5.0])


def test_another_task_is_no_fair_comparison(tmp_path, monkeypatch, capsys):
    """Of another run, or of a committed arm, which is on Countdown."""
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two")
    (two / "config.json").write_text('{"script": "grpo", "task": "tasks.question_task"}')
    monkeypatch.setattr(compare, "draw", lambda *_: None)
    for words, said in (
        ((one, two), True),
        ((two, "--committed", "long"), True),
        ((two, two), False),
        ((one, "--committed", "long"), False),
    ):
        assert ("no fair comparison" in printed(monkeypatch, capsys, *words)) == said


def test_one_more_seed_by_hand():
    """Seeds 1, 2, 3: 2 ± t of two degrees, 4.303, times sqrt(1 + 1/3). One alone is no judge."""
    low, high = prediction([1.0, 2.0, 3.0])
    assert high - 2 == pytest.approx(4.302653 * (4 / 3) ** 0.5) and 2 - low == high - 2
    assert compare.range_of([1.0, 2.0, 3.0], 6.9) == "1 to 3"
    assert compare.range_of([1.0, 2.0, 3.0], 7.0) == "1 to 3*"
    assert compare.range_of([1.0], 7.0) == "1 to 1"


def test_rounding_is_no_difference():
    """Logs are rounded, runs are not: the same evaluation must not get a star."""
    assert compare.range_of([0.6276, 0.6276], 0.6276041666) == "0.628 to 0.628"
    assert compare.range_of([0.6276, 0.6276], 0.6302083333) == "0.628 to 0.628*"


@pytest.mark.slow
def test_how_many_stars_chance_gives():
    """Every seed of the arms of five or more against its siblings: compare's docstring."""
    judged = starred = between = of_pairs = 0
    for arm in (arm for arm in ARMS if len(archive.compared_seeds(arm)) >= 5):
        seeds = runs.committed(arm)
        if not all(run.training for run in seeds):  # it broke at once
            continue
        first, last = compare.window(seeds, None)
        for metric in compare.METRICS:
            values = [found for run in seeds if (found := run.at(metric, first, last))]
            if len(values) < 5:
                continue
            means = [fmean(found.values()) for found in values]
            for index, mine in enumerate(means):
                judged += 1
                siblings = means[:index] + means[index + 1 :]
                starred += compare.range_of(siblings, mine).endswith("*")
            for one, other in (values[:2], values[2:4]):
                if not metric.startswith("eval_") and len(one.keys() & other.keys()) > 1:
                    between += compare.against(one, other).endswith("*")
                    of_pairs += 1
    assert judged > 10_000 and of_pairs > 4_000
    assert round(100 * starred / judged) == 6
    assert round(100 * between / of_pairs) == 18


def test_the_spread_of_older_logs(tmp_path):
    """The probes' number of the script's own ratio stands in; nothing for a script made up."""
    columns = {
        "log_ratio_rms": [0.5] * STEPS,
        "sequence_log_ratio_rms": [0.1] * STEPS,
        "product_log_ratio_rms": [4.0] * STEPS,
    }
    for script, spread in (("gspo", [0.1]), ("grpo", [0.5]), ("zoo.rloo", [4.0]), ("mine", [])):
        run = runs.read(write_run(tmp_path / script, script, **columns))
        assert run.over("ratio_spread", 1, 1) == spread
    own = runs.read(write_run(tmp_path / "own", "gspo", **columns, ratio_spread=[0.2] * STEPS))
    assert own.over("ratio_spread", 1, 1) == [0.2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: no run here"),
        (["one", "--steps", "9-5"], "--steps 9-5: one step or two, such as 6-10"),
        (["one", "--steps", "x"], "--steps x: one step or two"),
        (["one", "--steps", "5-99"], "--steps 5-99: the shortest run has 12 steps"),
        (["one", "--steps", "0-5"], "--steps 0-5: one step or two"),
        (["one", "--steps", "²"], "--steps ²: one step or two"),
        (["one", "--committed", "stale_symetric"], "--committed stale_symetric: no arm"),
        (["one", "--committed", "stale_symetric"], "stale_symmetric"),
        (["one", "--figure", "nowhere/a.png"], "--figure nowhere/a.png: there is no folder"),
        (["one", "--figure", "a.xyz"], "--figure a.xyz: let it end in .png"),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "one")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["compare", *words])
    with pytest.raises(SystemExit) as stopped:
        compare.main()
    errors = capsys.readouterr().err
    assert stopped.value.code == 2 and message in errors and errors.count("\n") == 1

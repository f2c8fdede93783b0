"""tools/diagnose.py: each symptom shows when planted, and only then."""

import json
import subprocess
import sys

import pytest

import common
from experiments import runs, symptoms
from tools import diagnose

STEPS = 20


def rise(start, end):
    return [start + (end - start) * step / (STEPS - 1) for step in range(STEPS)]


def run(**changed):
    """Rows of a healthy run: accuracy up, length with it, the clip quiet."""
    columns = {
        "accuracy": rise(0.3, 0.8),
        "reward": rise(0.4, 0.9),
        "reward_answer": rise(0.3, 0.8),
        "reward_format": [1.0] * STEPS,
        "length": rise(50, 100),
        "length_right": rise(45, 80),
        "length_wrong": rise(50, 180),
        "entropy": rise(0.1, 0.085),
        "kl_old": [1e-4] * STEPS,
        "kl_ref": rise(0.0, 0.04),
        "ratio_max": [1.5] * STEPS,
        "clipped_low": [1e-4] * STEPS,
        "clipped_high": [1e-4] * STEPS,
        "clipped_uncertain": [1e-3] * STEPS,
        "groups_without_signal": rise(0.0, 0.2),
        "truncated": rise(0.0, 0.1),
        "grad_norm": [0.1] * STEPS,
        **changed,
    }
    return [
        {"step": step + 1, **{name: values[step] for name, values in columns.items()}}
        for step in range(STEPS)
    ]


def shown(rows, script="grpo"):
    return {finding.symptom for finding in symptoms.findings(script, rows) if finding.shown}


PLANTED = {
    "training breaks": {"accuracy": [0.3] * 5 + [0.8] * 8 + [0.5] * 7, "length": [50] * STEPS},
    "reward rises, accuracy does not": {"accuracy": [0.3] * STEPS, "length": [50] * STEPS},
    "completions are cut off": {"truncated": rise(0.0, 0.6)},
    "length grows without accuracy": {"accuracy": rise(0.5, 0.51), "reward": rise(0.5, 0.51)},
    "entropy collapses": {"entropy": rise(0.1, 0.02)},
    "token ratios are noisy": {"kl_old": rise(1e-4, 1e-2)},
    "reward components collide": {"reward_brevity": rise(0.5, 0.4)},
    "uncertain tokens are clipped": {"clipped_uncertain": rise(0.1, 0.01)},
    "groups without signal": {"groups_without_signal": rise(0.0, 0.6)},
    "policy far from the start": {"kl_ref": rise(0.0, 2.0)},
}


def test_healthy_run():
    """A false alarm sends the reader to the wrong axis; every symptom has a plant and a panel."""
    assert shown(run()) == set()
    assert list(PLANTED) == list(symptoms.SYMPTOMS)


@pytest.mark.parametrize("symptom", PLANTED)
def test_planted_symptom(symptom):
    """The symptom shows, and no other does."""
    assert shown(run(**PLANTED[symptom])) == {symptom}


def test_what_the_script_cannot_show():
    """These clips stop no single tokens; without a reference there is no KL."""
    rows = run(clipped_uncertain=rise(0.1, 0.01), kl_ref=[None] * STEPS)
    for script in ("cispo", "gspo", "rloo"):
        assert shown(rows, script) == set()
    assert shown(run(clipped_uncertain=[None] * STEPS)) == set()
    assert shown(rows, "gmpo") == {"uncertain tokens are clipped"}  # its clip is on tokens


def test_one_completion_per_problem():
    """reinforce_pp.py and spo.py have no groups: nothing to say of them, and no error."""
    rows = run(groups_without_signal=[None] * STEPS)
    for row in rows:  # spo.py has no reference either
        del row["kl_ref"]
    assert shown(rows, "spo") == set()


def test_a_reward_model_is_no_component():
    """prime.py logs how well it ranks: 0.5 that does not rise collides with nothing."""
    rows = run(reward_auc=[0.5] * STEPS, reward_auc_seen=[0.7] * STEPS)
    assert shown(rows, "prime") == set()
    assert symptoms.component_names(rows) == ["reward_answer", "reward_format"]


def test_evidence_says_what_the_number_is():
    """ttrl.py's reward is no verdict, and in rloo.py groups of equal rewards train on the KL."""

    def evidence(script, symptom):
        found = symptoms.findings(script, run(**PLANTED[symptom]))
        return next(part.evidence for part in found if part.symptom == symptom)

    for symptom in ("reward rises, accuracy does not", "reward components collide"):
        assert "agreement with the vote" in evidence("ttrl", symptom)
        assert "vote" not in evidence("grpo", symptom)
    assert "the KL" in evidence("rloo", "groups without signal")
    assert "the KL" not in evidence("grpo", "groups without signal")


def test_a_committed_run_of_the_zoo():
    """Logs name the module, zoo.rloo, and runs the file, rloo: one script."""
    found = runs.read("rloo-seed1")
    assert (found.name, found.script, len(found.training)) == ("rloo-seed1", "rloo", 30)
    assert [row["step"] for row in found.evaluations] == list(range(0, 31, 5))


def test_a_directory_is_taken_before_a_committed_run(tmp_path, monkeypatch):
    """Both may have the name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rloo-seed1").mkdir()
    assert runs.read("rloo-seed1").script == "rloo"  # nothing in it yet
    write_run(tmp_path / "rloo-seed1", run())
    assert runs.read("rloo-seed1").script == "grpo"


def write_run(folder, rows):
    (folder / "config.json").write_text(json.dumps({"script": "grpo"}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.slow
def test_command_line(tmp_path):
    """The command that the README gives, on a run directory: what is shown, and its panels."""
    write_run(tmp_path, [*run(**PLANTED["training breaks"]), {"step": 0, "eval_accuracy": 0.3}])
    command = [sys.executable, "-m", "tools.diagnose", tmp_path]
    done = subprocess.run(command, cwd=common.HERE, capture_output=True, text=True)
    assert done.returncode == 0
    assert "SHOWN  training breaks: accuracy 30 points below" in done.stdout
    assert (tmp_path / "diagnosis.png").stat().st_size > 10_000


def test_no_run_or_a_short_one_is_one_clear_line(tmp_path, monkeypatch, capsys):
    """Quarters of a few steps are noise, and a traceback is no answer to a wrong path."""
    write_run(tmp_path, run()[:7])
    for path, message in (
        (tmp_path, "at least 8 are needed"),
        ("nowhere", "no run here"),
        ("hot_token", "a committed run such as grpo-seed1"),
        ("hot_token-seed99", "hot_token-seed99: no run here"),
    ):
        monkeypatch.setattr("sys.argv", ["diagnose.py", str(path)])
        with pytest.raises(SystemExit) as stopped:
            diagnose.main()
        assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_no_place_for_the_panels_is_one_clear_line(tmp_path, monkeypatch, capsys):
    write_run(tmp_path, run())
    for name, message in (("no/a.png", "there is no folder"), ("a.xyz", "let it end in .png")):
        monkeypatch.setattr("sys.argv", ["diagnose.py", str(tmp_path), "--figure", name])
        with pytest.raises(SystemExit) as stopped:
            diagnose.main()
        written = capsys.readouterr().err
        assert stopped.value.code == 2 and message in written and written.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "names", "parts"),
    [
        ("grpo", [], []),
        ("grpo", ["groups without signal"], ["dapo:sampling"]),
        ("dapo", ["groups without signal"], ["dapo"]),  # it has that lever
        (
            "dr_grpo",
            ["token ratios are noisy", "groups without signal"],
            ["dr_grpo", "gspo", "dapo:sampling"],
        ),
        # A cap on single weights does not go with one ratio for the completion.
        ("gspo", ["uncertain tokens are clipped", "reward components collide"], ["gspo", "gdpo"]),
        ("mine", ["reward components collide"], ["gdpo"]),
        ("mine", ["reward components collide", "training breaks"], []),  # one thing at a time
        ("grpo", ["completions are cut off", "groups without signal"], ["dapo:sampling"]),
    ],
)
def test_it_composes_the_levers(script, names, parts):
    found = [symptoms.Finding(name, name in names, "") for name in symptoms.SYMPTOMS]
    assert diagnose.composed(script, found) == parts


def test_the_command_of_the_levers(tmp_path, capsys, monkeypatch):
    """Its last line, for a run in which groups fall silent."""
    write_run(tmp_path, run(groups_without_signal=rise(0.0, 0.6)))
    monkeypatch.setattr(sys, "argv", ["diagnose", str(tmp_path)])
    diagnose.main()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith("python -m compose dapo:sampling -o mine.py && python mine.py")


def test_breakage_comes_first(tmp_path, capsys, monkeypatch):
    """A run that broke is told to take smaller steps, before anything else."""
    broken = {**PLANTED["training breaks"], **PLANTED["uncertain tokens are clipped"]}
    write_run(tmp_path, run(**broken))
    monkeypatch.setattr(sys, "argv", ["diagnose", str(tmp_path)])
    diagnose.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("SHOWN  training breaks") and "smaller steps first" in lines[2]
    assert lines[3].startswith("SHOWN  uncertain tokens") and "compose" not in lines[-1]


def test_thresholds_are_drawn_where_they_are_tested():
    """The line in a panel is the number in the evidence."""
    quarters = symptoms.Quarters(run())
    drawn = {n: s.threshold(quarters) for n, s in symptoms.SYMPTOMS.items() if s.threshold}
    found = {f.symptom: f.evidence for f in symptoms.findings("grpo", run())}
    assert drawn["entropy collapses"] == pytest.approx(0.6 * quarters.first("entropy"))
    assert drawn["length grows without accuracy"] == pytest.approx(1.25 * quarters.first("length"))
    for name, text in (
        ("completions are cut off", "threshold 25 %"),
        ("uncertain tokens are clipped", "threshold 2 %"),
        ("groups without signal", "threshold 30 %"),
        ("training breaks", "threshold 6"),
    ):
        assert text in found[name]
    assert drawn["training breaks"] == pytest.approx(quarters.best("accuracy") - 0.06)

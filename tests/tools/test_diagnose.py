"""tools/diagnose.py: each symptom shows when planted, and only then."""

import importlib
import json
import shlex
import subprocess
import sys

from runtime import options

import pytest

import common
from compose import composition, reader
from experiments import runs, symptoms
from tools import diagnose, levers

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
    "every completion is cut": {"truncated": [1.0] * STEPS},
    "never writes the format": {
        **dict.fromkeys(("accuracy", "reward", "reward_answer", "reward_format"), [0.0] * STEPS),
        "length": [50] * STEPS,
    },
    "completions are cut off": {"truncated": rise(0.0, 0.6)},
    "length grows without accuracy": {"accuracy": rise(0.5, 0.51), "reward": rise(0.5, 0.51)},
    "entropy collapses": {"entropy": rise(0.1, 0.02)},
    "token ratios are noisy": {"kl_old": rise(1e-4, 1e-2)},
    "sampler and update disagree": {"sampler_kl": [5e-3] * STEPS},
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
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"script": "grpo"}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


# ---- What a run is ------------------------------------------------------------------------------

SILENT = {"groups_without_signal": [1.0] * STEPS, "reward": [0.1] * STEPS, "length": [50] * STEPS}
NEVER_RIGHT = {"accuracy": [0.0] * STEPS, "reward_answer": [0.0] * STEPS}
HACK = {"accuracy": rise(0.6, 0.3), "length": [50] * STEPS}
COLLAPSE = {"accuracy": rise(0.8, 0.0), "reward": rise(0.9, 0.0), "length": [50] * STEPS}
STATES = {  # what is planted: the state, what its evidence says, the symptom whose lever is first
    "healthy": ({}, "healthy", "0.1)", None),
    "collapse": (COLLAPSE, "broken", "at best (threshold: half)", "training breaks"),
    "explosion": ({"kl_old": [0.3] * STEPS}, "broken", "3.0e-01 (threshold 0.1)", None),
    "entropy": ({"entropy": rise(0.1, 0.5)}, "broken", "(threshold 2)", "training breaks"),
    "hack": (HACK, "hacked", "(threshold: a third): it falls", "reward rises, accuracy does not"),
    "hack to 0": (
        {**HACK, "accuracy": rise(0.6, 0.0)},
        "hacked",
        "it falls",
        "reward rises, accuracy does not",
    ),
    "useless": (PLANTED["reward rises, accuracy does not"], "hacked", "it does not rise", None),
    "all wrong": (
        {**SILENT, **NEVER_RIGHT},
        "starved",
        "100 % of the groups without signal (threshold 80 %); 0.0 % right (thresholds 1 % and 99",
        "groups without signal",
    ),
    "format alone": (
        {**NEVER_RIGHT, "reward": rise(0.05, 0.09), "length": [50] * STEPS},
        "starved",
        "0.0 % right",
        "groups without signal",
    ),
    "all right": (
        {**SILENT, "accuracy": [0.995] * STEPS},
        "starved",
        "99.5 % right",
        "groups without signal",
    ),
    "all cut": (
        {**SILENT, **NEVER_RIGHT, "truncated": [1.0] * STEPS},
        "starved",
        "every completion is cut: 100 %",
        "every completion is cut",
    ),
    "no format": (
        {**SILENT, **NEVER_RIGHT, "reward_format": [0.01] * STEPS, "reward": [0.0] * STEPS},
        "starved",
        "never writes the format: 1 %",
        "never writes the format",
    ),
    # Precedence: broken, hacked, starved.
    "broken and hacked": ({**HACK, "kl_old": [0.3] * STEPS}, "broken", "KL", "training breaks"),
    "hacked and starved": (
        {**SILENT, **NEVER_RIGHT, "reward": rise(0.1, 0.9)},
        "hacked",
        "it does not rise",
        "reward rises, accuracy does not",
    ),
    "broken and starved": ({**SILENT, **COLLAPSE}, "broken", "", None),
}


@pytest.mark.parametrize("name", STATES)
def test_state(name):
    """The state's word, its number with the threshold, and a row whose lever is the first."""
    planted, word, evidence, symptom = STATES[name]
    rows = run(**planted)
    found = symptoms.state("grpo", rows)
    assert found.word == word and evidence in found.evidence
    assert symptom in (None, found.symptom) and (found.symptom is None) == (word == "healthy")
    assert word == "healthy" or found.symptom in shown(rows)
    assert "(threshold" in found.evidence and "\n" not in found.evidence


@pytest.mark.parametrize(
    ("planted", "word"),
    [
        ({"groups_without_signal": [0.79] * STEPS}, "healthy"),
        ({"groups_without_signal": [0.81] * STEPS}, "starved"),
        ({"accuracy": [0.985] * STEPS, "reward": [1.0] * STEPS, "length": [50] * STEPS}, "healthy"),
        ({"accuracy": [0.995] * STEPS, "reward": [1.0] * STEPS, "length": [50] * STEPS}, "starved"),
        ({"kl_old": [0.09] * STEPS}, "healthy"),
        ({"kl_old": [0.11] * STEPS}, "broken"),
        ({"entropy": rise(0.1, 0.2)}, "healthy"),  # x 1.7 from quarter to quarter
        ({"entropy": rise(0.1, 0.27)}, "broken"),  # x 2.1
        ({"accuracy": [0.015] * STEPS, "reward": [0.1] * STEPS, "length": [50] * STEPS}, "healthy"),
        ({"accuracy": [0.005] * STEPS, "reward": [0.1] * STEPS, "length": [50] * STEPS}, "starved"),
        ({"accuracy": rise(0.2, 0.08), "reward": [0.2] * STEPS}, "healthy"),  # by chance
        ({"accuracy": [0.8] * 10 + [0.45] * 10, "reward": [0.5] * STEPS}, "healthy"),
        ({"accuracy": [0.8] * 10 + [0.35] * 10, "reward": [0.5] * STEPS}, "broken"),
    ],
)
def test_states_begin_at_their_thresholds(planted, word):
    assert symptoms.state("grpo", run(**planted)).word == word


@pytest.mark.parametrize(
    ("metric", "below", "above", "symptom"),
    [
        ("truncated", 0.94, 0.96, "every completion is cut"),
        ("truncated", 0.96, 0.94, "completions are cut off"),
        ("reward_format", 0.06, 0.04, "never writes the format"),
        ("sampler_kl", 1.9e-3, 2.1e-3, "sampler and update disagree"),
        ("kl_old", 0.9e-3, 1.1e-3, "token ratios are noisy"),
        ("clipped_uncertain", 0.019, 0.021, "uncertain tokens are clipped"),
        ("groups_without_signal", 0.29, 0.31, "groups without signal"),
        ("kl_ref", 0.19, 0.21, "policy far from the start"),
    ],
)
def test_new_symptoms_begin_at_their_thresholds(metric, below, above, symptom):
    for value, is_shown in ((below, False), (above, True)):
        assert (symptom in shown(run(**{metric: [value] * STEPS}))) == is_shown


def test_entropy_collapses_below_three_fifths_of_what_it_was():
    for left, is_shown in ((0.061, False), (0.059, True)):
        rows = run(entropy=[0.1] * 10 + [left] * 10)
        assert ("entropy collapses" in shown(rows)) == is_shown


def test_held_out_accuracy_that_is_gone():
    """Old rollouts look well after the policy has broken: the evaluations have the word."""
    evaluations = [{"step": 0, "eval_accuracy": 0.3}, {"step": 20, "eval_accuracy": 0.1}]
    found = symptoms.state("grpo", run(), evaluations)
    assert found.word == "broken" and "held out 10 %, 30 % at best" in found.evidence
    assert "training breaks" in {
        one.symptom for one in symptoms.findings("grpo", run(), evaluations) if one.shown
    }
    evaluations[-1]["eval_accuracy"] = 0.2
    assert symptoms.state("grpo", run(), evaluations).word == "healthy"
    evaluations.insert(1, {"step": 10, "eval_accuracy": 0.5})  # it had risen in between
    assert symptoms.state("grpo", run(), evaluations).word == "broken"


def test_one_completion_per_problem_may_starve():
    """Without groups the verdicts alone say so."""
    rows = run(groups_without_signal=[None] * STEPS, **NEVER_RIGHT, reward=[0.1] * STEPS)
    assert symptoms.state("spo", rows).word == "starved"


def test_a_number_that_is_not_finite_breaks_a_run(tmp_path):
    """Its name and its step are said; rows without it are still read."""
    rows = run()
    rows[12]["grad_norm"] = float("nan")
    write_run(tmp_path, rows)
    found = runs.read(tmp_path)
    assert found.fatal == "grad_norm is nan in step 13" and len(found.training) == STEPS
    assert symptoms.state("grpo", found.training, fatal=found.fatal).word == "broken"
    write_run(tmp_path, [row | {"peak_memory_mb": float("nan")} for row in run()])  # on Windows
    assert runs.read(tmp_path).fatal == ""


@pytest.mark.parametrize("count", [0, 3, 12])
def test_a_run_that_stopped_is_broken(count, tmp_path, capsys, monkeypatch):
    """However short it is: its message is quoted, and the way on is a command."""
    message = "step 4: update 2 broke the model (gradient norm nan)"
    write_run(tmp_path, [*run()[:count], {"step": count + 1, "stopped": message}])
    monkeypatch.setattr(diagnose, "draw", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["diagnose", str(tmp_path)])
    diagnose.main()
    first, *rest = capsys.readouterr().out.splitlines()
    assert f'is broken: it stopped: "{message}"' in first
    assert any(
        line.startswith("         try  python grpo.py --learning_rate 5e-05") for line in rest
    )
    assert any("at least 8 are needed" in line for line in rest) == (count < 8)


def test_the_reward_row_says_which():
    """One row for accuracy that falls, stays, or rises far less than what is paid."""

    def evidence(last):
        found = symptoms.findings("grpo", run(accuracy=rise(0.3, last), reward=rise(0.1, 0.9)))
        return next(f.evidence for f in found if f.symptom == "reward rises, accuracy does not")

    assert evidence(0.1).endswith("it falls") and evidence(0.3).endswith("it does not rise")
    assert evidence(0.45).endswith("it rises far less") and evidence(0.9).endswith("a third)")


def test_what_is_not_logged_says_how_to_see_it():
    rows = [{k: v for k, v in row.items() if k != "reward_format"} for row in run()]
    found = {f.symptom: f for f in symptoms.findings("grpo", rows)}
    told = found["sampler and update disagree"]
    assert not told.shown and told.evidence.startswith("not logged; python -m zoo.tis")
    assert "not logged" in found["never writes the format"].evidence


def test_the_cause_of_silence_is_shown_alone():
    """Neither harder problems nor a refill help where all is cut, or nothing is in the format."""
    for name in ("all cut", "no format"):
        found = shown(run(**STATES[name][0]))
        assert "groups without signal" not in found and "completions are cut off" not in found


# ---- The command line ---------------------------------------------------------------------------


def tried(folder, monkeypatch, capsys, settings=None, **changed):
    """The commands that are given for a run with these options."""
    write_run(folder, run(**changed))
    if settings:
        (folder / "config.json").write_text(json.dumps(settings))
    monkeypatch.setattr(diagnose, "draw", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["diagnose", str(folder)])
    diagnose.main()
    lines = capsys.readouterr().out.splitlines()
    return [line.partition(" try  ")[2] for line in lines if " try  " in line]


@pytest.mark.parametrize(
    ("settings", "planted", "command"),
    [
        ({"script": "grpo", "max_new_tokens": 256}, {"truncated": rise(0, 0.6)}, "512"),
        ({"script": "grpo", "max_new_tokens": 12}, STATES["all cut"][0], "256"),
    ],
)
def test_a_larger_budget_is_a_command(settings, planted, command, tmp_path, monkeypatch, capsys):
    (given,) = tried(tmp_path / "cut", monkeypatch, capsys, settings, **planted)
    assert given == f"python grpo.py --max_new_tokens {command} --output_dir runs/cut-next"


COMMANDS = {  # symptom: what is planted, the run's options, and the command
    "temperature": (
        STATES["no format"][0],
        {"script": "cispo", "temperature": 6.0, "seed": 2},
        "python cispo.py --seed 2 --temperature 1 --output_dir runs/x-next",
    ),
    "another model": (
        STATES["no format"][0],
        {"script": "cispo"},
        "python cispo.py --model Qwen/Qwen2.5-1.5B-Instruct --output_dir runs/x-next",
    ),
    "a verifier": (
        HACK,
        {"script": "rloo", "reward_components": ["claim"], "reward_weights": [2.0]},
        "python -m zoo.rloo --reward_components answer --reward_weights 1 --output_dir runs/x-next",
    ),
    "no vote": (
        HACK,
        {"script": "ttrl", "steps": 9},
        "python grpo.py --steps 9 --output_dir runs/x-next",
    ),
    "smaller steps": (
        COLLAPSE,
        {"script": "grpo", "learning_rate": 1e-3, "minibatches": 12, "prompts_per_step": 12},
        "python grpo.py --prompts_per_step 12 --learning_rate 0.0002 --minibatches 4 "
        "--output_dir runs/x-next",
    ),
    "the usual problems": (
        STATES["all wrong"][0],
        {"script": "grpo", "operands": 4, "max_number": 20},
        "python grpo.py --operands 3 --max_number 12 --output_dir runs/x-next",
    ),
    "harder problems": (
        STATES["all right"][0],
        {"script": "grpo", "data": "a b.jsonl"},
        "python grpo.py --max_number 20 --max_target 99 --output_dir runs/x-next",
    ),
    "another task's problems": (
        STATES["all right"][0],
        {"script": "grpo", "task": "tasks.question_task"},
        "python -m compose dapo:sampling -o mine.py && python mine.py --task tasks.question_task",
    ),
    "a tighter bound below": (
        PLANTED["entropy collapses"],
        {"script": "dapo", "clip_high": 0.4},
        "python dapo.py --clip_high 0.4 --clip_low 0.05 --output_dir runs/x-next",
    ),
    "a quarter of its own bound": (
        PLANTED["entropy collapses"],
        {"script": "gspo"},
        "python gspo.py --clip_low 7.5e-05 --output_dir runs/x-next",
    ),
    "more of the KL": (  # it has no bound below
        PLANTED["entropy collapses"],
        {"script": "sapo"},
        "python -m zoo.sapo --kl_coef 0.4 --output_dir runs/x-next",
    ),
    "refilled groups": (
        STATES["all wrong"][0],  # on the usual problems
        {"script": "gdpo"},
        "python -m compose gdpo dapo:sampling -o mine.py && python mine.py",
    ),
    "a corrected sampler": (
        PLANTED["sampler and update disagree"],
        {"script": "grpo", "data": "a b.jsonl; rm x", "threads": 3, "clip_low": 0.1},
        "python -m zoo.tis --clip_low 0.1 --data 'a b.jsonl; rm x' --output_dir runs/x-next",
    ),
    "its own clip": (  # gspo.py's range is another: the run's is not carried over
        PLANTED["token ratios are noisy"],
        {"script": "grpo", "clip_low": 0.1, "kl_coef": "much", "steps": 50},
        "python gspo.py --steps 50 --output_dir runs/x-next",
    ),
    "nearer the start": (
        PLANTED["policy far from the start"],
        {"script": "grpo"},
        "python grpo.py --kl_coef 0.4 --output_dir runs/x-next",
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_to_try(name, tmp_path, monkeypatch, capsys):
    """Complete: the run's own options, the lever, and a folder that is free. One for a state."""
    planted, settings, command = COMMANDS[name]
    assert tried(tmp_path / "x", monkeypatch, capsys, settings, **planted) == [command]
    if "compose" not in command:
        _, *module, rest = command.split(" ", 3 if " -m " in command else 2)
        script = module[-1].removesuffix(".py")
        options.parse_options(importlib.import_module(script).Config, words=shlex.split(rest))


@pytest.mark.parametrize("script", reader.scripts())
def test_every_script_can_be_run_again(script):
    """Whatever a log shows, from wherever it is: options that the script has, or no command."""
    found = runs.Run("runs/x", script.rpartition(".")[2], run(), [])
    for symptom in symptoms.SYMPTOMS.values():
        given = levers.with_options(found, symptom, symptoms.Quarters(found.training))
        if given and "grpo.py" not in given:
            start, module = ("python -m ", script) if "." in script else ("python ", f"{script}.py")
            assert given.startswith(start + module)
            words = shlex.split(given.removeprefix(start + module))
            options.parse_options(importlib.import_module(script).Config, words=words)


def test_no_command_where_a_script_has_neither():
    """cispo.py has no bound below and no KL: its lever is said in words."""
    found = runs.Run("runs/x", "cispo", run(**PLANTED["entropy collapses"]), [])
    collapse = symptoms.SYMPTOMS["entropy collapses"]
    assert levers.command(found, collapse, symptoms.Quarters(found.training)) is None


def test_levers_of_a_committed_composition(monkeypatch, capsys):
    """Its parts are composed again, with the lever's."""
    found = runs.read("dapo+reinforce_pp-seed1")
    assert found.parts == ("dapo", "zoo.reinforce_pp")
    q = symptoms.Quarters(found.training)
    budget = levers.command(found, symptoms.SYMPTOMS["completions are cut off"], q)
    start = "python -m compose dapo zoo.reinforce_pp -o mine.py && python mine.py --steps 20"
    assert budget.startswith(start) and " --max_new_tokens 512 " in budget
    assert levers.command(found, symptoms.SYMPTOMS["groups without signal"], q) is not None


def test_every_symptom_has_a_panel(tmp_path, monkeypatch, capsys):
    """Those that have no numbers say so; none is left out."""
    write_run(tmp_path, run())
    titles = []
    monkeypatch.setattr(
        diagnose.plt.Figure,
        "savefig",
        lambda figure, path: titles.extend(
            (axes.get_title(), [text.get_text() for text in axes.texts]) for axes in figure.axes
        ),
    )
    monkeypatch.setattr(sys, "argv", ["diagnose", str(tmp_path)])
    diagnose.main()
    panels = [symptom.panel for symptom in symptoms.SYMPTOMS.values()]
    assert [title for title, _ in titles if title] == panels and len(set(panels)) == len(panels)
    assert dict(titles)["KL of the sampler to pi_old, nats"] == ["not logged"]


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


def test_a_script_that_does_not_parse_is_one_clear_line(tmp_path, monkeypatch, capsys):
    """Of the run's own script: which file, and where in it; one beside it is in nobody's way."""
    write_run(tmp_path / "run", run())
    (tmp_path / "grpo.py").write_text(reader.source_of("grpo"), encoding="utf-8")
    (tmp_path / "mine.py").write_text('"""Unfinished."""\n\ndef loss(:\n')
    monkeypatch.setattr(reader, "HERE", tmp_path)
    monkeypatch.setattr(composition, "known", reader.scripts)
    monkeypatch.setattr(diagnose, "draw", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["diagnose", str(tmp_path / "run")])
    diagnose.main()
    assert "is healthy" in capsys.readouterr().out
    (tmp_path / "run/config.json").write_text('{"script": "mine"}')
    with pytest.raises(SystemExit) as stopped:
        diagnose.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: mine.py, line 3: invalid syntax\n"


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
    assert "  try  python grpo.py --learning_rate 5e-05 " in lines[3]
    assert lines[4].startswith("SHOWN  uncertain tokens") and "compose" not in lines[-1]
    assert sum(" try " in line for line in lines) == 1


def test_thresholds_are_drawn_where_they_are_tested():
    """The line in a panel is the number in the evidence."""
    quarters = symptoms.Quarters(run())
    drawn = {n: s.threshold(quarters) for n, s in symptoms.SYMPTOMS.items() if s.threshold}
    found = {f.symptom: f.evidence for f in symptoms.findings("grpo", run())}
    assert drawn["entropy collapses"] == pytest.approx(0.6 * quarters.first("entropy"))
    assert drawn["length grows without accuracy"] == pytest.approx(1.25 * quarters.first("length"))
    for name, text, metric, line in (
        ("every completion is cut", "threshold 95 %", "truncated", 0.95),
        ("never writes the format", "threshold 5 %", "reward_format", 0.05),
        ("sampler and update disagree", "threshold 0.002", "sampler_kl", 2e-3),
    ):
        assert symptoms.SYMPTOMS[name].metrics == (metric,) and drawn[name] == line
        beyond = symptoms.findings("grpo", run(**PLANTED[name]))
        assert any(text in f.evidence for f in beyond if f.symptom == name)
    for name, text in (
        ("completions are cut off", "threshold 25 %"),
        ("uncertain tokens are clipped", "threshold 2 %"),
        ("groups without signal", "threshold 30 %"),
        ("training breaks", "threshold 6"),
    ):
        assert text in found[name]
    assert drawn["training breaks"] == pytest.approx(quarters.best("accuracy") - 0.06)

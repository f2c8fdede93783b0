"""A run as its user has it: its folder, kills, Ctrl-C, bad input, same numbers again, learning."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

from runtime import run_folder, session
from runtime.measures import repeatable
from runtime.options import parse_options

import pytest
import torch
import transformers

import common
import dapo
import grpo

KILLS = int(os.environ.get("GRPO_KILLS", 3))
STEPS = 2 * KILLS
METRICS = {
    *("reward", "reward_brevity", "reward_format", "accuracy", "length", "length_right"),
    *("retry", "ratio_spread", "advantage_levels", "advantage_max", "length_wrong"),
    *("truncated", "entropy", "clipped_low", "clipped_high", "ratio_min", "ratio_max"),
    *("kl_ref", "grad_norm", "groups_without_signal", "completions_sampled", "tokens_sampled"),
    *("seconds", "seconds_sampling", "seconds_updating", "tokens_per_second_sampling"),
    *("tokens_per_second_updating", "peak_memory_mb"),
}


@pytest.fixture(scope="module")
def tiny(llama_folder):
    """Options of a run of seconds in which every step learns something (`brevity` varies)."""
    tiny = {"model": llama_folder, "steps": STEPS, "prompts_per_step": 4, "group_size": 8}
    tiny |= {"minibatches": 2, "max_new_tokens": 32, "eval_problems": 4, "eval_every": 1}
    tiny |= {"reward_components": ["brevity", "format"], "reward_weights": [1.0, 0.1]}
    return {**tiny, "learning_rate": 1e-3, "checkpoint_every": 1, "dtype": "float32"}


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """An uninterrupted run of STEPS steps, as its own process."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    process = start(**tiny, output_dir=folder)
    wait_for(process, "step ")
    started = time.perf_counter()
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    pace = (time.perf_counter() - started) / STEPS
    return SimpleNamespace(folder=folder, output=output, pace=pace, rows=training_rows(folder))


def arguments(**options):
    """Options as words of a command line; True is a bare flag, a list several words."""
    words = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [] if value is True else [value]
        words += [f"--{name}", *map(str, values)]
    return words


def start(**options):
    """grpo.py as a process of its own, one thread, on the CPU."""
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, str(common.HERE / "grpo.py"), *arguments(**options)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=common.HERE, env=env, stdout=pipe, stderr=pipe, text=True)


def wait_for(process, prefix):
    """Reads the process's output up to the first line that starts like this."""
    for line in process.stdout:
        if line.startswith(prefix):
            return
    pytest.fail(f"no line {prefix!r}: {process.stderr.read()}")


def train(**options):
    grpo.train(grpo.Config(**options | {"output_dir": str(options["output_dir"])}))


def rejected(monkeypatch, **options):
    """The one line with which the command line refuses these options."""
    monkeypatch.setattr(sys, "argv", ["grpo.py", *arguments(**options)])
    with pytest.raises(SystemExit) as refusal:
        session.launch(grpo.train, grpo.Config, grpo.__doc__)
    message = refusal.value.code  # a text: Python prints it to stderr and exits with 1
    assert isinstance(message, str) and "\n" not in message
    return message


def training_rows(folder):
    """What metrics.jsonl says of training, step by step, without what the clock says."""
    rows = [row for row in run_folder.read_jsonl(folder / "metrics.jsonl") if "reward" in row]
    return repeatable(rows)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- What a run leaves behind -------------------------------------------------------------------


@pytest.mark.slow
def test_run_directory(finished):
    """Everything that the README's glossary and a later reader rely on, in strict JSON."""
    names = {path.name for path in finished.folder.iterdir()}
    assert names == {"config.json", "metrics.jsonl", "samples.jsonl", "checkpoint", "lock"}
    settings = json.loads((finished.folder / "config.json").read_text())
    assert settings["script"] == "grpo" and settings["steps"] == STEPS
    lines = (finished.folder / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]  # NaN, Infinity
    steps = [row for row in rows if "reward" in row]
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    assert all(row.keys() >= METRICS for row in steps)
    learnt = sum(row["updates"] > 0 for row in steps)
    assert learnt >= len(steps) / 2  # else every test here is about nothing
    evaluated = [row["step"] for row in rows if "eval_accuracy" in row]
    assert evaluated == list(range(STEPS + 1))
    kinds = [list(row.items())[1] for row in rows]  # right after the step
    assert kinds == [("kind", "step" if "reward" in row else "evaluation") for row in rows]
    samples = run_folder.read_jsonl(finished.folder / "samples.jsonl")
    assert {row["step"] for row in samples} == set(evaluated)
    assert all(row.keys() >= {"numbers", "target", "right", "completion"} for row in samples)
    transformers.AutoModelForCausalLM.from_pretrained(finished.folder / "checkpoint")
    assert "held-out accuracy" in finished.output and str(finished.folder) in finished.output


def test_metrics_are_complete_without_signal(tiny, tmp_path):
    """A step that updates nothing still has every metric: plots need no special case."""
    none = {"reward_components": ["answer"], "reward_weights": [1.0]}  # it never solves any
    train(**tiny | none | {"steps": 1}, output_dir=tmp_path / "run")
    (row,) = training_rows(tmp_path / "run")
    assert row["updates"] == 0 and row["groups_without_signal"] == 1
    assert row["grad_norm"] is row["ratio_max"] is None  # nothing was measured
    assert row.keys() >= {"clipped_low", "clipped_high", "kl_ref", "kl_old", "ratio", "ratio_min"}


# ---- The same numbers again: seeds, evaluation, kill, Ctrl-C ------------------------------------


@pytest.mark.parametrize("kl", [9, 2606])
def test_a_huge_kl_is_explained_once(kl, tiny, tmp_path, monkeypatch, capsys):
    """It frightens, and says only that a few tokens have been left."""
    loss = grpo.policy_loss

    def far(*given):
        token_loss, metrics = loss(*given)
        return token_loss, {**metrics, "kl_ref": torch.full_like(token_loss, kl)}

    monkeypatch.setattr(grpo, "policy_loss", far)
    paid = {"reward_components": ["brevity"], "reward_weights": [1.0]}
    train(**tiny | paid | {"steps": 2}, output_dir=tmp_path / "run")
    text = capsys.readouterr().out
    assert f"{kl:.4f}" in text
    assert text.count("kl ref is made by a few tokens") == (kl > 10)


@pytest.mark.slow
def test_seed_decides_everything_and_evaluation_nothing(tiny, finished, tmp_path):
    """The same seed gives the same metrics, also without the evaluation after each step."""
    train(**tiny | {"steps": 3, "eval_every": 0, "eval_problems": 1}, output_dir=tmp_path / "1")
    train(**tiny | {"steps": 1, "seed": 2}, output_dir=tmp_path / "2")
    assert training_rows(tmp_path / "1") == finished.rows[:3]
    assert training_rows(tmp_path / "2")[0]["entropy"] != finished.rows[0]["entropy"]


@pytest.mark.slow
def test_killed_runs_end_like_an_uninterrupted_one(tiny, finished, tmp_path):
    """SIGKILL at random moments of the run; GRPO_KILLS=20 for a long one."""
    rng, folder = random.Random(0), tmp_path / "run"
    for _ in range(KILLS):
        process = start(**tiny, output_dir=folder, **{"resume": True} if folder.exists() else {})
        wait_for(process, "step ")
        time.sleep(rng.uniform(0, 4 * finished.pace))
        process.kill()
        process.communicate()
        saved = [folder / f"checkpoint{end}" for end in ("", ".old")]
        for checkpoint in [path for path in saved if path.exists()][:1]:
            common.load_model(str(checkpoint))
            assert json.loads((checkpoint / "state.json").read_text())["step"] >= 0
    train(**tiny, output_dir=folder, resume=True)
    assert training_rows(folder) == finished.rows


@pytest.mark.slow
def test_death_before_any_file_operation(tiny, finished, tmp_path, monkeypatch):
    """What random kills seldom hit: die before each rename and removal in turn, then resume."""
    begun = tmp_path / "begun"
    train(**tiny | {"steps": 1}, output_dir=begun)
    for survived in range(100):
        folder, left = tmp_path / str(survived), iter(range(survived))
        shutil.copytree(begun, folder)
        with monkeypatch.context() as patch:
            patch.setattr(signal, "signal", lambda *_: None)  # the dead leave Ctrl-C alone
            for module, name in ((os, "replace"), (shutil, "rmtree")):
                patch.setattr(module, name, mortal(getattr(module, name), left))
            with contextlib.suppress(KeyboardInterrupt):
                train(**tiny | {"steps": 2}, output_dir=folder, resume=True)
                break
        train(**tiny | {"steps": 2}, output_dir=folder, resume=True)
        assert training_rows(folder) == finished.rows[:2], survived
    assert survived >= 6  # config, two logs, state, two renames


def mortal(operation, left):
    """`operation`, until the shared iterator `left` runs out."""

    def replacement(*args, **kwargs):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return operation(*args, **kwargs)

    return replacement


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(tiny, finished, tmp_path):
    process = start(**tiny, output_dir=tmp_path)
    wait_for(process, "   1  ")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert process.returncode == 1 and "finishing this step" in output
    assert errors.startswith("stopped after step") and "--resume" in errors
    assert errors.count("\n") == 1
    assert session.Run(grpo.Config(**tiny, output_dir=str(tmp_path), resume=True), "grpo").done >= 1
    train(**tiny, output_dir=tmp_path, resume=True)
    assert training_rows(tmp_path) == finished.rows


def test_a_checkpoint_carries_more_than_the_optimizer(tiny, tmp_path):
    """Anything with a state_dict, under its own name: a critic, say, or a table of problems."""

    def parts():
        memory = torch.nn.BatchNorm1d(3)  # has buffers and parameters
        model, tokenizer = common.load_model(tiny["model"])
        optimizer = torch.optim.AdamW(model.parameters())
        return model, tokenizer, {"optimizer": optimizer, "memory": memory}

    options = tiny | {"steps": 1, "output_dir": str(tmp_path)}
    model, tokenizer, saved = parts()
    for _ in session.Run(grpo.Config(**options), "grpo").steps(model, tokenizer, **saved):
        saved["memory"].running_mean += 5
    model, tokenizer, loaded = parts()
    run = session.Run(grpo.Config(**options | {"resume": True}), "grpo")
    assert list(run.steps(model, tokenizer, **loaded)) == []
    assert loaded["memory"].running_mean.tolist() == [10.0] * 3


# ---- What a run refuses -------------------------------------------------------------------------


@pytest.mark.slow
def test_no_run_is_lost_by_mistake(tiny, finished, tmp_path, monkeypatch):
    """Neither a repeated command, nor a wrong option beside --overwrite, nor --resume loses it."""
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    before, options = contents(folder), {**tiny, "output_dir": folder}
    message = rejected(monkeypatch, **options)
    assert "--resume" in message and "--overwrite" in message and str(folder) in message
    wrong = {"overwrite": True, "model": tmp_path / "nowhere"}
    assert "--model" in rejected(monkeypatch, **options | wrong)
    both = {"resume": True, "overwrite": True}
    assert "--overwrite" in rejected(monkeypatch, **options | both)
    changed = {"resume": True, "learning_rate": 0.5}
    assert "learning_rate 0.001, not 0.5" in rejected(monkeypatch, **options | changed)
    other = {"output_dir": tmp_path / "none", "resume": True}
    assert "--resume: no run in" in rejected(monkeypatch, **options | other)
    model = {"output_dir": shutil.copytree(tiny["model"], tmp_path / "model"), "overwrite": True}
    assert "--output_dir" in rejected(monkeypatch, **options | model)  # it has a config.json too
    assert contents(folder) == before and not (tmp_path / "none").exists()


def test_a_run_in_the_way_of_the_default_folder(tmp_path, monkeypatch):
    """A second `python grpo.py` is told of another seed, which has a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/grpo-seed3").mkdir(parents=True)
    (tmp_path / "runs/grpo-seed3/config.json").write_text('{"script": "grpo"}')
    ways = "add --resume or --overwrite, or take --seed 4 or another --output_dir"
    assert rejected(monkeypatch, seed=3).endswith(f"grpo-seed3 holds a run: {ways}")
    ways = "add --resume or --overwrite, or another --output_dir"
    assert rejected(monkeypatch, output_dir="runs/grpo-seed3").endswith(f"holds a run: {ways}")


@pytest.mark.slow
def test_longer_resume_goes_on_and_overwrite_starts_over(tiny, finished, tmp_path):
    folder = tmp_path / "run"
    train(**tiny | {"steps": 2}, output_dir=folder)
    train(**tiny | {"steps": 3}, output_dir=folder, resume=True)
    assert training_rows(folder) == finished.rows[:3]
    train(**tiny | {"steps": 1, "seed": 2}, output_dir=folder, overwrite=True)
    assert [row["step"] for row in training_rows(folder)] == [1]
    assert json.loads((folder / "config.json").read_text())["seed"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "steps"),
    [([], 2), (["--steps", "3"], 3), (["--steps=3"], 3), (["--step", "3"], 3)],
)
def test_resume_goes_on_to_where_the_run_was_to_end(words, steps, tiny, tmp_path, capsys):
    """Without --steps not to the default of 30, which would be a surprise of some minutes."""
    folder = tmp_path / "run"
    train(**tiny | {"steps": 2}, output_dir=folder)
    given = arguments(**{k: v for k, v in tiny.items() if k != "steps"}, output_dir=folder)
    grpo.train(parse_options(grpo.Config, words=[*given, "--resume", *words]))
    assert f"resuming after step 2, to {steps}\n" in capsys.readouterr().out
    assert [row["step"] for row in training_rows(folder)] == list(range(1, steps + 1))


@pytest.mark.parametrize("text", ["{", '{"script": "grpo", "steps": "many"}', '{"script": "grpo"}'])
def test_resume_where_no_number_of_steps_is_saved(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    assert run_folder.RunFolder(tmp_path).saved_steps(30) == 30


BAD = {
    "group_size": {"group_size": 1},
    "dtype": {"dtype": "float16"},
    "max_grad_norm": {"max_grad_norm": float("nan")},
    "max_new_tokens": {"max_new_tokens": 1000},  # the context has 256
    "max_number": {"max_number": -5},
    "reward_components": {"reward_components": ["honesty"], "reward_weights": [1.0]},
    "reward_weights": {"reward_weights": [1.0, 2.0, 3.0]},
    "temperature": {"temperature": 0},
    "minibatches": {"minibatches": 3},
    "steps": {"steps": -1},
}


@pytest.mark.parametrize("option", BAD)
def test_bad_option(tiny, tmp_path, monkeypatch, option):
    message = rejected(monkeypatch, **tiny | BAD[option], output_dir=tmp_path / "run")
    assert f"--{option}" in message and not (tmp_path / "run").exists()


def test_bad_data(tiny, tmp_path, monkeypatch):
    """test_countdown.py has the kinds of bad files; here is that the command line says so."""
    options = {**tiny, "data": tmp_path / "none.jsonl", "output_dir": tmp_path / "run"}
    assert "--data" in rejected(monkeypatch, **options) and not (tmp_path / "run").exists()


def test_bounds_that_name_another_option(monkeypatch):
    """dapo.py's overlong cache is the last part of the budget; one line says so."""
    words = ["dapo.py", "--overlong_cache", "257"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="--overlong_cache 257: at most --max_new_tokens 256"):
        session.launch(dapo.train, dapo.Config, dapo.__doc__)


def test_unknown_option(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["grpo.py", "--clip_hihg", "0.28"])
    with pytest.raises(SystemExit):
        session.launch(pytest.fail, grpo.Config, grpo.__doc__)
    assert "unknown option --clip_hihg 0.28" in capsys.readouterr().err


@pytest.mark.slow
def test_bad_input_is_one_line_on_stderr(tiny, tmp_path):
    process = start(**tiny | {"model": tmp_path / "nowhere"}, output_dir=tmp_path / "run")
    output, errors = process.communicate()
    assert process.returncode == 1 and output == "" and not (tmp_path / "run").exists()
    assert errors.startswith("grpo.py: --model") and errors.count("\n") == 1


@pytest.mark.slow
def test_play(tmp_path):
    """`python -m tools.play`: a completion, its verdicts and a solution; or one clear line."""
    command = [sys.executable, "-m", "tools.play", "3", "7", "12", "--target", "33"]
    played = subprocess.run(command, cwd=common.HERE, capture_output=True, text=True)
    assert played.returncode == 0, played.stderr
    assert played.stdout.count("rewards: answer") == 8 and "a true solution: " in played.stdout
    right = played.stdout.count("rewards: answer 1,")
    assert f"{right} of 8 completions are right" in played.stdout
    command += ["--model", str(tmp_path / "nowhere")]
    refused = subprocess.run(command, cwd=common.HERE, capture_output=True, text=True)
    assert refused.returncode == 2 and "error: --model" in refused.stderr
    assert "Traceback" not in refused.stderr


# ---- It learns ----------------------------------------------------------------------------------


LEARNING_STEPS = 8  # the constant to tune when base_model changes: enough for twice LEAST_GAIN
LEAST_GAIN = 0.08  # of 256 problems; the standard error of the difference is about 0.035


@pytest.mark.slow
def test_default_run_learns(tmp_path):
    """grpo.py on base_model, all else by default: more held-out problems solved than before."""
    options = {"steps": LEARNING_STEPS, "eval_every": 0, "eval_problems": 256}
    process = start(**options, output_dir=tmp_path / "run")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    rows = run_folder.read_jsonl(tmp_path / "run/metrics.jsonl")
    first, last = (row["eval_accuracy"] for row in rows if "eval_accuracy" in row)
    assert last - first >= LEAST_GAIN

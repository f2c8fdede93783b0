"""A run as its user has it: its folder, kills, Ctrl-C, bad input, same numbers again, learning."""

import contextlib
import dataclasses
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

from runtime import run_folder, session
from runtime.measures import repeatable
from runtime.options import check_config, option, parse_options

import pytest
import torch
import transformers

import common
import dapo
import grpo
from countdown_task import CountdownTask, Problem
from tasks import InputError

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


def test_a_log_is_json_up_to_its_last_whole_line(tmp_path):
    """Numbers that JSON lacks are null; what follows a line that a kill cut off is left out."""
    folder = run_folder.RunFolder(tmp_path)
    folder.begin({}, run_folder.START, overwrite=False)
    folder.append("metrics.jsonl", {"a": math.nan, "b": math.inf, "c": 1})
    file = tmp_path / "metrics.jsonl"
    assert file.read_text() == '{"a": null, "b": null, "c": 1}\n'
    file.write_text(file.read_text() + '{"step": 2, \n{"step": 3}\n')
    assert run_folder.read_jsonl(file) == [{"a": None, "b": None, "c": 1}]


# ---- What a run is made of ----------------------------------------------------------------------


def test_each_held_out_problem_is_asked_once(monkeypatch):
    """Whatever the number, with one stream through all parts: the seed's, and never training's."""
    asked, streams = [], []

    def sample_groups(model, tokenizer, problems, config, generator):
        asked.extend(problems * config.group_size)
        streams.append(generator)

    monkeypatch.setattr(grpo, "sample_groups", sample_groups)
    for seed in (1, 2):
        grpo.evaluate(None, None, list(range(600)), grpo.Config(seed=seed))
    assert asked == [*range(600), *range(600)]
    one, two = (stream.initial_seed() for stream in dict.fromkeys(streams))
    training = common.torch_stream(1, "sampling", 1).initial_seed()
    assert len({one, two, training}) == 3


def test_every_step_and_every_seed_draws_anew(monkeypatch):
    """Problems and random numbers both follow from seed and step, and from nothing else."""
    monkeypatch.setattr(grpo, "compute_rewards", lambda *_: None)
    task = SimpleNamespace(sample=lambda count, rng: [rng.random() for _ in range(count)])
    drawn = {}

    def sample_groups(model, tokenizer, problems, config, generator):
        drawn.setdefault("problems", []).append(problems[0])
        drawn.setdefault("tokens", []).append(generator.initial_seed())
        return SimpleNamespace(problems=problems, completions=None)

    monkeypatch.setattr(grpo, "sample_groups", sample_groups)
    for seed, step in ((1, 1), (1, 2), (2, 1), (1, 1)):
        grpo.sample_batch(None, None, task, grpo.Config(seed=seed), step)
    for first, next_step, next_seed, again in drawn.values():
        assert first == again and len({first, next_step, next_seed}) == 3


@pytest.mark.parametrize(("every", "evaluated"), [(0, [0, 3]), (2, [0, 2, 3])])
def test_first_and_last_step_are_evaluated(every, evaluated, tiny, tmp_path, capsys):
    """Whatever --eval_every: the last line of a run compares them."""
    changes = {"steps": 3, "eval_every": every, "max_new_tokens": 4}
    train(**tiny | changes, output_dir=tmp_path / "run")
    rows = run_folder.read_jsonl(tmp_path / "run/metrics.jsonl")
    assert [row["step"] for row in rows if "eval_accuracy" in row] == evaluated
    assert re.search("held-out accuracy .* at step 0 -> .* at step 3 ", capsys.readouterr().out)


def test_what_a_step_is_trained_with(tiny, tmp_path, monkeypatch):
    """AdamW at the given rate without decay; k3 is against the initial model, which stays."""
    seen = []
    update = grpo.update_policy

    def watched(model, optimizer, rollout, advantages, config):
        seen.append((optimizer.param_groups[0], rollout))
        return update(model, optimizer, rollout, advantages, config)

    monkeypatch.setattr(grpo, "update_policy", watched)
    train(**tiny | {"steps": 2}, output_dir=tmp_path / "run")
    for group, _ in seen:
        assert (group["lr"], group["weight_decay"]) == (1e-3, 0)
    config = grpo.Config(**tiny)
    reference, _ = common.load_model(tiny["model"])
    rollout = seen[1][1]
    expected = grpo.over_rollout(grpo.completion_logprobs, reference, rollout, config)
    torch.testing.assert_close(rollout.ref_logprobs, expected)
    assert (rollout.ref_logprobs - rollout.logprobs).abs().max() > 0.01  # the policy has moved


def judged(*rows):
    """A rollout of one completion a row: (right?, tokens, cut off?)."""
    right, tokens, cut = zip(*rows, strict=True)
    return SimpleNamespace(
        problems=[Problem((1, 2), 3)] * len(rows),
        completions=["x" * count for count in tokens],
        correct=torch.tensor(right),
        truncated=torch.tensor(cut),
        tokens_sampled=sum(tokens),
    )


def test_an_evaluation_by_hand(tiny, tmp_path, monkeypatch, capsys):
    """Of both parts: 1 of 4 right, 12 tokens each, one is cut off; the interval is t's."""
    parts = [judged((0, 2, 0), (1, 6, 0)), judged((0, 20, 0), (0, 20, 1))]
    monkeypatch.setattr(grpo, "evaluate", lambda *_: parts)
    train(**tiny | {"steps": 0}, output_dir=tmp_path / "run")
    (row,) = run_folder.read_jsonl(tmp_path / "run/metrics.jsonl")
    found = {name: value for name, value in row.items() if name.startswith("eval_")}
    assert found == {
        "eval_accuracy": 0.25,
        "eval_length": 12,
        "eval_truncated": 0.25,
        "eval_problems": 4,
    }
    samples = run_folder.read_jsonl(tmp_path / "run/samples.jsonl")
    assert [(s["right"], len(s["completion"])) for s in samples] == [
        (False, 2),
        (True, 6),
        (False, 20),
        (False, 20),
    ]
    # t of three degrees is 3.182, the sample's deviation 1/2: 3.182 / 2 / 2.
    assert "held-out: 25.0% ± 79.6% right of 4 problems, 12 tokens each" in capsys.readouterr().out


def test_the_clock_of_a_step_by_hand(tiny, tmp_path, monkeypatch, capsys):
    """Sampling takes 90 s and updating 30 s of both steps: two minutes are left after the first."""
    now = [0.0]
    lap = session.Run.lap

    def timed(run, phase):
        now[0] += {"sampling": 90.0, "updating": 30.0}[phase]
        lap(run, phase)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(session.Run, "lap", timed)
    train(**tiny | {"steps": 2}, output_dir=tmp_path / "run")
    rows = [r for r in run_folder.read_jsonl(tmp_path / "run/metrics.jsonl") if "reward" in r]
    drawn = [row["tokens_sampled"] for row in rows]
    assert [row["seconds"] for row in rows] == [120, 120]
    assert rows[1]["tokens_per_second_sampling"] == pytest.approx(drawn[1] / 90)
    assert [row["tokens_total"] for row in rows] == [drawn[0], sum(drawn)]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" min")]
    assert [line.split()[-2] for line in lines] == ["2.0", "0.0"]


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


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        ({"at_least": 1}, [1, 2], [0, 2**63]),
        ({"above": 0}, [1e-30, 1e30], [0.0, -1.0, 1e-31, 1e31, math.inf, math.nan]),
        ({"below": 1}, [0.9, -1.0], [1, 1.0]),
        ({"within": (0, 1)}, [0, 0.5, 1], [-0.1, 1.1]),
        ({"choices": ["a", "b"]}, ["a", ["a", "b"]], ["c", ["a", "c"]]),
        ({"at_most": "other"}, [1, 6], [7]),
        ({"divides": "other"}, [1, 3, 6], [0, 4, 12]),
        ({"per": "names"}, [[1.0, 2.0]], [[1.0], [1.0, 2.0, 3.0]]),
    ],
)
def test_bounds_by_hand(bounds, inside, outside):
    """Each rule at its edges; the line names the option."""
    known = [("other", int, option(6, "")), ("names", list, option(["a", "b"], ""))]
    fields = [("mine", object, option(None, "", **bounds)), *known]
    config_class = dataclasses.make_dataclass("Config", fields)
    for value in inside:
        check_config(config_class(mine=value))
    for value in outside:
        with pytest.raises(InputError, match=r"^--mine"):
            check_config(config_class(mine=value))


def test_a_context_may_be_filled_to_its_last_token(tiny):
    """Of 256 tokens; with one more, the line says how much room there is."""
    model, tokenizer = common.load_model(tiny["model"])
    problems = CountdownTask().held_out(3)

    def longest(room):
        config = grpo.Config(max_new_tokens=room)
        return max(map(len, common.encode_prompts(model, tokenizer, problems, config)))

    room = 256 - longest(1)
    assert longest(room) == 256 - room
    with pytest.raises(InputError, match=f"room for {room} in the model's context of 256"):
        longest(room + 1)


def test_so_many_tokens_at_once_are_too_many():
    config = grpo.Config(max_new_tokens=2**10)
    common.check_size(2**21 - 1, config)
    with pytest.raises(InputError, match="2147483648 tokens at once are too many"):
        common.check_size(2**21, config)


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

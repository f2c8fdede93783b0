"""What a task promises, held for each that is here; and the questions' answers and data."""

import dataclasses
import importlib
import json
import random
from fractions import Fraction

import pytest

import countdown_task
import grpo
import tasks
from common import HERE
from tasks import InputError, make_questions, question_task, source
from tasks.question_task import Problem, final_part, value_of

# A task of one's own is held to the protocol as soon as it is there.
TASKS = ("countdown_task", *(f"tasks.{file.stem}" for file in HERE.glob("tasks/*_task.py")))
HOSTILE = [
    "",
    "</think>",
    "</think><answer>",
    "</think><answer></answer>",
    "</think><answer>\x00\ud800</answer>",
    "</think><answer>1/0</answer>",
    "</think><answer>0/0</answer>",
    "</think><answer>\\boxed{</answer>",
    "</think><answer>\\frac{1}{0}</answer>",
    "</think><answer>" + "\\frac{" * 60 + "1</answer>",
    "</think><answer>9**9**9**9</answer>",
    "</think><answer>9^{9^{9^{9}}}</answer>",
    "</think><answer>" + "(" * 5000 + "</answer>",
    "</think><answer>" + "9" * 100_000 + "</answer>",
    "</think><answer>١٢</answer>",
    "<answer>" * 1000,
]


def task_of(name, **options):
    return tasks.load(grpo.Config(task=name, **options))


def refused(**options):
    with pytest.raises(InputError) as error:
        tasks.load(grpo.Config(**options))
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- The protocol -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_what_the_protocol_says(name):
    module = importlib.import_module(name)
    problem = task_of(name).sample(1, random.Random(1))[0]
    assert isinstance(problem, module.Problem)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(problem, dataclasses.fields(problem)[0].name, None)
    assert isinstance(problem.prompt(), str) and isinstance(problem.key(), str)
    json.dumps(dataclasses.asdict(problem))  # as a run logs it
    for component, reward in module.REWARDS.items():
        for text in HOSTILE:
            value = problem.reward(component, text)
            assert type(value) is float and value == reward(text, problem)


@pytest.mark.parametrize("name", TASKS)
def test_any_text_has_a_verdict(name):
    """None of these is right, none raises, and none takes long."""
    problem = task_of(name).sample(1, random.Random(2))[0]
    for text in HOSTILE:
        assert problem.is_correct(text) is False
        answer = problem.answer_of(text)
        assert answer == answer  # comparable, as a vote needs it


@pytest.mark.parametrize("name", TASKS)
def test_no_held_out_problem_is_trained_on(name):
    task = task_of(name)
    held_out = task.held_out(50)
    keys = {problem.key() for problem in held_out}
    assert len(keys) == 50 and task.held_out(50) == held_out
    assert not keys & {problem.key() for problem in task.sample(2000, random.Random(3))}


def test_a_reward_is_looked_up_when_it_is_asked_for(monkeypatch):
    """So that a module of one's own can add one."""
    monkeypatch.setitem(countdown_task.REWARDS, "long", lambda text, problem: float(len(text) > 3))
    task = task_of("countdown_task", reward_components=["answer", "long"])
    assert task.sample(1, random.Random(1))[0].reward("long", "four") == 1.0


def test_what_is_no_task_is_refused_in_a_line():
    assert "no such module" in refused(task="tasks.nowhere")
    assert "no such module" in refused(task="")
    assert "no such module" in refused(task="..")
    assert "it has no Problem" in refused(task="json")
    assert "choose from answer, format" in refused(
        task="tasks.question_task", reward_components=["brevity"], reward_weights=[1.0]
    )


@pytest.mark.parametrize("value", [None, 1, "1", float("nan")])
def test_a_reward_that_is_no_number_is_refused_before_a_run(value, monkeypatch):
    monkeypatch.setitem(countdown_task.REWARDS, "mine", lambda text, problem: value)
    said = refused(reward_components=["mine"], reward_weights=[1.0])
    assert said.startswith(f"--reward_components mine: it pays {value!r} for ''")


def test_what_is_wrong_in_a_task_of_ones_own_is_not_hidden(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "__path__", [str(tmp_path)])
    (tmp_path / "broken_task.py").write_text("LIMIT = int('a')")
    with pytest.raises(ValueError, match="invalid literal"):
        task_of("tasks.broken_task")


def test_options_of_another_task_are_refused(tmp_path):
    class Task(source.Source):
        def generate(self, rng):
            return countdown_task.Problem((1, rng.randint(1, 1000)), 1)

    config = grpo.Config(task="tasks.mine")
    assert Task.from_config(config).sample(1, random.Random(1))
    with pytest.raises(InputError, match=r"--data .*: --task tasks.mine has no use"):
        Task.from_config(dataclasses.replace(config, data="rows.jsonl"))
    assert "--operands 5: --task" in refused(task="tasks.question_task", operands=5)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["grpo", "dr_grpo", "dapo", "gspo", "gdpo", "cispo", "zoo.ttrl"])
def test_scripts_train_on_questions(script, llama_folder, tmp_path):
    module = importlib.import_module(script)
    tiny = {"model": llama_folder, "steps": 1, "prompts_per_step": 4, "group_size": 4}
    tiny |= {"max_new_tokens": 16, "eval_problems": 4, "task": "tasks.question_task"}
    if script == "dapo":
        tiny |= {"overlong_cache": 8, "max_refills": 1}
    module.train(module.Config(**tiny, output_dir=str(tmp_path / "run")))
    samples = (tmp_path / "run/samples.jsonl").read_text(encoding="utf-8")
    assert {"question", "result", "right", "completion"} < json.loads(
        samples.splitlines()[0]
    ).keys()


def test_a_calculator_for_countdown_refuses_other_tasks(llama_folder, tmp_path):
    from zoo import gigpo

    tiny = {"model": llama_folder, "steps": 1, "prompts_per_step": 4, "group_size": 4}
    tiny |= {"max_new_tokens": 16, "eval_problems": 4, "task": "tasks.question_task"}
    with pytest.raises(InputError, match="--task"):
        gigpo.train(gigpo.Config(**tiny, output_dir=str(tmp_path / "run")))


# ---- Questions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3*7=21 #### 21", 21),
        ("so it is \\boxed{21}.", 21),
        ("\\boxed{\\text{about } 1{,}200}", 200),
        ("1,200", 1200),
        ("#### 1,200 dollars", 1200),
        ("#### -3", -3),
        ("3/4", 0.75),
        ("2.5", 2.5),
        (".5", 0.5),
        ("-.5", -0.5),
        ("so it is...5", 5),
        ("No.5", 5),
        ("1.5e3", 1500),
        ("25E-2", 0.25),
        ("1e1000", 1000),  # no number of a thousand digits
        ("\N{MINUS SIGN}1,200", -1200),
        ("7", 7),
        ("first 3, then 4", 4),
        ("none", None),
        ("1/0", None),
    ],
)
def test_the_final_value(text, value):
    assert value_of(text) == value


@pytest.mark.parametrize("library", [True, False])
def test_an_answer_of_the_same_value_is_right(library, monkeypatch):
    if library:
        pytest.importorskip("math_verify")
    else:
        monkeypatch.setattr(question_task, "math_verify", None)
    right = {"21": ["21", "21.0", "42/2", "$21$", "21 eggs", "\\boxed{21}", "= 21"]}
    right |= {"1/2": ["0.5", "1/2", "2/4"], "1,200": ["1200", "1,200", "1200.00"]}
    for result, answers in right.items():
        problem = Problem("How many?", result)
        for answer in answers:
            assert problem.is_correct(f"x</think>\n<answer>{answer}</answer>"), (result, answer)
        for answer in ("20", "", "210", "-21"):
            assert not problem.is_correct(f"x</think>\n<answer>{answer}</answer>")
    latex = Problem("How much?", "0.75").is_correct("x</think>\n<answer>\\frac{3}{4}</answer>")
    assert latex is library  # without the library the last number is 4


def test_a_bare_point_and_a_printed_minus():
    """As a data set and a model may write them: .5 is 0.5, and a typeset minus is a minus."""

    def is_right(result, answer):
        return Problem("How much?", result).is_correct(f"x</think>\n<answer>{answer}</answer>")

    assert is_right(".5", "0.5") and is_right("0.5", ".5") and not is_right("5", ".5")
    minus = "\N{MINUS SIGN}5"
    assert is_right("-5", minus) and is_right(minus, "-5") and not is_right("5", minus)


def test_data_with_its_solutions(tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [
        {"question": f"What is {n} times 7?", "answer": f"{n}*7={n * 7} #### {n * 7}"}
        for n in range(40)
    ]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = task_of("tasks.question_task", data=str(file))
    problem = task.sample(1, random.Random(1))[0]
    n = int(problem.question.split()[2])
    assert problem == Problem(f"What is {n} times 7?", str(n * 7), f"{n}*7={n * 7}")
    (tmp_path / "rows.csv").write_text("question,answer\nHow many?,12\nAnd now?,13\n")
    assert len(question_task.Task(str(tmp_path / "rows.csv")).splits[0]) == 2


@pytest.mark.parametrize("number", [0.00001, 2.5e-5, 1e16, 3.5, 12])
def test_a_number_in_data_is_its_own_value(number):
    """Python writes 1e-05, whose last number by itself is -5."""
    problem = question_task.problem_of({"question": "How much?", "answer": number})
    assert question_task.value_of(problem.result) == Fraction(repr(number))


def test_the_longest_prompt_is_that_of_most_bytes(tmp_path):
    """A tokenizer may need three tokens for one sign, and one for a word."""
    rows = [("a" * 200, "1"), ("\N{CJK UNIFIED IDEOGRAPH-4E00}" * 100, "2")] * 3
    lines = [json.dumps({"question": q, "answer": a}) for q, a in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    task = question_task.Task(str(tmp_path / "rows.jsonl"))
    assert {problem.result for problem in task.longest_prompts(3)} == {"2"}


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"question": "How many?"}, "need question and answer"),
        ({"question": "How many?", "answer": "none"}, "no number"),
        ({"question": "How many?", "answer": None}, "need question and answer"),
        ({"question": 3, "answer": "3"}, "need question and answer"),
        ({"question": " ", "answer": "3"}, "a question of 1 to"),
        ({"question": "x" * 30_000, "answer": "3"}, "a question of 1 to"),
        ({"question": "How many?", "answer": "9" * 1000}, "no number, or is too long"),
        (["question", "answer"], "need question and answer"),
        ({"question": "half of \ud83d", "answer": "3"}, "surrogates not allowed"),
    ],
)
def test_hostile_data_is_one_line(row, why, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row), encoding="utf-8")
    line = refused(task="tasks.question_task", data=str(file))
    assert line.startswith(f"--data {file}, row 1: ") and why in line


def test_a_message_says_what_a_file_has_and_where_it_breaks(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "How many?", "solution": "3"}', encoding="utf-8")
    said = refused(task="tasks.question_task", data=str(file))
    assert said.endswith("need question and answer, both texts; it has prompt, solution")
    file.write_text('{"question": "How many?", "answer": "3', encoding="utf-8")
    assert "row 1: Unterminated string starting at, character" in refused(data=str(file))
    file.write_text('[{"question": "How many?",\n "answer": "3"},\n {]', encoding="utf-8")
    assert "line 3 column 3" in refused(task="tasks.question_task", data=str(file))


def test_the_embedded_questions_are_what_the_program_writes():
    written = (HERE / "tasks/questions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in written] == make_questions.questions()
    for line in written:
        row = json.loads(line)
        steps = row["answer"].partition(" ####")[0].split(", ")
        for step in steps:  # every step is right, and the last is the answer
            expression, _, result = step.partition("=")
            assert eval(expression) == int(result) <= 99
        assert final_part(row["answer"]) == result

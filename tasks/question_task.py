"""Questions whose answer is a number: `--task tasks.question_task --data train.jsonl`.

A file has the columns `question` and `answer`, as GSM8K and most sets on the Hub do. The answer
stands behind `####`, in `\\boxed{}`, or alone; what stands before it is the worked solution.
Without --data the questions are those of tasks/questions.jsonl.

An answer is judged by its last number, as an exact fraction. One in LaTeX, such as \\frac{3}{4}, is
judged by math-verify if that is installed (`pip install math-verify`).
"""

import contextlib
import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from tasks.source import Source, read_problems, refuse_others
from tasks.tags import extract_answer, is_formatted

try:
    import math_verify
except ImportError:
    math_verify = None

EMBEDDED = Path(__file__).with_name("questions.jsonl")
MAX_ANSWER_CHARS = 200  # bounds what a verdict can cost
MAX_QUESTION_CHARS = 20_000
# What math-verify is asked about: arithmetic. A power or a sum could keep it busy for hours.
ARITHMETIC = re.compile(
    r"([\d{}$%.,+\-*/()= ]|\\([dt]?frac|sqrt|cdot|times|div|left|right|pi|[%$,]))*"
)
# "-3", "1,200.5", "1.5e3", "3/4", ".5"; "...5" and "No.5" are 5.
NUMBER = re.compile(
    r"-?(?:\d[\d,]*(?:\.\d+)?|(?<![.\w])\.\d+)(?:[eE][+-]?\d{1,3}(?!\d))?(?:\s*/\s*\d+)?"
)
PROMPT = (
    "{question}\nShow your work in <think> </think> tags, then return the final number in "
    "<answer> </answer> tags, for example <answer>12</answer>."
)


@dataclass(frozen=True)
class Problem:
    question: str
    result: str  # what the data gives as the final answer
    work: str = ""  # how it gets there, where the data says so

    def key(self):
        return " ".join(self.question.lower().split())  # white space and capitals are no difference

    def prompt(self):
        return PROMPT.format(question=self.question)

    def is_correct(self, completion):
        """Whether the final answer has the value that the data gives. Any text has a verdict."""
        answer = extract_answer(completion)
        return answer is not None and same_value(answer, self.result)

    def answer_of(self, completion):
        return value_of(extract_answer(completion) or "")

    def reward(self, name, completion):
        return REWARDS[name](completion, self)

    def solution(self):
        return f"{self.work}</think>\n<answer>{self.result}</answer>"


# ---- The verdict --------------------------------------------------------------------------------


def final_part(text):
    """What stands behind the last ####, else in the last \\boxed{}, else the text."""
    _, found, last = text.rpartition("####")
    if found:
        return last.strip()
    _, found, rest = text.rpartition("\\boxed{")
    depth = 1  # of braces that are open
    for end, character in enumerate(rest if found else ""):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[:end].strip()
    return text.strip()


def value_of(text):
    """The last number of an answer as a Fraction, None if it has none or is too long."""
    text = final_part(text).replace("−", "-")  # as it is typeset
    numbers = NUMBER.findall(text) if len(text) <= MAX_ANSWER_CHARS else []
    with contextlib.suppress(ZeroDivisionError):
        if numbers:
            over, _, under = re.sub(r"[,\s]", "", numbers[-1]).partition("/")
            return Fraction(over) / Fraction(under or 1)
    return None


def same_value(answer, result):
    """Whether two answers, each of any form, have one value."""
    texts = [final_part(text) for text in (result, answer)]
    latex = "\\" in texts[0] + texts[1] and len(answer) <= MAX_ANSWER_CHARS
    if math_verify and latex and all(ARITHMETIC.fullmatch(text) for text in texts):
        with contextlib.suppress(Exception):  # somebody else's parser, on any text
            parsed = [math_verify.parse(f"${text}$", parsing_timeout=None) for text in texts]
            return math_verify.verify(*parsed, timeout_seconds=None)
    value = value_of(answer)
    return value is not None and value == value_of(result)


def answer_reward(completion, problem):
    """1 if the answer is right, else 0."""
    return float(problem.is_correct(completion))


def format_reward(completion, problem):
    """1 if the completion reads `thought</think> <answer>...</answer>` and nothing else, else 0."""
    return float(is_formatted(completion))


REWARDS = {"answer": answer_reward, "format": format_reward}


def problem_of(row):
    """The problem in a row, a dict; ValueError, KeyError or TypeError if there is none."""
    question, answer = row["question"], row["answer"]
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = format(Decimal(repr(answer)), "f")  # not 1e-05
    if not (isinstance(question, str) and isinstance(answer, str)):
        raise TypeError(f"question and answer: {type(question).__name__}, {type(answer).__name__}")
    if not question.strip() or len(question) > MAX_QUESTION_CHARS:
        raise ValueError(f"a question of 1 to {MAX_QUESTION_CHARS} characters")
    result = final_part(answer)
    if value_of(result) is None:
        raise ValueError(f"{result!r:.40}: its answer has no number, or is too long")
    return Problem(question.strip(), result, answer.partition("####")[0].strip())


class Task(Source):
    """The questions of a file, or those that come with the repository."""

    @classmethod
    def from_config(cls, config):
        refuse_others(config, ("data",))
        return cls(config.data)

    def __init__(self, data=""):
        self.embedded = not data
        path = data or str(EMBEDDED)
        super().__init__(read_problems(path, "question and answer, both texts", problem_of))

    def held_out(self, count):
        """`count` held-out questions; of the embedded ones, which are few, at most all."""
        return super().held_out(min(count, len(self.splits[1])) if self.embedded else count)

"""Countdown: combine every given number exactly once with + - * / to reach a target.

The problems, the prompt, an exact verifier and the reward components: a task, as tasks/__init__.py
says what that is. Nothing here knows about RL.
"""

import ast
import operator
import re
from dataclasses import dataclass
from fractions import Fraction

from tasks import InputError
from tasks.source import Source, read_problems
from tasks.tags import extract_answer, is_formatted

PROMPT = (
    "Using the numbers {numbers}, write an expression that equals {target}. "
    "Use every number exactly once, with + - * / and parentheses only. "
    "Show your work in <think> </think> tags, then return the final expression in "
    "<answer> </answer> tags, for example <answer>(1+2)*3</answer>."
)
MAX_ANSWER_CHARS = 200  # bounds parsing time and nesting depth; six operands need about 40
BREVITY_CHARS = 100  # `brevity` pays completions of at most this many characters
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
AST_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


@dataclass(frozen=True)
class Problem:
    numbers: tuple[int, ...]
    target: int

    def key(self):
        return f"{sorted(self.numbers)}->{self.target}"  # no permutation leaks into the other split

    def prompt(self):
        """The same words for every model; the chat template and the opening <think> come later."""
        numbers = ", ".join(map(str, self.numbers))
        return PROMPT.format(numbers=f"[{numbers}]", target=self.target)

    def is_correct(self, completion):
        return is_correct(completion, self)

    def answer_of(self, completion):
        return answer_value(completion)

    def reward(self, name, completion):
        return REWARDS[name](completion, self)


# ---- Problems -----------------------------------------------------------------------------------


class CountdownTask(Source):
    """Problems that are generated, solvable by construction, or read from a file.

    Generated ones follow the rule of the TV show: every intermediate result is a positive whole
    number.
    """

    widen = "--max_number / --max_target / --data"

    @classmethod
    def from_config(cls, config):
        """The task that a script's options describe."""
        bounds = config.operands, config.max_number, config.min_target, config.max_target
        return cls(*bounds, config.data)

    def __init__(self, operands=3, max_number=12, min_target=10, max_target=60, data=""):
        if not 2 <= operands <= 6:
            raise InputError(f"--operands {operands}: choose 2 to 6 numbers per problem")
        if max_number < 1:
            raise InputError(f"--max_number {max_number}: numbers run from 1, so at least 1")
        if not 1 <= min_target <= max_target:
            raise InputError(
                f"--min_target {min_target} --max_target {max_target}: need 1 <= min <= max"
            )
        self.operands = operands
        self.max_number = max_number
        self.min_target = min_target
        self.max_target = max_target
        self.made_from = f"--operands {operands} --max_number {max_number} "
        self.made_from += f"--min_target {min_target} --max_target {max_target}"
        super().__init__(problems_of(data) if data else None)

    def generate(self, rng):
        numbers = [rng.randint(1, self.max_number) for _ in range(self.operands)]
        values = list(numbers)
        while len(values) > 1:
            a, b = (values.pop(rng.randrange(len(values))) for _ in range(2))
            symbol = rng.choice("+-*/")
            value = OPERATORS[symbol](a, b)
            if value < 1 or value != int(value):
                return None
            values.append(int(value))
        if self.min_target <= values[0] <= self.max_target:
            return Problem(tuple(numbers), values[0])
        return None


Task = CountdownTask  # as --task looks for it


def problems_of(path):
    """Problems of a file with the columns `numbers` (or `nums`) and `target`, a list."""
    return read_problems(path, "numbers (or nums) and target", problem_of, row_of_texts)


def row_of_texts(row):
    """A row of a CSV file, numbers as in "3 7 12" or "[3, 7, 12]" -> the same with numbers."""
    column = "numbers" if "numbers" in row else "nums"
    numbers = re.findall(r"[^\s,;\[\]()]+", row[column])
    return {"numbers": [int(number) for number in numbers], "target": int(row["target"])}


def problem_of(row):
    """The problem in a row, a dict; ValueError, KeyError or TypeError if there is none."""
    numbers = row["numbers"] if "numbers" in row else row["nums"]
    if isinstance(row["target"], dict):
        raise ValueError("columns, not rows; pandas' to_json(FILE, orient='records') writes rows")
    for value in [*numbers, row["target"]]:
        if type(value) is not int or value < 1:
            raise ValueError(
                f"{value!r:.40} ({type(value).__name__}): need at least two numbers and a target, "
                "all whole and positive"
            )
    if len(numbers) < 2:
        raise ValueError("need at least two numbers and a target")
    if max(len("+".join(map(str, numbers))), len(str(row["target"]))) > MAX_ANSWER_CHARS:
        raise ValueError(f"its answer would be longer than {MAX_ANSWER_CHARS} characters")
    return Problem(tuple(numbers), row["target"])


def solve(problem):
    """An expression that solves the problem, by exhaustive exact search, or None."""

    def search(terms):  # terms: list of (Fraction, text); combine any ordered pair, recurse
        if len(terms) == 1:
            return terms[0][1] if terms[0][0] == problem.target else None
        for i in range(len(terms)):
            for j in range(len(terms)):
                if i == j:
                    continue
                (a, text_a), (b, text_b) = terms[i], terms[j]
                rest = [term for k, term in enumerate(terms) if k not in (i, j)]
                for symbol, apply in OPERATORS.items():
                    if (symbol in "+*" and i > j) or (symbol == "/" and b == 0):
                        continue
                    found = search([*rest, (apply(a, b), f"({text_a}{symbol}{text_b})")])
                    if found:
                        return found
        return None

    found = search([(Fraction(number), str(number)) for number in problem.numbers])
    return found[1:-1] if found and found.startswith("(") else found


# ---- The verifier: exact, total (any text gets a verdict), never eval ---------------------------


def evaluate_expression(text):
    """(value, numbers used) of an expression over whole numbers; ValueError if it is not one."""
    if len(text) > MAX_ANSWER_CHARS or not re.fullmatch(r"[0-9+\-*/() ]+", text):
        raise ValueError("only digits, + - * /, parentheses and spaces")
    numbers = []

    def walk(node):
        if isinstance(node, ast.BinOp) and type(node.op) in AST_OPERATORS:
            return OPERATORS[AST_OPERATORS[type(node.op)]](walk(node.left), walk(node.right))
        if isinstance(node, ast.Constant) and type(node.value) is int:
            numbers.append(node.value)
            return Fraction(node.value)
        raise ValueError(f"{type(node).__name__} is not allowed")  # **, //, unary minus, calls

    try:
        return walk(ast.parse(text.strip(), mode="eval").body), numbers
    except (SyntaxError, ZeroDivisionError, RecursionError, MemoryError) as error:
        raise ValueError(str(error)) from error


def is_correct(completion, problem):
    """Does the completion's final answer use every number exactly once and hit the target?"""
    answer = extract_answer(completion)
    if answer is None:
        return False
    try:
        value, numbers = evaluate_expression(answer)
    except ValueError:
        return False
    return value == problem.target and sorted(numbers) == sorted(problem.numbers)


def answer_value(completion):
    """The value of the answer, whatever numbers it uses; None if it has none."""
    try:
        return evaluate_expression(extract_answer(completion) or "")[0]
    except ValueError:
        return None


# ---- Reward components: (completion, problem) -> float. All values are exact in float32. --------


def answer_reward(completion, problem):
    """1 if the answer is right, else 0."""
    return float(is_correct(completion, problem))


def format_reward(completion, problem):
    """1 if the completion reads `thought</think> <answer>...</answer>` and nothing else, else 0."""
    return float(is_formatted(completion))


def brevity_reward(completion, problem):
    """1 if the completion has at most BREVITY_CHARS characters, else 0, right or wrong."""
    return float(len(completion) <= BREVITY_CHARS)


def first_try_reward(completion, problem):
    """1 if the answer is right and the search did not try again ("wait"), else 0.

    Made to show a failure: all that follows a failed first line is useless, and 1/|o| pays for it.
    """
    return float(is_correct(completion, problem) and "wait" not in completion)


REWARDS = {
    "answer": answer_reward,
    "format": format_reward,
    "brevity": brevity_reward,
    "first_try": first_try_reward,
}

"""Countdown: combine every given number exactly once with + - * / to reach a target.

Problems, the prompt, an exact verifier and the reward components. Nothing here knows about RL.
"""

import ast
import contextlib
import csv
import functools
import hashlib
import heapq
import io
import json
import operator
import os
import random
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

PROMPT = (
    "Using the numbers {numbers}, write an expression that equals {target}. "
    "Use every number exactly once, with + - * / and parentheses only. "
    "Show your work in <think> </think> tags, then return the final expression in "
    "<answer> </answer> tags, for example <answer>(1+2)*3</answer>."
)
HELD_OUT_SHARE = 0.15  # of all problems, by hash
MAX_ANSWER_CHARS = 200  # bounds parsing time and nesting depth; six operands need about 40
BREVITY_CHARS = 100  # `brevity` pays completions of at most this many characters
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
AST_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


class InputError(ValueError):
    """Something the user gave is wrong; the message names the option and what to do."""


def printable(text):
    """Text of unknown origin for a terminal: one line, its escapes shown as \\x1b, not obeyed."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


@dataclass(frozen=True)
class Problem:
    numbers: tuple[int, ...]
    target: int


def prompt_text(problem):
    """The same words for every model; the chat template and the opening <think> come later."""
    numbers = ", ".join(map(str, problem.numbers))
    return PROMPT.format(numbers=f"[{numbers}]", target=problem.target)


# ---- Problems -----------------------------------------------------------------------------------


def digest(problem):
    """A hash of (sorted numbers, target): the same for every order, and blind to difficulty."""
    return hashlib.sha256(f"{sorted(problem.numbers)}->{problem.target}".encode()).digest()


def is_held_out(problem):
    """Split by hash: no permutation leaks from train to held-out."""
    return int.from_bytes(digest(problem)[:4], "big") < HELD_OUT_SHARE * 2**32


class CountdownTask:
    """A source of problems: generated (solvable by construction) or read from a file.

    Generated problems follow the rule of the TV show: every intermediate result is a positive
    whole number. `sample` draws with replacement, `distinct` and `held_out` without.
    """

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
        self.splits = None  # of a file: (training problems, held-out problems)
        if data:
            self.splits = ([], [])
            for problem in read_problems(data):
                self.splits[is_held_out(problem)].append(problem)
        self.sample(1, random.Random(0))  # is there anything to train on?

    def sample(self, count, rng, held_out=False):
        """`count` problems of one split, drawn with the given random.Random."""
        if self.splits:
            pool = self.splits[held_out]
            if not pool:
                split = "held-out" if held_out else "training"
                raise InputError(f"--data: no problem falls in the {split} split; add more")
            return [rng.choice(pool) for _ in range(count)]
        problems = []
        for _ in range(20_000 + 2_000 * count):
            problem = self._generate(rng)
            if problem and is_held_out(problem) == held_out:
                problems.append(problem)
                if len(problems) == count:
                    return problems
        raise InputError(
            f"--operands {self.operands} --max_number {self.max_number} --min_target "
            f"{self.min_target} --max_target {self.max_target}: too few problems; widen the range"
        )

    def distinct(self, count, rng, option, held_out=False, spare=0):
        """`count` distinct problems of one split (no two with the same numbers and target).

        Up to `spare` more if there are as many. `option` is what an error names.
        """
        if count > 100_000:  # looking for them would take hours
            raise InputError(f"{option} {count}: at most 100000")
        found = {}  # hash: problem
        fruitless = 0  # rounds without a new one
        while len(found) < count + spare and fruitless < 10:
            before = len(found)
            for problem in self.sample(count, rng, held_out):
                found.setdefault(digest(problem), problem)
            fruitless = fruitless + 1 if len(found) == before else 0
        if len(found) < count:
            split = "held-out" if held_out else "training"
            raise InputError(
                f"{option} {count}: only {len(found)} distinct {split} problems found; "
                "ask for fewer or widen --max_number / --max_target / --data"
            )
        return list(found.values())[: count + spare]

    def held_out(self, count):
        """`count` distinct held-out problems, in an order that knows nothing of difficulty.

        What is drawn often is easy, and is found first. So four times as many are looked for, or
        all that exist, and the order of their hashes says which are taken.
        """
        rng = random.Random("held-out 0")
        found = self.distinct(count, rng, "--eval_problems", held_out=True, spare=3 * count)
        return sorted(found, key=digest)[:count]

    def _generate(self, rng):
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


READ = "what is read: one JSON object a line, a JSON array, CSV, all in UTF-8, or parquet"
LFS_POINTER = b"version https://git-lfs"  # how a file begins that Git LFS has not fetched
FORMATS = {  # how a file begins: what it is, and the way on
    b"\x1f\x8b": "gzip; unpack it first",
    b"\xff\xfe": "in UTF-16; save it in UTF-8",
    b"\xfe\xff": "in UTF-16; save it in UTF-8",
    LFS_POINTER: "a Git LFS pointer, not the file; git lfs pull",
}


def read_problems(path):
    """Problems of a file with the columns `numbers` (or `nums`) and `target`, a list.

    One JSON object a line, a JSON array, CSV, or parquet if pyarrow is installed. A file is read
    once, however often it is asked for.
    """
    if not os.path.isfile(path):  # unlike Path's, this one takes any text
        export = "datasets.load_from_disk(FOLDER)" if os.path.isdir(path) else "load_dataset(ID)"
        what = "is a folder" if os.path.isdir(path) else "no such file"
        raise InputError(
            f"--data {path}: {what}; of a data set, export one split: {export}[SPLIT].to_json(FILE)"
        )
    found = os.stat(path)
    return _read_problems(path, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=1)
def _read_problems(path, *_):
    problems = []
    number = 0  # of the row
    try:
        rows, parse = rows_of(path)
        for number, raw in enumerate(rows, 1):  # noqa: B007, the errors below name it
            row = parse(raw)
            if row is not None:
                problems.append(problem_of(row))
    except ModuleNotFoundError as error:
        raise InputError(f"--data {path}: pip install pyarrow, or convert it to JSONL") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"--data {path}, row {number}: need numbers (or nums) and target ({error!r})"
        ) from error
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        where = f", row {number}" if number else ""
        is_other = isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
        ending = f"; {READ}" if is_other else ""
        raise InputError(f"--data {path}{where}: {error}{ending}") from error
    if not problems:
        raise InputError(f"--data {path}: the file holds no problem")
    return problems


def rows_of(path):
    """(rows of a file, the function that makes a dict of each, or None of a blank line)."""
    data = Path(path).read_bytes()
    for begin, what in FORMATS.items():
        if data.startswith(begin):
            raise ValueError(f"it is {what}; {READ}")
    if data.startswith(b"PAR1") or path.lower().endswith(".parquet"):
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist(), dict
    text = data.decode("utf-8-sig")
    if path.lower().endswith(".csv"):
        return csv.DictReader(io.StringIO(text)), row_of_csv
    if text.lstrip().startswith("["):
        with contextlib.suppress(json.JSONDecodeError):  # then it is lines after all
            return json.loads(text), dict
    return text.split("\n"), lambda line: json.loads(line) if line.strip() else None


def row_of_csv(row):
    """A row of texts, numbers as in "3 7 12" or "[3, 7, 12]" -> the same with numbers."""
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


def longest_prompts(path, count=64):
    """The `count` problems of a file with the longest prompts, [] without a file.

    A run asks for room for them before its first step, not when it comes to them.
    """
    problems = read_problems(path) if path else []

    def length(problem):
        return len(str(problem.numbers)) + len(str(problem.target))

    return heapq.nlargest(count, problems, key=length)


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


def extract_answer(completion):
    """What the last <answer> after the first </think> encloses, or None if it is not closed."""
    _, _, conclusion = completion.partition("</think>")
    _, opened, answer = conclusion.rpartition("<answer>")
    answer, closed, _ = answer.partition("</answer>")
    return answer.strip() if opened and closed else None


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
    """1 if the completion reads `thought</think> <answer>...</answer>` and nothing else, else 0.

    The prompt has already opened <think>.
    """
    conclusion = completion.partition("</think>")[2].strip()
    one_block = conclusion.startswith("<answer>") and conclusion.endswith("</answer>")
    tags = [completion.count(tag) for tag in ("<think>", "</think>", "<answer>", "</answer>")]
    return float(one_block and tags == [0, 1, 1, 1])


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

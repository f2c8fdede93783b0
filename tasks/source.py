"""Where problems come from: a generator, or a file. The split into train and held-out is by hash.

Nothing here knows what a problem is, but for its key() and prompt().
"""

import csv
import dataclasses
import functools
import hashlib
import heapq
import io
import json
import os
import random
from pathlib import Path

from tasks import InputError, printable

HELD_OUT_SHARE = 0.15  # of all problems, by hash
OPTIONS = ("operands", "max_number", "min_target", "max_target", "data")  # of tasks, in a script


def digest(problem):
    """A hash of what the problem is: blind to its difficulty and to the order of a file."""
    return hashlib.sha256(problem.key().encode()).digest()


def is_held_out(problem):
    """Split by hash: equal problems are on one side, in whatever file and order they come."""
    return int.from_bytes(digest(problem)[:4], "big") < HELD_OUT_SHARE * 2**32


def refuse_others(config, taken=()):
    """InputError if one of OPTIONS is given, but for those that a task has a use for."""
    for field in dataclasses.fields(config):
        given = getattr(config, field.name)
        if field.name in OPTIONS and field.name not in taken and given != field.default:
            raise InputError(f"--{field.name} {given}: --task {config.task} has no use for it")


class Source:
    """A source of problems: those of a file or, without one, what `generate` makes.

    `sample` draws with replacement, `distinct` and `held_out` without.
    """

    widen = "--data"  # options that make more problems
    made_from = "--task"  # options that say what is generated, with their values

    @classmethod
    def from_config(cls, config):
        """A task that generates its problems and has no options."""
        refuse_others(config)
        return cls()

    def __init__(self, problems=None):
        self.splits = None  # of a file: (training problems, held-out problems)
        if problems is not None:
            self.splits = ([], [])
            for problem in problems:
                self.splits[is_held_out(problem)].append(problem)
        self.sample(1, random.Random(0))  # is there anything to train on?

    def generate(self, rng):
        """A problem drawn with a random.Random; None if this try gave none."""
        raise NotImplementedError

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
            problem = self.generate(rng)
            if problem and is_held_out(problem) == held_out:
                problems.append(problem)
                if len(problems) == count:
                    return problems
        raise InputError(f"{self.made_from}: too few problems; widen the range")

    def distinct(self, count, rng, option, held_out=False, spare=0):
        """`count` distinct problems of one split (no two with the same key).

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
                f"take {option} {len(found)} or widen {self.widen}"
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

    def longest_prompts(self, count=64):
        """The `count` problems of a file with the longest prompts, [] without a file.

        Of bytes, as a tokenizer may need a token for each. A run asks for room for them before its
        first step.
        """
        problems = [problem for split in self.splits or () for problem in split]
        return heapq.nlargest(count, problems, key=lambda problem: len(problem.prompt().encode()))


# ---- Files --------------------------------------------------------------------------------------

READ = "what is read: one JSON object a line, a JSON array, CSV, all in UTF-8, or parquet"
LFS_POINTER = b"version https://git-lfs"  # how a file begins that Git LFS has not fetched
FORMATS = {  # how a file begins: what it is, and the way on
    b"\x1f\x8b": "gzip; unpack it first",
    b"\xff\xfe": "in UTF-16; save it in UTF-8",
    b"\xfe\xff": "in UTF-16; save it in UTF-8",
    LFS_POINTER: "a Git LFS pointer, not the file; git lfs pull",
}


def read_problems(path, columns, problem_of, of_texts=dict):
    """The problems of a file: problem_of(row) makes one of a dict with the `columns` it needs.

    One JSON object a line, a JSON array, CSV, or parquet if pyarrow is installed. In CSV all values
    are texts; of_texts(row) gives them their types. A file is read once, however often it is asked
    for.
    """
    if not os.path.isfile(path):  # unlike Path's, this one takes any text
        export = "datasets.load_from_disk(FOLDER)" if os.path.isdir(path) else "load_dataset(ID)"
        what = "is a folder" if os.path.isdir(path) else "no such file"
        raise InputError(
            f"--data {path}: {what}; of a data set, export one split: {export}[SPLIT].to_json(FILE)"
        )
    found = os.stat(path)
    return _read_problems(path, columns, problem_of, of_texts, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=1)
def _read_problems(path, columns, problem_of, of_texts, *_):
    problems = []
    number = 0  # of the row
    row = None
    try:
        rows, parse = rows_of(path, of_texts)
        for number, raw in enumerate(rows, 1):  # noqa: B007, the errors below name it
            row = parse(raw)
            if row is not None:
                problem = problem_of(row)
                (problem.key() + problem.prompt()).encode()  # half an emoji is no text
                problems.append(problem)
    except ModuleNotFoundError as error:
        raise InputError(f"--data {path}: pip install pyarrow, or convert it to JSONL") from error
    except (KeyError, TypeError, AttributeError) as error:
        has = f"it has {', '.join(map(printable, row))}" if isinstance(row, dict) else f"{error}"
        raise InputError(f"--data {path}, row {number}: need {columns}; {has:.200}") from error
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        where = f", row {number}" if number else ""
        is_other = isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
        ending = f"; {READ}" if is_other else ""
        what = f"{error.msg}, character {error.pos + 1}" if number and is_json(error) else error
        raise InputError(f"--data {path}{where}: {what}{ending}") from error
    if not problems:
        raise InputError(f"--data {path}: the file holds no problem")
    return problems


def rows_of(path, of_texts):
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
        return csv.DictReader(io.StringIO(text)), of_texts
    if text.lstrip().startswith("["):
        return json.loads(text), object_of
    return text.split("\n"), lambda line: object_of(json.loads(line)) if line.strip() else None


def is_json(error):
    return isinstance(error, json.JSONDecodeError)


def object_of(row):
    """The row, if it is a dict; TypeError if it is anything else."""
    if not isinstance(row, dict):
        raise TypeError(f"a {type(row).__name__}, where an object is needed")
    return row

"""Writes tasks/questions.jsonl, 500 word problems: python -m tasks.make_questions

Each is a sentence pattern with numbers drawn for it. The answer column is GSM8K's: the steps, then
#### and the result. Every number stays below 100, which the committed base writes as one token.
"""

if __package__ != "tasks":
    raise SystemExit("run it from the repository's folder: python -m tasks.make_questions")

import json
import operator
import random
import re

from tasks.question_task import EMBEDDED

COUNT = 500
LARGEST = 99
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ida", "Jon", "Kim", "Leo")
THINGS = ("apples", "pens", "stamps", "shells", "marbles", "books", "cards", "eggs", "buns", "nuts")
# The words, and the steps: x, y, z are drawn, r is the result of the step before.
PATTERNS = (
    ("{a} has {x} {t}. {b} brings {y} more, and {a} gives {z} away. How many are left?", "x+y r-z"),
    ("A box holds {x} {t}. {a} packs {y} boxes and drops {z} {t}. How many are safe?", "x*y r-z"),
    ("{a} picks {x} {t} an hour for {y} hours. {z} friends share them. How many each?", "x*y r/z"),
    ("A bus has {x} seats. {y} people get on, then {z} more. How many seats are free?", "x-y r-z"),
    ("{a} reads {x} of {z} pages a day for {y} days. How many pages are left?", "x*y z-r"),
    ("{a} pays for {x} {t} at {y} coins each with {z} coins. How many come back?", "x*y z-r"),
    ("{a} is {x} years old, {b} {y} times as old. How old are they together?", "x*y r+x"),
    ("A hall has {x} rows of {y} chairs, and {z} by the wall. How many chairs is that?", "x*y r+z"),
    ("{a} has {x} {t}, {b} has {y}. They fill bags of {z}. How many bags is that?", "x+y r/z"),
    ("{a} ate {x} {t} and bought {y}. Now there are {z}. How many were there at first?", "z-y r+x"),
    ("{y} friends share {x} {t}, and {a} gives each {z} more. How many has a friend?", "x/y r+z"),
    ("{a} saves {x} coins a week for {y} weeks and spends {z}. How many are left?", "x*y r-z"),
    ("Of a rope of {x} feet, {y} are lost. The rest makes {z} equal parts. How long?", "x-y r/z"),
    ("{a} bakes {x} buns, {b} bakes {y} fewer. How many buns do they bake together?", "x-y r+x"),
    ("{a} runs {x} miles on each of {y} days, and {z} on Sunday. How many is that?", "x*y r+z"),
    ("Of {x} {t}, {a} eats {y} and sells the rest for {z} coins each. How many coins?", "x-y r*z"),
)


def worked(steps, numbers):
    """The steps with their results, "3*4=12, 12-5=7", or None if one is not whole or too large."""
    result = None
    lines = []
    for step in steps.split():
        left, symbol, right = re.fullmatch(r"(\w)(.)(\w)", step).groups()
        known = {**numbers, "r": result}
        value = OPERATORS[symbol](known[left], known[right])
        if value != int(value) or not 1 <= value <= LARGEST:
            return None
        result = int(value)
        lines.append(f"{known[left]}{symbol}{known[right]}={result}")
    return f"{', '.join(lines)} #### {result}"


def questions(count=COUNT, seed=2):
    """`count` different rows {question, answer}, as many of each pattern as of the others."""
    rng = random.Random(seed)
    rows = {}
    while len(rows) < count:
        words, steps = PATTERNS[len(rows) % len(PATTERNS)]
        numbers = {name: rng.randint(2, rng.choice((9, 30, LARGEST))) for name in "xyz"}
        answer = worked(steps, numbers)
        if answer:
            first, second = rng.sample(NAMES, 2)
            named = {"a": first, "b": second, "t": rng.choice(THINGS), **numbers}
            rows.setdefault(words.format(**named), answer)
    return [{"question": question, "answer": answer} for question, answer in rows.items()]


def main():
    lines = [json.dumps(row) for row in questions()]
    EMBEDDED.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} questions in {EMBEDDED.name}")


if __name__ == "__main__":
    main()

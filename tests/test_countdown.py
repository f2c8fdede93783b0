"""The task: a verifier that is exact and cannot be gamed, and problems that never leak a split."""

import contextlib
import itertools
import json
import random
import re
import struct
import sys
import time
from collections import Counter
from fractions import Fraction

import pytest

import countdown_task as task
from countdown_task import CountdownTask, InputError, Problem, is_correct, is_held_out, solve

TARGET_24 = Problem((8, 3, 8, 3), 24)
MAX_CALL_SECONDS = 0.010


def answered(expression):
    return f"let me see</think> <answer>{expression}</answer>"


# ---- The verifier, row by row. Every rejected row is right to some laxer verifier. --------------


ACCEPTED = {
    "plain": ("1+2", (1, 2), 3),
    "any order": ("2*3-1", (3, 1, 2), 5),
    "precedence": ("1+2*3", (1, 2, 3), 7),
    "minus is left-associative": ("9-4-3", (3, 4, 9), 2),
    "division is left-associative": ("12/3/2", (2, 3, 12), 2),
    "brackets": ("9-(4-3)", (3, 4, 9), 8),
    "spaces": ("  ( 1 + 2 ) * 3  ", (1, 2, 3), 9),
    "newlines around": ("\n(1+2)*3\n", (1, 2, 3), 9),
    "redundant brackets": ("(((1))+((2)))", (1, 2), 3),
    "a number given twice": ("3+3", (3, 3), 6),
    "negative intermediate": ("1-2+5", (1, 2, 5), 4),
    "negative times negative": ("(1-3)*(2-4)", (1, 2, 3, 4), 4),
    "zero intermediate": ("(2-2)*9+5", (2, 2, 9, 5), 5),
    "fraction where floats give 23.99": ("(8/(3-8/3))", (8, 3, 8, 3), 24),
    "fraction where floats give 0.99": ("49*(1/49)", (49, 1, 49), 1),
    "beyond float precision": (f"({10**17 + 1}-{10**17})*7", (10**17 + 1, 10**17, 7), 7),
    "huge integers": (f"{10**90}-{10**90 - 7}", (10**90 - 7, 10**90), 7),
    "the longest answer": (f"1+{' ' * (task.MAX_ANSWER_CHARS - 3)}2", (1, 2), 3),
    "the deepest answer": (f"{'(' * 98}1+2{')' * 98}", (1, 2), 3),
}

REJECTED = {
    # paid for by verifiers that eval the answer or compare floats
    "power": ("2**3", (2, 3), 8),
    "floor division": ("7//2+1", (7, 2, 1), 4),
    "floor division without remainder": ("8//2", (8, 2), 4),
    "decimal glues two numbers": ("1.5*2", (1, 5, 2), 3),
    "decimal without a leading digit": ("4/.5", (4, 5), 8),
    "unary minus": ("-3+5", (3, 5), 2),
    "equation": ("(1+2)*3 = 9", (1, 2, 3), 9),
    "power tower": ("9**9**9", (9, 9, 9), 9**9),
    # other operators
    "unary plus": ("+3+5", (3, 5), 8),
    "unary minus inside": ("3--5", (3, 5), 8),
    "unary plus inside": ("8-+5", (8, 5), 3),
    "unary minus in brackets": ("(-3)+5", (3, 5), 2),
    "unary minus before a bracket": ("5-(-(3))", (3, 5), 8),
    "modulo": ("7%4", (7, 4), 3),
    "shift": ("1<<2", (1, 2), 4),
    "xor": ("5^3", (5, 3), 6),
    "or": ("6|1", (6, 1), 7),
    "invert": ("~5+9", (5, 9), 3),
    "equals": ("1+2==3", (1, 2, 3), 1),
    "less than": ("1<2", (1, 2), 1),
    "single equals": ("1+2=3", (1, 2, 3), 3),
    "if": ("3 if 1 else 3", (3, 1, 3), 3),
    "not": ("not 0 + 1", (0, 1), 0),
    # other literals
    "float": ("2.0*3", (2, 3), 6),
    "trailing dot": ("2.*3", (2, 3), 6),
    "exponent": ("1e1+2", (1, 1, 2), 12),
    "underscore": ("1_0+2", (10, 2), 12),
    "hex": ("0x10+2", (16, 2), 18),
    "binary": ("0b11+2", (3, 2), 5),
    "octal": ("0o17+2", (15, 2), 17),
    "leading zero": ("01+2", (1, 2), 3),
    "leading zeros": ("1+002", (1, 2), 3),
    "complex": ("0j+3+2", (3, 2), 5),
    "bool": ("True+2", (1, 2), 3),
    "string": ("'1'+2", (1, 2), 3),
    "Arabic-Indic digits": ("\u0661+\u0662", (1, 2), 3),
    "full-width digits": ("\uff11+\uff12", (1, 2), 3),
    "superscript": ("3\u00b2", (3, 2), 9),
    "times sign": ("2\u00d73", (2, 3), 6),
    "division sign": ("6\u00f73", (6, 3), 2),
    "minus sign": ("5\u22123", (5, 3), 2),
    "full-width plus": ("1\uff0b2", (1, 2), 3),
    # the numbers
    "digits glued": ("12+3", (1, 2, 3), 15),
    "digits glued across a space": ("1 2+3", (12, 3), 15),
    "a number split": ("1+2+3", (12, 3), 6),
    "used twice": ("2+1+1", (1, 2), 4),
    "used twice, another omitted": ("2+2", (1, 2), 4),
    "omitted": ("1+2", (1, 2, 3), 3),
    "foreign number": ("1+2+0", (1, 2), 3),
    "only the target": ("24", (8, 3), 24),
    "wrong value": ("1+2", (1, 2), 4),
    "off by a millionth": ("3+1/1000000", (3, 1, 1000000), 3),
    "rounds down to the target": ("7/2", (7, 2), 3),
    "huge integer": ("9" * 190, (9, 9), 81),
    # not an expression
    "division by zero": ("(3-3)/(2-2)", (3, 3, 2, 2), 1),
    "times a division by zero": ("3+0*(1/0)", (3, 0, 1, 0), 3),
    "empty": ("", (1, 2), 3),
    "blank": ("   ", (1, 2), 3),
    "empty brackets": ("()", (1, 2), 3),
    "tuple": ("1+2,", (1, 2), 3),
    "statement": ("1+2;", (1, 2), 3),
    "assignment": ("x=1+2", (1, 2), 3),
    "walrus": ("(x:=1+2)", (1, 2), 3),
    "implied product": ("2(3)", (2, 3), 6),
    "implied product of brackets": ("(2)(3)", (2, 3), 6),
    "square brackets": ("[1+2][0]", (1, 2, 0), 3),
    "braces": ("{1+2}", (1, 2), 3),
    "call": ("abs(1-4)", (1, 4), 3),
    "side effect": ("__import__('os')*0+1+2", (0, 1, 2), 3),
    "lambda": ("(lambda:1+2)()", (1, 2), 3),
    "boxed": (r"\boxed{1+2}", (1, 2), 3),
    "words": ("1+2 is it", (1, 2), 3),
    "comment": ("1+2 # =3", (1, 2), 3),
    "comment without words": ("1+2 #3", (1, 2), 3),
    "comment and newline": ("(1+ # one\n2)", (1, 2), 3),
    "newline inside": ("1+\n2", (1, 2), 3),
    "newline inside brackets": ("(1+\n2)", (1, 2), 3),
    "backslash continuation": ("1+\\\n2", (1, 2), 3),
    "tab inside": ("1+\t2", (1, 2), 3),
    "no-break space inside": ("1+\u00a02", (1, 2), 3),
    "NUL at the end": ("1+2\0", (1, 2), 3),
    "NUL inside": ("1+\x002", (1, 2), 3),
    "lone surrogate": ("1+2\ud800", (1, 2), 3),
    "unclosed bracket": ("(1+2", (1, 2), 3),
    "extra bracket": ("1+2)", (1, 2), 3),
    "operator missing its right side": ("1+2+", (1, 2), 3),
    "too long by one": (f"1+{' ' * (task.MAX_ANSWER_CHARS - 2)}2", (1, 2), 3),
    "too long by brackets": (f"{'(' * 99}1+2{')' * 99}", (1, 2), 3),
}


@pytest.mark.parametrize("row", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_right_answers_are_accepted(row):
    """A verifier that misses right answers teaches the policy to avoid them."""
    expression, numbers, target = row
    assert is_correct(answered(expression), Problem(numbers, target))
    assert not is_correct(answered(expression), Problem(numbers, target + 1))
    assert not is_correct(answered(expression), Problem((*numbers, 1), target))


@pytest.mark.parametrize("row", REJECTED.values(), ids=REJECTED.keys())
def test_loopholes_are_closed(row):
    """Whatever a laxer verifier pays for, RL finds."""
    expression, numbers, target = row
    assert not is_correct(answered(expression), Problem(numbers, target))


COMPLETIONS = {  # for 1, 2 -> 3
    "plain": (answered("1+2"), True),
    "empty thought": ("</think><answer>1+2</answer>", True),
    "trailing line": (answered("1+2") + "\nI hope this helps.", True),
    "text between": ("</think> So the answer is <answer>1+2</answer>.", True),
    "quoted in <think>, wrong in the end": (
        "<answer>1+2</answer></think> <answer>2-1</answer>",
        False,
    ),
    "wrong in <think>, right in the end": (
        "<answer>2-1</answer></think> <answer>1+2</answer>",
        True,
    ),
    "last block wrong": ("</think><answer>1+2</answer> no: <answer>2-1</answer>", False),
    "last block right": ("</think><answer>2-1</answer> no: <answer>1+2</answer>", True),
    "last block empty": ("</think><answer>1+2</answer><answer></answer>", False),
    "nested opening": ("</think><answer>2-1<answer>1+2</answer>", True),
    "second closing": ("</think><answer>1+2</answer></answer>", True),
    "unclosed": ("</think><answer>1+2", False),
    "cut in the closing tag": ("</think><answer>1+2</answer", False),
    "last block unclosed": ("</think><answer>1+2</answer><answer>1+2", False),
    "never opened": ("</think>1+2</answer>", False),
    "closed before opened": ("</think></answer>1+2<answer>", False),
    "no tags": ("</think>1+2", False),
    "before </think>": ("<answer>1+2</answer></think>", False),
    "across </think>": ("<answer></think>1+2</answer>", False),
    "</think> inside the answer": ("<answer>1</think>+2</answer>", False),
    "no </think>": ("<answer>1+2</answer>", False),
    "only <think>": ("<think><answer>1+2</answer>", False),
    "between two </think>": ("</think><answer>1+2</answer></think>", True),
    "upper case tags": ("</THINK><ANSWER>1+2</ANSWER>", False),
    "spaced tags": ("</think>< answer>1+2</ answer>", False),
    "empty": ("", False),
}


@pytest.mark.parametrize("row", COMPLETIONS.values(), ids=COMPLETIONS.keys())
def test_only_the_final_answer_counts(row):
    """Which <answer> counts decides what is learned: the last one, after the thought."""
    completion, verdict = row
    assert is_correct(completion, Problem((1, 2), 3)) is verdict


def test_extract_answer_gives_the_text():
    """The text is stripped; an empty answer differs from no answer."""
    assert task.extract_answer("a</think>b<answer> 1 + 2\n</answer>c") == "1 + 2"
    assert task.extract_answer("</think><answer></answer>") == ""
    assert task.extract_answer("</think>") is None


def test_evaluate_expression_is_exact():
    """Fractions, not floats: no tolerance to hide in, no right answer lost to rounding."""
    assert task.evaluate_expression("1/3") == (Fraction(1, 3), [1, 3])
    assert task.evaluate_expression(" 7 - 2*(10/4) ") == (Fraction(2), [7, 2, 10, 4])
    for text in ("", "1/0", "2**3", "-1", "1.5", "x", "1+", "1 2", "1,2", "9" * 201):
        with pytest.raises(ValueError):
            task.evaluate_expression(text)


def test_the_prompt_says_what_the_verifier_checks():
    """The three parents prompt for "can be used once" but score "exactly once"."""
    text = task.prompt_text(Problem((5, 17), 22))
    assert "[5, 17]" in text
    assert "equals 22" in text
    assert "every number exactly once" in text
    example = "<answer>" + text.rsplit("<answer>", 1)[1].removesuffix(".")
    assert is_correct("</think>" + example, Problem((1, 2, 3), 9))
    assert task.format_reward("</think>" + example, None) == 1.0


# -------------------------------------------------------------------------------------------------
# The verifier against an independent one: no ast, no eval, written from the documented rules


class Rejected(Exception):
    pass


def oracle_tokens(text):
    """Whole numbers as int, signs as str."""
    tokens, digits = [], ""
    for char in text + " ":
        if char in "0123456789":
            digits += char
            continue
        if digits:
            if digits[0] == "0" and digits != "0":
                raise Rejected("leading zero")
            tokens.append(sum(10**i * ord(d) - 48 * 10**i for i, d in enumerate(digits[::-1])))
            digits = ""
        if char in "+-*/()":
            tokens.append(char)
        elif char != " ":
            raise Rejected("foreign character")
    return tokens


def oracle_value(tokens):
    """Shunting-yard over Fractions; two stacks, so no nesting is too deep."""
    values, signs = [], []
    wants_number = True

    def reduce_top():
        sign, b, a = signs.pop(), values.pop(), values.pop()
        if sign == "/" and b == 0:
            raise Rejected("division by zero")
        values.append(
            a + b if sign == "+" else a - b if sign == "-" else a * b if sign == "*" else a / b
        )

    for token in tokens:
        is_number = isinstance(token, int)
        if (is_number or token == "(") != wants_number:
            raise Rejected("out of place")
        if is_number:
            values.append(Fraction(token))
            wants_number = False
        elif token == "(":
            signs.append(token)
        elif token == ")":
            while signs and signs[-1] != "(":
                reduce_top()
            if not signs:
                raise Rejected("extra )")
            signs.pop()
        else:
            while signs and signs[-1] != "(" and (signs[-1] in "*/" or token in "+-"):
                reduce_top()
            signs.append(token)
            wants_number = True
    if wants_number or "(" in signs:
        raise Rejected("incomplete")
    while signs:
        reduce_top()
    return values[0]


def oracle_is_correct(completion, problem):
    thought_end = completion.find("</think>")
    start = completion.rfind("<answer>")
    if thought_end < 0 or start < thought_end:
        return False
    end = completion.find("</answer>", start)
    text = completion[start + len("<answer>") : end].strip()
    if end < 0 or len(text) > 200:
        return False
    try:
        tokens = oracle_tokens(text)
        value = oracle_value(tokens)
    except Rejected:
        return False
    used, given = [t for t in tokens if isinstance(t, int)], list(problem.numbers)
    return value == problem.target and sorted(used) == sorted(given)


def oracle_format(completion):
    match = re.fullmatch(r"(.*)</think>\s*<answer>(.*)</answer>\s*", completion, re.DOTALL)
    tag = re.compile("</?(?:think|answer)>")
    return float(bool(match) and not any(tag.search(group) for group in match.groups()))


NOISE = [
    *"0123456789+-*/() .,_=#%^~\\\n\t\0",
    *"\u0661\uff11\u00b2\u00d7\u2212\u00a0\u2003\ud800xej",
    *("**", "//", "--", "((", "))", "1e9", "0x1", "</think>", "<answer>", "</answer>", "9" * 40),
]


def random_tree(rng, numbers):
    """A random expression over the numbers, decorated with harmless brackets and spaces."""
    if len(numbers) == 1:
        text = str(numbers[0])
    else:
        cut = rng.randrange(1, len(numbers))
        left, right = random_tree(rng, numbers[:cut]), random_tree(rng, numbers[cut:])
        space = " " * rng.choice((0, 0, 1))
        text = f"{left}{space}{rng.choice('+-*/')}{space}{right}"
        if rng.random() < 0.6:
            text = f"({text})"
    return f"({text})" if rng.random() < 0.05 else text


def random_case(rng):
    """(kind, completion, problem); the problem is the one that the unmutated answer solves."""
    top = rng.choice((9, 99, 10**6))
    numbers = [rng.randint(1, top) for _ in range(rng.randint(2, 6))]
    value = Fraction(rng.randint(1, 99))
    for _ in range(3):  # mostly whole values, for only they can be targets
        answer = random_tree(rng, numbers)
        with contextlib.suppress(Rejected):
            value = oracle_value(oracle_tokens(answer))
            if value.denominator == 1:
                break
    rng.shuffle(numbers)
    # A fraction is no target: the nearby whole number checks that there is no tolerance.
    problem = Problem(tuple(numbers), int(value) + (rng.random() < 0.05))
    kind = rng.choice(
        ["good"] * 6
        + ["mutated"] * 6
        + ["blocks"] * 4
        + ["nested", "huge", "unicode", "NUL", "soup", "tag soup", "long brackets"]
    )
    if kind == "mutated":
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            at = rng.randrange(len(answer) + 1)
            dropped = rng.choice((0, 0, 1, 2))
            noise = rng.choice((*NOISE, *" " * len(NOISE)))
            answer = answer[:at] + noise + answer[at + dropped :]
    elif kind == "nested":
        depth = rng.randint(1, 110)
        answer = "(" * depth + answer + ")" * (depth - rng.choice((0, 0, 0, 1, -1)))
    elif kind == "huge":
        big = rng.randrange(10 ** rng.choice((20, 90, 199, 5000 if rng.random() < 0.1 else 99)))
        big_text = "9" * 5000 if big >= 10**4000 else str(big)
        form = rng.choice(("{0}*0+{1}", "{1}+{0}-{0}", "{1}*{0}/{0}", "{1}**{0}", "{1}//{0}"))
        answer = form.format(big_text, answer)
        if rng.random() < 0.7 and len(big_text) < 100:
            problem = Problem((*numbers, big, big), problem.target)
    elif kind == "unicode":
        zero = rng.choice((0x660, 0x966, 0xFF10, 0x1D7CE))
        moved = str.maketrans({str(d): chr(zero + d) for d in range(10)})
        at = rng.randrange(len(answer) + 1)
        answer = answer[:at].translate(moved) + answer[at:]
    elif kind == "NUL":
        at = rng.randrange(len(answer) + 1)
        answer = answer[:at] + "\0" + answer[at:]
    elif kind == "soup":
        answer = "".join(rng.choice(NOISE) for _ in range(rng.randint(0, 60)))
    elif kind == "long brackets" and rng.random() < 0.3:
        size = rng.choice((99, 190, 1000, 100_000))
        answer = rng.choice(("(", ")", "()", "(1+", "((1)", "1(", "*(", "-(")) * size + answer

    if kind == "blocks":
        other = rng.choice((answer, "1+1", "", "(" + answer + ")", answer + "+0"))
        completion = rng.choice(
            (
                f"<answer>{other}</answer></think><answer>{answer}</answer>",
                f"<answer>{answer}</answer></think><answer>{other}</answer>",
                f"</think>\n<answer>{other}</answer> <answer>{answer}</answer>",
                f"</think>\n<answer>{answer}</answer> <answer>{other}</answer>",
                f"</think><answer>{answer}</answer> and more",
                f"</think><answer>{answer}</answer><answer>{other}",
                f"</think><answer>{answer}</answer></think>",
                f"</think><answer>{answer}",
                f"<answer>{answer}</answer>",
                f"<answer>{answer}</answer></think>",
                f"</think><answer>\n\u2003{answer}\x1f</answer>",
            )
        )
    elif kind == "tag soup":
        pieces = ["<think>", "</think>", "<answer>", "</answer>", answer, " ", "\0", "<", ">"]
        completion = "".join(rng.choice(pieces) for _ in range(rng.choice((8, 40, 2000))))
    else:
        completion = answered(answer)
    return kind, completion, problem


def timed(function, *args):
    """(result, seconds); a slow call is timed again, for the machine may be busy."""
    seconds = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        result = function(*args)
        seconds = min(seconds, time.perf_counter() - start)
        if seconds < MAX_CALL_SECONDS:
            break
    return result, seconds


def test_ten_thousand_completions_get_the_verdict_of_an_independent_oracle():
    """The verifier is the only teacher: on any text it is exact, quick and does not raise."""
    rng = random.Random(24)
    cases, accepted, slowest = Counter(), Counter(), 0.0
    for case in range(10_000):
        kind, completion, problem = random_case(rng)
        shown = f"case {case} ({kind}): {completion[:300]!r} for {problem}"
        verdict, seconds = timed(is_correct, completion, problem)
        assert verdict is oracle_is_correct(completion, problem), shown
        assert seconds < MAX_CALL_SECONDS, f"{seconds:.3f} s, {shown}"
        assert task.answer_reward(completion, problem) == verdict, shown
        assert task.format_reward(completion, problem) == oracle_format(completion), shown
        assert task.brevity_reward(completion, problem) == (len(completion) <= 100), shown
        cases[kind] += 1
        accepted[kind] += verdict
        slowest = max(slowest, seconds)
    print(f"slowest call {slowest * 1e3:.2f} ms; accepted {accepted} of {cases}")
    assert 0.2 <= accepted.total() / cases.total() <= 0.8  # both verdicts are exercised
    for kind in ("good", "mutated", "blocks", "nested", "huge", "unicode"):
        assert 10 < accepted[kind] < cases[kind] - 10, kind
    assert accepted["NUL"] == accepted["soup"] == 0


ADVERSARIAL = {
    "100 kB of (": "(" * 100_000,
    "100 kB of )": ")" * 100_000,
    "100 kB of matched brackets": "(" * 50_000 + "1" + ")" * 50_000,
    "100 kB of digits": "9" * 100_000,
    "100 kB of sums": "1+" * 50_000 + "1",
    "100 kB of spaces": "1+2" + " " * 100_000 + "+3",
    "100 kB of minus": "-" * 100_000 + "1",
    "100 kB of NUL": "\0" * 100_000,
    "100 kB of tags": "<answer></answer></think>" * 4_000,
    "200 unclosed brackets": "(" * 200,
    "200 characters of calls": "1(" * 100,
    "200 characters of starred calls": "*(" * 100,
    "200 characters of unary minus": "-" * 199 + "1",
    "200 characters of quotients": "99/" * 66 + "9",
    "power tower": "9**" * 60 + "9",
}


@pytest.mark.parametrize("text", ADVERSARIAL.values(), ids=ADVERSARIAL.keys())
@pytest.mark.parametrize("opening", ["", "</think><answer>"], ids=["bare", "opened"])
@pytest.mark.parametrize("closing", ["", "</answer>"], ids=["unclosed", "closed"])
def test_adversarial_texts_are_rejected_quickly(text, opening, closing):
    """`9**9**9` hangs the parents, and one slow verdict stalls a whole training step."""
    completion = opening + text + closing
    verdict, seconds = timed(is_correct, completion, TARGET_24)
    assert verdict is False
    assert seconds < MAX_CALL_SECONDS
    for reward in task.REWARDS.values():
        assert reward(completion, TARGET_24) in (0.0, 1.0)


# ---- Rewards ------------------------------------------------------------------------------------


def test_rewards_are_the_documented_ones_and_exact():
    """The algorithms add and compare rewards in float32, and the ablations select by name."""
    assert list(task.REWARDS) == ["answer", "format", "brevity"]
    for completion in ("", answered("1+2"), answered("1+2") * 2, "x" * 1000):
        for reward in task.REWARDS.values():
            value = reward(completion, Problem((1, 2), 3))
            assert type(value) is float
            assert struct.unpack("f", struct.pack("f", value))[0] == value
            assert value in (0.0, 1.0)


def test_answer_reward_pays_only_for_the_right_answer():
    """No partial credit: it would be a full advantage in a group where nobody is right."""
    assert task.answer_reward(answered("8/(3-8/3)"), TARGET_24) == 1.0
    assert task.answer_reward(answered("8+3+8+3"), TARGET_24) == 0.0
    assert task.answer_reward("8/(3-8/3)", TARGET_24) == 0.0


FORMATS = {
    "plain": ("thought</think><answer>1</answer>", 1.0),
    "space between": ("thought</think> <answer>1</answer>", 1.0),
    "newlines around": ("thought\n</think>\n\n<answer>1</answer>\n", 1.0),
    "wrong answer": ("thought</think><answer>no idea</answer>", 1.0),
    "newline in the answer": ("thought</think><answer>1\n2</answer>", 1.0),
    "other tags in the thought": ("a <b> c</think><answer>1</answer>", 1.0),
    "empty": ("", 0.0),
    "no tags": ("1+2", 0.0),
    "no </think>": ("<answer>1</answer>", 0.0),
    "no <answer>": ("thought</think> 1", 0.0),
    "unclosed": ("thought</think><answer>1", 0.0),
    "never opened": ("thought</think>1</answer>", 0.0),
    "<think> again": ("<think>thought</think><answer>1</answer>", 0.0),
    "two </think>": ("thought</think></think><answer>1</answer>", 0.0),
    "</think> in the answer": ("thought</think><answer></think>1</answer>", 0.0),
    "</think> last": ("thought<answer>1</answer></think>", 0.0),
    "two answers": ("thought</think><answer>1</answer><answer>2</answer>", 0.0),
    "answer in the thought too": ("<answer>1</answer></think><answer>1</answer>", 0.0),
    "<answer> in the thought": ("<answer></think><answer>1</answer>", 0.0),
    "text between": ("thought</think> so <answer>1</answer>", 0.0),
    "text after": ("thought</think><answer>1</answer> done", 0.0),
    "tags reversed": ("thought</think></answer>1<answer>", 0.0),
}


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS.keys())
def test_format_reward(row):
    """All or nothing, whatever the answer is worth: GRPO-Zero's README and code disagree here."""
    completion, reward = row
    assert task.format_reward(completion, Problem((1, 2), 3)) == reward


def test_brevity_reward_has_its_edge_at_the_documented_length():
    """It pays short completions, right or wrong, so that it can conflict with `answer`."""
    assert task.BREVITY_CHARS == 100
    assert task.brevity_reward("x" * 100, TARGET_24) == 1.0
    assert task.brevity_reward("x" * 101, TARGET_24) == 0.0
    assert task.brevity_reward("", TARGET_24) == 1.0
    padded = "x" * 100 + answered("8/(3-8/3)")
    assert task.brevity_reward(padded, TARGET_24) == 0.0


# ---- Problems -----------------------------------------------------------------------------------


def identity(problem):
    return tuple(sorted(problem.numbers)), problem.target


def reachable_by_tv_rules(values):
    """All results from using every value, where each intermediate is a positive whole number."""
    if len(values) == 1:
        return set(values)
    results = set()
    for i, j in itertools.permutations(range(len(values)), 2):
        a, b = values[i], values[j]
        rest = [value for k, value in enumerate(values) if k not in (i, j)]
        steps = [a + b, a * b, a - b] + ([a // b] if a % b == 0 else [])
        for step in steps:
            if step >= 1:
                results |= reachable_by_tv_rules([*rest, step])
    return results


@pytest.mark.parametrize(
    "knobs",
    [
        {"operands": 2, "max_number": 20, "min_target": 1, "max_target": 30},
        {"operands": 3},
        {"operands": 3, "max_number": 50, "min_target": 70, "max_target": 90},
        {"operands": 4, "max_number": 20, "min_target": 10, "max_target": 100},
    ],
    ids=str,
)
def test_generated_problems_are_solvable_and_within_the_knobs(knobs):
    """An unsolvable problem puts an unknown ceiling on accuracy."""
    problems = CountdownTask(**knobs).sample(40, random.Random(0))
    top, low = knobs.get("max_number", 12), knobs.get("min_target", 10)
    for problem in problems:
        assert len(problem.numbers) == knobs["operands"]
        assert all(type(n) is int and 1 <= n <= top for n in problem.numbers)
        assert type(problem.target) is int
        assert low <= problem.target <= knobs.get("max_target", 60)
        assert problem.target in reachable_by_tv_rules(problem.numbers)
        assert is_correct(answered(solve(problem)), problem)
    assert len(set(problems)) > 30


def test_no_permutation_leaks_into_the_other_split():
    """Parents split by row, so a shuffled training problem may sit in their test set."""
    rng = random.Random(1)
    splits = []
    for _ in range(200):
        numbers, target = [rng.randint(1, 12) for _ in range(4)], rng.randint(10, 60)
        orders = {Problem(order, target) for order in itertools.permutations(numbers)}
        assert len({is_held_out(problem) for problem in orders}) == 1
        splits.append(is_held_out(Problem(tuple(numbers), target)))
    assert any(splits)
    assert not all(splits)


def test_the_split_holds_out_its_share_and_never_moves():
    """Results of two releases compare only if the held-out problems stay held out."""
    triples = itertools.combinations_with_replacement(range(1, 10), 3)
    problems = [Problem(numbers, target) for numbers in triples for target in range(10, 61)]
    assert sum(map(is_held_out, problems)) / len(problems) == pytest.approx(0.15, abs=0.015)
    pinned = [target for target in range(10, 61) if is_held_out(Problem((3, 7, 12), target))]
    assert pinned == [14, 17, 21, 22, 25, 34, 51, 59]


@pytest.mark.parametrize("held_out", [False, True])
def test_sample_stays_in_its_split(held_out):
    """Training on a held-out problem is the one mistake that no curve shows."""
    problems = CountdownTask().sample(300, random.Random(2), held_out=held_out)
    assert len(problems) == 300
    assert {is_held_out(problem) for problem in problems} == {held_out}


def test_sample_gives_training_problems_unless_asked():
    """The default must be the safe split."""
    assert not any(map(is_held_out, CountdownTask().sample(300, random.Random(3))))


def test_the_generator_alone_decides_the_sample():
    """Variants compare only if the same seed gives the same problems in the same order."""
    first, again, other = (
        CountdownTask().sample(50, random.Random(seed)) for seed in ("a", "a", "b")
    )
    assert first == again
    assert first != other


def test_held_out_is_deterministic_and_distinct_up_to_permutation():
    """Duplicates would make the error bars of an evaluation too narrow."""
    problems = CountdownTask().held_out(100)
    random.seed(0)  # the global generator must not matter
    assert CountdownTask().held_out(100) == problems
    assert len({identity(problem) for problem in problems}) == len(problems) == 100
    assert all(map(is_held_out, problems))
    assert CountdownTask().held_out(100, seed=1) != problems


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def some_problems(held_out, count=3):
    rows = (Problem((1, 2, n), 30) for n in itertools.count(3))
    return list(itertools.islice((p for p in rows if is_held_out(p) == held_out), count))


def as_rows(problems):
    return [{"numbers": p.numbers, "target": p.target} for p in problems]


def test_problems_of_a_file_keep_to_their_split(tmp_path):
    """A file brings no split of its own, so the hash decides there too."""
    train, test = some_problems(False), some_problems(True)
    source = CountdownTask(data=write_rows(tmp_path / "d.jsonl", as_rows(train + test)))
    assert set(source.sample(100, random.Random(0))) == set(train)
    assert set(source.sample(100, random.Random(0), held_out=True)) == set(test)
    assert set(source.held_out(3)) == set(test)


def test_held_out_counts_another_target_as_another_problem(tmp_path):
    """The same numbers with two targets are two problems, with two solutions."""
    rows = [Problem((3, 7, 12), target) for target in (14, 17)]
    source = CountdownTask(data=write_rows(tmp_path / "d.jsonl", as_rows(rows)))
    assert set(source.held_out(2)) == set(rows)


def test_held_out_counts_a_permuted_row_once(tmp_path):
    """TinyZero's data holds permutations; each would be counted as a new problem."""
    problem = some_problems(True, 1)[0]
    orders = [Problem(o, problem.target) for o in itertools.permutations(problem.numbers)]
    source = CountdownTask(data=write_rows(tmp_path / "d.jsonl", as_rows(orders)))
    assert len(source.held_out(1)) == 1
    with pytest.raises(InputError, match="--eval_problems 2: only 1 distinct"):
        source.held_out(2)


@pytest.mark.parametrize("held_out", [False, True])
def test_a_file_without_a_split_is_an_input_error(tmp_path, held_out):
    """A handful of rows can all hash to one side."""
    rows = as_rows(some_problems(not held_out))
    source = CountdownTask(data=write_rows(tmp_path / "d.jsonl", rows))
    with pytest.raises(InputError, match="--data.*" + ("held-out" if held_out else "training")):
        source.sample(1, random.Random(0), held_out=held_out)


def test_more_held_out_problems_than_exist_is_an_input_error():
    """Repeating problems silently would be worse than to refuse."""
    tiny = CountdownTask(operands=2, max_number=5, min_target=1, max_target=25)
    pairs = itertools.combinations_with_replacement(range(1, 6), 2)
    space = [Problem(pair, t) for pair in pairs for t in sorted(reachable_by_tv_rules(pair))]
    exist = sum(map(is_held_out, space))
    assert len(tiny.held_out(exist)) == exist > 1
    with pytest.raises(InputError, match=f"--eval_problems {exist + 1}: only {exist} distinct"):
        tiny.held_out(exist + 1)


@pytest.mark.parametrize("held_out", [False, True])
def test_knobs_that_no_problem_fits_are_an_input_error(held_out):
    """1 and 1 never make 50; looking for ever is no answer."""
    knobs = {"operands": 2, "max_number": 1, "min_target": 50, "max_target": 60}
    with pytest.raises(InputError, match="--max_number 1 --min_target 50 --max_target 60"):
        CountdownTask(**knobs).sample(1, random.Random(0), held_out=held_out)


@pytest.mark.parametrize(
    ("knobs", "option"),
    [
        ({"operands": 1}, "--operands 1"),
        ({"operands": 7}, "--operands 7"),
        ({"operands": -3}, "--operands -3"),
        ({"max_number": 0}, "--max_number 0"),
        ({"max_number": -5}, "--max_number -5"),
        ({"min_target": 0}, "--min_target 0"),
        ({"min_target": 61}, "--min_target 61 --max_target 60"),
        ({"max_target": 9}, "--max_target 9"),
        ({"max_target": -1}, "--max_target -1"),
        ({"data": "/nowhere/at/all.jsonl"}, "--data /nowhere/at/all.jsonl"),
    ],
    ids=str,
)
def test_bad_knobs_are_input_errors_that_name_the_option(knobs, option):
    """The user typed an option, so that is what the message must name."""
    with pytest.raises(InputError, match=re.escape(option)):
        CountdownTask(**knobs)


@pytest.mark.parametrize(
    "knobs", [{"operands": 2}, {"operands": 6}, {"min_target": 60}, {"max_number": 1}], ids=str
)
def test_the_edges_of_the_knobs_are_allowed(knobs):
    """The bounds that the messages state are inclusive."""
    CountdownTask(**knobs)


# ---- Files --------------------------------------------------------------------------------------


def test_read_problems_takes_either_name_and_skips_blank_lines(tmp_path):
    """`nums` is the column of Countdown-Tasks-3to4, `numbers` is ours."""
    path = tmp_path / "d.jsonl"
    path.write_text(
        '\n{"numbers": [1, 2], "target": 3}\n  \n{"target": 98, "nums": [44, 19, 35], "x": "é"}',
        encoding="utf-8",
    )
    assert task.read_problems(str(path)) == [Problem((1, 2), 3), Problem((44, 19, 35), 98)]


GOOD_ROW = '{"numbers": [1, 2], "target": 3}\n'
BAD_ROWS = {
    "malformed": '{"numbers": [1, 2], "target"',
    "word": "hello",
    "two objects": '{"numbers": [1, 2], "target": 3} {}',
    "integer of 5000 digits": '{"numbers": [1, 2], "target": ' + "9" * 5000 + "}",
    "negative number": '{"numbers": [1, -2], "target": 3}',
    "zero": '{"numbers": [1, 0], "target": 1}',
    "negative target": '{"numbers": [1, 2], "target": -1}',
    "float": '{"numbers": [1.0, 2], "target": 3}',
    "float target": '{"numbers": [1, 2], "target": 3.0}',
    "NaN": '{"numbers": [1, 2], "target": NaN}',
    "bool": '{"numbers": [true, 2], "target": 3}',
    "null": '{"numbers": [null, 2], "target": 3}',
    "strings": '{"numbers": ["1", "2"], "target": 3}',
    "string of digits": '{"numbers": "12", "target": 3}',
    "nested list": '{"numbers": [[1, 2]], "target": 3}',
    "one number": '{"numbers": [3], "target": 3}',
    "no number": '{"numbers": [], "target": 3}',
}
BAD_SHAPES = {
    "numbers is a number": '{"numbers": 12, "target": 3}',
    "numbers is null": '{"numbers": null, "target": 3}',
    "numbers is an object": '{"numbers": {"1": 2}, "target": 3}',
    "no target": '{"numbers": [1, 2]}',
    "no numbers": '{"target": 3}',
    "empty object": "{}",
    "bare number": "3",
    "bare list": "[1]",
    "list with the key": '["numbers"]',
    "bare string": '"numbers"',
    "bare null": "null",
    "bare bool": "true",
    "very deep": "[" * 100_000,
}


@pytest.mark.parametrize("before", ["", GOOD_ROW, GOOD_ROW + "\n"], ids=["1st", "2nd", "3rd"])
@pytest.mark.parametrize("row", BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_bad_row_is_an_input_error_that_names_the_row(tmp_path, before, row):
    """Nobody finds one bad line among 490,364 without its number (blank lines count)."""
    path = tmp_path / "d.jsonl"
    path.write_text(before + row + "\n" + GOOD_ROW, encoding="utf-8")
    with pytest.raises(InputError, match=f"--data .*d.jsonl, row {before.count(chr(10)) + 1}: "):
        task.read_problems(str(path))


@pytest.mark.parametrize("before", ["", GOOD_ROW], ids=["1st", "2nd"])
@pytest.mark.parametrize("row", BAD_SHAPES.values(), ids=BAD_SHAPES.keys())
def test_a_row_of_another_shape_is_an_input_error(tmp_path, before, row):
    """Valid JSON can still be anything; a traceback would not name the option."""
    path = tmp_path / "d.jsonl"
    path.write_text(before + row + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"--data .*d.jsonl"):
        task.read_problems(str(path))


@pytest.mark.parametrize("name", ["d.jsonl", "d.parquet"])
def test_a_missing_file_is_an_input_error(tmp_path, name):
    """The commonest mistake of all."""
    with pytest.raises(InputError, match=f"--data .*{name}: no such file"):
        task.read_problems(str(tmp_path / name))
    with pytest.raises(InputError, match=r"--data .*: no such file"):
        task.read_problems(str(tmp_path))  # a folder


@pytest.mark.parametrize("content", [b"", b"\n", b" \n\t\n\r\n"], ids=repr)
def test_an_empty_file_is_an_input_error(tmp_path, content):
    """Otherwise the first step fails, far from the cause."""
    path = tmp_path / "d.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"--data .*no problem"):
        task.read_problems(str(path))


@pytest.mark.parametrize(
    "content",
    [b"\xff", GOOD_ROW.encode() + b"\xe9\n", GOOD_ROW.encode("utf-16"), b"\x1f\x8b\x08\x00"],
    ids=["byte", "latin-1", "utf-16", "gzip"],
)
def test_a_file_that_is_not_utf8_is_an_input_error(tmp_path, content):
    """A compressed or a Windows file is a likely thing to pass."""
    path = tmp_path / "d.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"--data .*d.jsonl"):
        task.read_problems(str(path))


def test_parquet_gives_the_same_problems(tmp_path):
    """The public data set ships as parquet, with the column `nums`."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "d.parquet"
    table = pyarrow.table({"target": [98, 3], "nums": [[44, 19, 35], [1, 2]]})
    parquet.write_table(table, path)
    assert task.read_problems(str(path)) == [Problem((44, 19, 35), 98), Problem((1, 2), 3)]


def test_bad_parquet_is_an_input_error(tmp_path):
    """A bad table deserves the same messages as a bad line."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "d.parquet"
    for columns, message in [
        ({"target": [3, 3], "nums": [[1, 2], [1, -2]]}, "--data .*d.parquet, row 2: "),
        ({"target": [None], "nums": [[1, 2]]}, "--data .*d.parquet, row 1: "),
        ({"target": [3.0], "nums": [[1, 2]]}, "--data .*d.parquet, row 1: "),
        ({"target": [3], "nums": [None]}, "--data .*d.parquet"),
        ({"target": [3], "other": [[1, 2]]}, "--data .*d.parquet"),
        ({"target": pyarrow.array([], pyarrow.int64())}, "--data .*d.parquet.*no problem"),
    ]:
        parquet.write_table(pyarrow.table(columns), path)
        with pytest.raises(InputError, match=message):
            task.read_problems(str(path))


@pytest.mark.parametrize(
    "content",
    [b"", b"not a parquet file", b"PAR1" + b"\1" * 50 + b"\x10\0\0\0PAR1"],
    ids=["empty", "text", "broken footer"],
)
def test_a_broken_parquet_file_is_an_input_error(tmp_path, content):
    """An interrupted download, or a text file with the wrong ending."""
    pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "d.parquet"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"--data .*d.parquet"):
        task.read_problems(str(path))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    """pyarrow is optional, so its absence is an ordinary mistake."""
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "d.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"--data .*d.parquet: pip install pyarrow"):
        task.read_problems(str(path))


# ---- The solver ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "target"),
    [
        ((1, 1), 60),
        ((2, 2, 2), 9),
        ((1, 1, 1, 1), 24),
        ((5, 5), 2),
        ((10, 3), 3),  # with floor division
        ((2, 3), 23),  # glued
        ((2, 5), 32),  # with a power
        ((3, 4, 7), 12),  # without using the 7
        ((6,), 5),
    ],
    ids=str,
)
def test_solve_gives_none_when_there_is_no_solution(numbers, target):
    """`this problem has no solution` is a claim about all expressions."""
    assert solve(Problem(numbers, target)) is None


@pytest.mark.parametrize(
    ("numbers", "target"),
    [
        ((8, 3, 8, 3), 24),
        ((3, 3, 7, 7), 24),
        ((1, 5, 5, 5), 24),
        ((1, 3, 4, 6), 24),
        ((49, 1, 49), 1),
        ((2, 2, 9, 5), 5),
        ((3, 5), 2),
        ((6, 3), 2),
        ((7,), 7),
        ((1, 2, 3, 4, 5), 15),
    ],
    ids=str,
)
def test_solve_finds_solutions_that_need_fractions_or_a_certain_order(numbers, target):
    """The exhaustive search must not stop at whole intermediates or at the given order."""
    problem = Problem(numbers, target)
    assert is_correct(answered(solve(problem)), problem)


def test_solve_agrees_with_brute_force_on_small_problems():
    """Both ways: nothing missed, nothing invented."""

    def values(terms):
        if len(terms) == 1:
            return {terms[0]}
        found = set()
        for cut in range(1, len(terms)):
            for a, b in itertools.product(values(terms[:cut]), values(terms[cut:])):
                found |= {a + b, a - b, a * b} | ({a / b} if b else set())
        return found

    for numbers in itertools.combinations_with_replacement((1, 2, 5, 7), 3):
        orders = itertools.permutations(map(Fraction, numbers))
        reachable = set().union(*map(values, orders))
        for target in range(1, 40):
            found = solve(Problem(numbers, target))
            assert (found is not None) == (target in reachable), (numbers, target, found)
            assert found is None or is_correct(answered(found), Problem(numbers, target))

"""The task: a verifier that is exact and cannot be gamed, and problems that never leak a split."""

import contextlib
import itertools
import json
import random
import re
import sys
import time
from collections import Counter
from fractions import Fraction

import pytest

import countdown_task as task
from countdown_task import CountdownTask, Problem, is_correct, solve
from tasks import InputError
from tasks.source import is_held_out

TARGET_24 = Problem((8, 3, 8, 3), 24)
MAX_CALL_SECONDS = 0.010


def answered(expression):
    return f"let me see</think> <answer>{expression}</answer>"


# ---- The verifier, row by row. Every rejected row is right to some laxer verifier. --------------


ACCEPTED = {
    "plain": ("1+2", (1, 2), 3),
    "precedence": ("1+2*3", (1, 2, 3), 7),
    "minus is left-associative": ("9-4-3", (3, 4, 9), 2),
    "division is left-associative": ("12/3/2", (2, 3, 12), 2),
    "brackets": ("9-(4-3)", (3, 4, 9), 8),
    "spaces around": ("\n (1+2) * 3 \n", (1, 2, 3), 9),
    "negative intermediate": ("1-2+5", (1, 2, 5), 4),
    "zero intermediate": ("(2-2)*9+5", (2, 2, 9, 5), 5),
    "fraction where floats give 23.99": ("(8/(3-8/3))", (8, 3, 8, 3), 24),
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
    "unary minus": ("-3+5", (3, 5), 2),
    "unary plus": ("+3+5", (3, 5), 8),
    "equation": ("(1+2)*3 = 9", (1, 2, 3), 9),
    # other operators
    "xor": ("5^3", (5, 3), 6),
    # other literals
    "float": ("2.0*3", (2, 3), 6),
    "exponent": ("1e1+2", (1, 1, 2), 12),
    "underscore": ("1_0+2", (10, 2), 12),
    "leading zero": ("01+2", (1, 2), 3),
    "Arabic-Indic digits": ("\u0661+\u0662", (1, 2), 3),
    "superscript": ("3\u00b2", (3, 2), 9),
    "times sign": ("2\u00d73", (2, 3), 6),
    # the numbers
    "digits glued": ("12+3", (1, 2, 3), 15),
    "digits glued across a space": ("1 2+3", (12, 3), 15),
    "used twice": ("2+1+1", (1, 2), 4),
    "omitted": ("1+2", (1, 2, 3), 3),
    "foreign number": ("1+2+0", (1, 2), 3),
    "only the target": ("24", (8, 3), 24),
    "wrong value": ("1+2", (1, 2), 4),
    "off by a millionth": ("3+1/1000000", (3, 1, 1000000), 3),
    "rounds down to the target": ("7/2", (7, 2), 3),
    # not an expression
    "division by zero": ("(3-3)/(2-2)", (3, 3, 2, 2), 1),
    "empty": ("", (1, 2), 3),
    "tuple": ("1+2,", (1, 2), 3),
    "implied product": ("2(3)", (2, 3), 6),
    "call": ("abs(1-4)", (1, 4), 3),
    "boxed": (r"\boxed{1+2}", (1, 2), 3),
    "comment": ("1+2 #3", (1, 2), 3),
    "newline inside brackets": ("(1+\n2)", (1, 2), 3),
    "tab inside": ("1+\t2", (1, 2), 3),
    "NUL inside": ("1+\x002", (1, 2), 3),
    "lone surrogate": ("1+2\ud800", (1, 2), 3),
    "unclosed bracket": ("(1+2", (1, 2), 3),
    "operator missing its right side": ("1+2+", (1, 2), 3),
    "too long by one": (f"1+{' ' * (task.MAX_ANSWER_CHARS - 2)}2", (1, 2), 3),
    "too long by brackets": (f"{'(' * 99}1+2{')' * 99}", (1, 2), 3),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_right_answers_are_accepted(name):
    """A verifier that misses right answers teaches the policy to avoid them."""
    expression, numbers, target = ACCEPTED[name]
    assert is_correct(answered(expression), Problem(numbers, target))
    assert not is_correct(answered(expression), Problem(numbers, target + 1))
    assert not is_correct(answered(expression), Problem((*numbers, 1), target))


@pytest.mark.parametrize("name", REJECTED)
def test_loopholes_are_closed(name):
    """Whatever a laxer verifier pays for, RL finds."""
    expression, numbers, target = REJECTED[name]
    assert not is_correct(answered(expression), Problem(numbers, target))


COMPLETIONS = {  # for 1, 2 -> 3
    "plain": (answered("1+2"), True),
    "text between": ("</think> So the answer is <answer>1+2</answer>.", True),
    "quoted in the thought": ("<answer>1+2</answer></think> <answer>2-1</answer>", False),
    "wrong in the thought": ("<answer>2-1</answer></think> <answer>1+2</answer>", True),
    "last block wrong": ("</think><answer>1+2</answer> no: <answer>2-1</answer>", False),
    "nested opening": ("</think><answer>2-1<answer>1+2</answer>", True),
    "unclosed": ("</think><answer>1+2", False),
    "last block unclosed": ("</think><answer>1+2</answer><answer>1+2", False),
    "closed before opened": ("</think></answer>1+2<answer>", False),
    "across </think>": ("<answer></think>1+2</answer>", False),
    "</think> inside the answer": ("<answer>1</think>+2</answer>", False),
    "no </think>": ("<answer>1+2</answer>", False),
    "between two </think>": ("</think><answer>1+2</answer></think>", True),
}


@pytest.mark.parametrize("name", COMPLETIONS)
def test_only_the_final_answer_counts(name):
    """Which <answer> counts decides what is learned: the last one, after the thought."""
    completion, verdict = COMPLETIONS[name]
    assert is_correct(completion, Problem((1, 2), 3)) is verdict


def test_the_prompt_says_what_the_verifier_checks():
    """The three parents prompt for "can be used once" but score "exactly once"."""
    text = Problem((5, 17), 22).prompt()
    assert "[5, 17]" in text
    assert "equals 22" in text
    assert "every number exactly once" in text
    example = "<answer>" + text.rsplit("<answer>", 1)[1].removesuffix(".")
    assert is_correct("</think>" + example, Problem((1, 2, 3), 9))
    assert task.format_reward("</think>" + example, None) == 1.0


# ---- The verifier against an independent one, without ast, from the documented rules ------------


class Rejected(Exception):
    pass


def oracle_tokens(text):
    """Whole numbers as int, signs as str."""
    tokens = []
    for part in re.findall(r"[0-9]+|[^ ]", text):
        if part[0] not in "0123456789+-*/()" or (part[0] == "0" and part != "0"):
            raise Rejected("foreign character or leading zero")
        tokens.append(int(part) if part[0] in "0123456789" else part)
    return tokens


def oracle_value(tokens):
    """Recursive descent over Fractions: a sum of products of numbers and brackets."""
    rest = [*tokens, "end"][::-1]

    def chain(signs, operand):
        value = operand()
        while rest[-1] in signs:
            sign, right = rest.pop(), operand()
            if sign == "/" and right == 0:
                raise Rejected("division by zero")
            if sign in "+-":
                value += right if sign == "+" else -right
            else:
                value *= right if sign == "*" else 1 / right
        return value

    def total():
        return chain(("+", "-"), lambda: chain(("*", "/"), atom))

    def atom():
        token = rest.pop()
        if isinstance(token, int):
            return Fraction(token)
        if token != "(":
            raise Rejected("a number or bracket should stand here")
        value = total()
        if rest.pop() != ")":
            raise Rejected("unclosed")
        return value

    value = total()
    if rest != ["end"]:
        raise Rejected("something is left over")
    return value


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
    used = [token for token in tokens if isinstance(token, int)]
    return value == problem.target and Counter(used) == Counter(problem.numbers)


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
        return rng.choice(("{}", "{}", "{}", "({})")).format(numbers[0])
    cut = rng.randrange(1, len(numbers))
    left, right = random_tree(rng, numbers[:cut]), random_tree(rng, numbers[cut:])
    space = rng.choice(("", "", " "))
    return rng.choice(("({})", "{}")).format(f"{left}{space}{rng.choice('+-*/')}{space}{right}")


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
    kinds = {"good": 6, "mutated": 8, "blocks": 4, "nested": 1, "huge": 1, "soup": 1, "tag soup": 1}
    kind = rng.choices([*kinds], [*kinds.values()])[0]
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
        big = rng.randrange(10 ** rng.choice((20, 90, 199)))
        form = rng.choice(("{1}+{0}-{0}", "{1}*{0}/{0}", "{1}**{0}", "{1}//{0}"))
        answer = form.format(big, answer)
        problem = Problem((*numbers, big, big), problem.target)
    elif kind == "soup":
        answer = "".join(rng.choice(NOISE) for _ in range(rng.randint(0, 60)))

    if kind == "blocks":
        other = rng.choice((answer, "1+1", "", "(" + answer + ")", answer + "+0"))
        forms = (
            "<answer>{0}</answer></think><answer>{1}</answer>",
            "<answer>{1}</answer></think><answer>{0}</answer>",
            "</think>\n<answer>{0}</answer> <answer>{1}</answer>",
            "</think>\n<answer>{1}</answer> <answer>{0}</answer>",
            "</think><answer>{1}</answer><answer>{0}",
            "</think><answer>{1}</answer></think>",
            "</think><answer>{1}",
            "<answer>{1}</answer>",
            "</think><answer>\n\u2003{1}\x1f</answer> and more",
        )
        completion = rng.choice(forms).format(other, answer)
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


@pytest.mark.slow
def test_ten_thousand_completions_get_the_verdict_of_an_independent_oracle():
    """The verifier is the only teacher: on any text it is exact, quick and does not raise."""
    rng = random.Random(24)
    cases, accepted = Counter(), Counter()
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
    assert 0.2 <= accepted.total() / cases.total() <= 0.8  # both verdicts are exercised
    for kind in ("good", "mutated", "blocks", "nested", "huge"):
        assert 10 < accepted[kind] < cases[kind] - 10, kind


ADVERSARIAL = {
    "100 kB of (": "(" * 100_000,
    "100 kB of matched brackets": "(" * 50_000 + "1" + ")" * 50_000,
    "100 kB of digits": "9" * 100_000,
    "100 kB of spaces": "1+2" + " " * 100_000 + "+3",
    "100 kB of tags": "<answer></answer></think>" * 4_000,
    "200 characters of starred calls": "*(" * 100,
    "200 characters of quotients": "99/" * 66 + "9",
    "power tower": "9**" * 60 + "9",
}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_texts_are_rejected_quickly(name):
    """One slow verdict stalls a whole training step."""
    text = ADVERSARIAL[name]
    for completion in (text, f"</think><answer>{text}", f"</think><answer>{text}</answer>"):
        verdict, seconds = timed(is_correct, completion, TARGET_24)
        assert verdict is False
        assert seconds < MAX_CALL_SECONDS
        for reward in task.REWARDS.values():
            assert reward(completion, TARGET_24) in (0.0, 1.0)


# ---- Rewards ------------------------------------------------------------------------------------


FORMATS = {
    "plain": ("thought</think><answer>1</answer>", 1.0),
    "newlines around": ("thought\n</think>\n\n<answer>1</answer>\n", 1.0),
    "wrong answer": ("thought</think><answer>no idea</answer>", 1.0),
    "no </think>": ("<answer>1</answer>", 0.0),
    "unclosed": ("thought</think><answer>1", 0.0),
    "<think> again": ("<think>thought</think><answer>1</answer>", 0.0),
    "</think> in the answer": ("thought</think><answer></think>1</answer>", 0.0),
    "two answers": ("thought</think><answer>1</answer><answer>2</answer>", 0.0),
    "<answer> in the thought": ("<answer></think><answer>1</answer>", 0.0),
    "text between": ("thought</think> so <answer>1</answer>", 0.0),
    "text after": ("thought</think><answer>1</answer> done", 0.0),
}


@pytest.mark.parametrize("name", FORMATS)
def test_format_reward(name):
    """All or nothing, whatever the answer is worth: GRPO-Zero's README and code disagree here."""
    completion, reward = FORMATS[name]
    assert task.format_reward(completion, Problem((1, 2), 3)) == reward


def test_rewards_have_the_documented_names_and_values():
    """Runs choose rewards by name; `brevity` pays right or wrong, so that it can conflict."""
    assert list(task.REWARDS) == ["answer", "format", "brevity", "first_try"]
    right = answered("8/(3-8/3)")
    values = {
        "x" * 100: [0.0, 0.0, 1.0, 0.0],
        "x" * 101: [0.0, 0.0, 0.0, 0.0],
        right: [1.0, 1.0, 1.0, 1.0],
        f"\nwait {right}": [1.0, 1.0, 1.0, 0.0],  # right, and not at the first try
    }
    for completion, expected in values.items():
        rewards = [reward(completion, TARGET_24) for reward in task.REWARDS.values()]
        assert all(type(reward) is float for reward in rewards) and rewards == expected


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


@pytest.mark.parametrize("knobs", [(2, 20, 1, 30), (3, 12, 20, 24), (4, 20, 10, 100)], ids=str)
def test_generated_problems_are_solvable_and_within_the_knobs(knobs):
    """An unsolvable problem puts an unknown ceiling on accuracy."""
    operands, max_number, min_target, max_target = knobs
    problems = CountdownTask(*knobs).sample(40, random.Random(0))
    for problem in problems:
        assert len(problem.numbers) == operands
        assert all(type(n) is int and 1 <= n <= max_number for n in problem.numbers)
        assert type(problem.target) is int and min_target <= problem.target <= max_target
        assert problem.target in reachable_by_tv_rules(problem.numbers)
        assert is_correct(answered(solve(problem)), problem)
    assert len(set(problems)) > 30


def test_no_permutation_leaks_into_the_other_split():
    """Parents split by row, so a shuffled training problem may sit in their test set."""
    for target in range(10, 61):
        orders = itertools.permutations((3, 5, 7, 12))
        assert len({is_held_out(Problem(order, target)) for order in orders}) == 1


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
    asked = {"held_out": True} if held_out else {}  # the default is the safe split
    problems = CountdownTask().sample(300, random.Random(2), **asked)
    assert len(problems) == 300
    assert {is_held_out(problem) for problem in problems} == {held_out}


def test_the_generator_alone_decides_the_sample():
    """Variants compare only if the same seed gives the same problems in the same order."""
    first, again, other = (CountdownTask().sample(50, random.Random(seed)) for seed in "aab")
    assert first == again
    assert first != other


def test_held_out_is_deterministic_and_distinct_up_to_permutation():
    """Duplicates would make the error bars of an evaluation too narrow."""
    problems = CountdownTask().held_out(100)
    random.seed(0)  # the global generator must not matter
    assert CountdownTask().held_out(100) == problems
    assert len({identity(problem) for problem in problems}) == len(problems) == 100
    assert all(map(is_held_out, problems))


@pytest.mark.slow
def test_held_out_order_knows_nothing_of_difficulty():
    """What is drawn often is easy; in the order of drawing it came first (twice as often)."""
    task = CountdownTask()
    problems = task.held_out(384)
    drawn = Counter(map(identity, task.sample(20_000, random.Random(0), held_out=True)))
    often = [drawn[identity(problem)] for problem in problems]
    first, last = sum(often[:192]), sum(often[192:])
    assert 0.75 < first / last < 1.33


def write_rows(path, problems):
    rows = ({"numbers": p.numbers, "target": p.target} for p in problems)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def some_problems(held_out, count=3):
    rows = (Problem((1, 2, n), 30) for n in itertools.count(3))
    return list(itertools.islice((p for p in rows if is_held_out(p) == held_out), count))


def test_problems_of_a_file_keep_to_their_split(tmp_path):
    """A file brings no split of its own, so the hash decides there too."""
    train, test = some_problems(False), some_problems(True)
    source = CountdownTask(data=write_rows(tmp_path / "d.jsonl", train + test))
    assert set(source.sample(100, random.Random(0))) == set(train)
    assert set(source.sample(100, random.Random(0), held_out=True)) == set(test)
    assert set(source.held_out(3)) == set(test)


def test_held_out_counts_permutations_once_and_targets_apart(tmp_path):
    """TinyZero's data holds permutations; the same numbers with two targets are two problems."""
    orders = itertools.permutations((3, 7, 12))
    rows = [Problem(order, target) for order in orders for target in (14, 17)]
    source = CountdownTask(data=write_rows(tmp_path / "d.jsonl", rows + some_problems(False)))
    assert {identity(problem) for problem in source.held_out(2)} == set(map(identity, rows))
    with pytest.raises(InputError, match="--eval_problems 3: only 2 distinct"):
        source.held_out(3)


def test_a_file_without_a_split_is_an_input_error(tmp_path):
    """A handful of rows can all hash to one side; a run must not find out in mid-training."""
    with pytest.raises(InputError, match=r"--data.*training"):
        CountdownTask(data=write_rows(tmp_path / "test.jsonl", some_problems(True)))
    source = CountdownTask(data=write_rows(tmp_path / "train.jsonl", some_problems(False)))
    with pytest.raises(InputError, match=r"--data.*held-out"):
        source.held_out(1)


def test_more_held_out_problems_than_exist_is_an_input_error():
    """Repeating problems silently would be worse than to refuse; all that exist are found."""
    tiny = CountdownTask(operands=2, max_number=5, min_target=1, max_target=25)
    pairs = itertools.combinations_with_replacement(range(1, 6), 2)
    space = [Problem(pair, t) for pair in pairs for t in sorted(reachable_by_tv_rules(pair))]
    exist = sum(map(is_held_out, space))
    assert len(tiny.held_out(exist)) == exist > 1
    with pytest.raises(InputError, match=f"--eval_problems {exist + 1}: only {exist} distinct"):
        tiny.held_out(exist + 1)


BAD_KNOBS = {
    "--operands 1": {"operands": 1},
    "--operands 7": {"operands": 7},
    "--max_number 0": {"max_number": 0},
    "--min_target 0": {"min_target": 0},
    "--min_target 61 --max_target 60": {"min_target": 61},
    "--max_number 1 --min_target 50 --max_target 60": {"max_number": 1, "min_target": 50},
}


@pytest.mark.parametrize("option", BAD_KNOBS)
def test_bad_knobs_are_input_errors_that_name_the_option(option):
    """The user typed an option, so that is what the message names; 1, 1, 1 never make 50."""
    with pytest.raises(InputError, match=option):
        CountdownTask(**BAD_KNOBS[option])


def test_the_edges_of_the_knobs_are_allowed():
    """The bounds that the messages state are inclusive."""
    for knobs in ({"operands": 6}, {"min_target": 60}, {"min_target": 1, "max_number": 1}):
        CountdownTask(**knobs)


# ---- Files --------------------------------------------------------------------------------------


def test_read_problems_takes_either_name_and_skips_blank_lines(tmp_path):
    """`nums` is the column of Countdown-Tasks-3to4, `numbers` is ours; Windows adds a BOM."""
    path = tmp_path / "d.jsonl"
    path.write_text(
        '\ufeff\n{"numbers": [1, 2], "target": 3}\n  \n{"target": 98, "nums": [44, 19], "x": "é"}',
        encoding="utf-8",
    )
    assert task.problems_of(str(path)) == [Problem((1, 2), 3), Problem((44, 19), 98)]


GOOD_ROW = '{"numbers": [1, 2], "target": 3}\n'
BAD_ROWS = {
    "malformed": '{"numbers": [1, 2], "target"',
    "integer of 5000 digits": '{"numbers": [1, 2], "target": ' + "9" * 5000 + "}",
    "negative number": '{"numbers": [1, -2], "target": 3}',
    "zero target": '{"numbers": [1, 2], "target": 0}',
    "float": '{"numbers": [1.0, 2], "target": 3}',
    "bool": '{"numbers": [true, 2], "target": 3}',
    "string of digits": '{"numbers": "12", "target": 3}',
    "one number": '{"numbers": [3], "target": 3}',
    "numbers is null": '{"numbers": null, "target": 3}',
    "no target": '{"numbers": [1, 2]}',
    "bare number": "3",
    "very deep": "[" * 100_000,
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_an_input_error_that_names_the_row(tmp_path, name):
    """Nobody finds one bad line among 490,364 without its number (blank lines count)."""
    path = tmp_path / "d.jsonl"
    path.write_text(GOOD_ROW + "\n" + BAD_ROWS[name] + "\n" + GOOD_ROW, encoding="utf-8")
    with pytest.raises(InputError, match=r"--data .*d.jsonl, row 3: "):
        task.problems_of(str(path))


BAD_FILES = {  # name: (content, what the message says)
    "missing.jsonl": (None, "no such file"),
    "missing.parquet": (None, "no such file"),
    "empty.jsonl": (b" \n\t\n\r\n", "no problem"),
    "utf-16.jsonl": (GOOD_ROW.encode("utf-16"), "UTF-16"),
    "gzip.jsonl": (b"\x1f\x8b\x08\x00", "gzip"),
    "text.parquet": (b"not a parquet file", ""),
    "broken.parquet": (b"PAR1" + b"\1" * 50 + b"\x10\0\0\0PAR1", ""),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_without_problems_is_an_input_error(tmp_path, name):
    """A wrong path, a compressed file and an interrupted download are the likely mistakes."""
    content, message = BAD_FILES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"--data .*{name}.*{message}"):
        CountdownTask(data=str(tmp_path / name))


def test_parquet_gives_the_same_problems(tmp_path):
    """The public data set ships as parquet; a bad table gets the same messages as a bad line."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "d.parquet"
    columns = {"target": [98, 3], "nums": [[44, 19, 35], [1, 2]]}
    parquet.write_table(pyarrow.table(columns), path)
    assert task.problems_of(str(path)) == [Problem((44, 19, 35), 98), Problem((1, 2), 3)]
    for bad in ({"target": [98, None]}, {"nums": [[1, 2], None]}, {"nums": [[1, 2], [1, -2]]}):
        parquet.write_table(pyarrow.table({**columns, **bad}), path)
        with pytest.raises(InputError, match=r"--data .*d.parquet, row 2: "):
            task.problems_of(str(path))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    """pyarrow is optional, so its absence is an ordinary mistake."""
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "d.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"--data .*d.parquet: pip install pyarrow"):
        task.problems_of(str(path))


# ---- The solver ---------------------------------------------------------------------------------


def test_solve_finds_solutions_that_need_fractions():
    """The exhaustive search must not stop at whole intermediates."""
    for numbers in ((8, 3, 8, 3), (3, 3, 7, 7), (1, 5, 5, 5), (1, 3, 4, 6)):
        assert is_correct(answered(solve(Problem(numbers, 24))), Problem(numbers, 24))
    assert solve(Problem((1, 1, 1, 1), 24)) is None


def test_solve_agrees_with_brute_force_on_small_problems():
    """Nothing is missed and nothing invented: "no solution" is a claim about all expressions."""

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

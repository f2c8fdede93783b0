"""The scripts, the seven axes, and where each script says it lies on them."""

import ast
import contextlib
import os
import re
import textwrap
from functools import cache
from pathlib import Path

from tasks import InputError

HERE = Path(__file__).resolve().parents[1]  # not common's, which would load torch

AXES = ("granularity", "clip width", "length + std", "KL", "advantage", "sampling", "sampler")
EXTRAS = ("reward", "critic", "tracker", "turns")  # no axis, but to be seen in a diff
# One axis or extra for each comment: it ends the line or a colon follows.
MARKER = re.compile(
    rf"#((?!<-).)*<- (?P<name>{'|'.join(map(re.escape, AXES + EXTRAS))})(:(?!.*<-)|$)"
)


def file_of(script):
    return HERE / f"{script.replace('.', '/')}.py"


def short(script):
    """zoo.rloo -> rloo.py"""
    return f"{script.rpartition('.')[2]}.py"


def module_named(name):
    """dapo.py, rloo or zoo/rloo -> the script as a module: dapo, zoo.rloo."""
    module = name.removesuffix(".py").replace("/", ".")
    return module if file_of(module).exists() else f"zoo.{module}"


def source_of(script):
    """The text of a script; InputError, which says where, if it does not parse."""
    source = file_of(script).read_text(encoding="utf-8")
    try:
        docstring_of(source)
    except SyntaxError as error:
        name = f"{script.replace('.', '/')}.py"
        raise InputError(f"{name}, line {error.lineno}: {error.msg}") from error
    return source


def refuse_unfinished(name):
    """InputError if a file of this name, beside grpo.py or in zoo/, does not parse."""
    module = name.removesuffix(".py").replace("/", ".").removeprefix("zoo.")
    for there in (module, f"zoo.{module}"):
        if os.path.isfile(file_of(there)):  # unlike Path's, this one takes any text
            source_of(there)


def scripts():
    """Every script that names its seven coordinates, as a module: grpo, its neighbours, zoo.*

    A file that is unfinished, so that it does not parse, is none.
    """
    files = [*HERE.glob("*.py"), *HERE.glob("zoo/*.py")]
    shown = [file for file in files if not file.name.startswith(".")]  # an editor's own are not
    names = [".".join(file.relative_to(HERE).with_suffix("").parts) for file in shown]
    found = []
    for name in names:
        with contextlib.suppress(ValueError):  # an InputError is one, and a text that is no UTF-8
            found += [name] if coordinates(source_of(name)).keys() >= set(AXES) else []
    return sorted(found, key=lambda name: (name != "grpo", "." in name, name))


@cache
def code_lines(source):
    """[(line, the top-level function or class it belongs to)], the docstring left out."""
    tree = ast.parse(source)
    where = {}
    for node in tree.body[1:]:
        label = "imports" if isinstance(node, ast.Import | ast.ImportFrom) else "other"
        label = getattr(node, "name", label)
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        where |= dict.fromkeys(range(first, node.end_lineno + 1), label)
    skip = tree.body[0].end_lineno
    lines = source.splitlines()
    return [(line, where.get(i, "between")) for i, line in enumerate(lines[skip:], skip + 1)]


@cache
def docstring_of(source):
    return ast.get_docstring(ast.parse(source)) or ""


def docstring_length(source):
    """Lines of a script up to the end of its docstring."""
    return ast.parse(source).body[0].end_lineno


def method_in_code(source):
    """The lines of its code that a script's docstring quotes as its method, without comments."""
    quoted = docstring_of(source).partition("The method in code:\n")[2].partition("\n\n")[0]
    return textwrap.dedent(quoted).splitlines()


def without_comment(line):
    """A line of code as a docstring quotes it."""
    return line.partition("  #")[0].strip()


def coordinates(source):
    """{axis or extra: where a script's docstring says that it is}; only those that it names."""
    doc = docstring_of(source)
    found = {
        name: re.search(rf"^    {re.escape(name)}  +(\S.*)", doc, re.MULTILINE)
        for name in AXES + EXTRAS
    }
    return {name: match[1] for name, match in found.items() if match}


def equations(source):
    """The lines of a script's docstring that state its method, up to the coordinates."""
    doc = docstring_of(source).partition("Coordinates on the seven axes:")[0]
    return textwrap.dedent(doc.split("baseline:\n\n", 1)[-1]).rstrip().splitlines()


def without_remark(equation):
    """A line of the equations up to the remark that stands behind three spaces or more."""
    left = re.match(r"\w+ +(?:=|<-) +", equation)
    start = left.end() if left else 0
    return equation[:start] + re.split(r" {3,}", equation[start:])[0]


def loss_line(source):
    """The line of L in a script's equations, `L    = ... sum_t [ -SURROGATE ...`; else ""."""
    found = (without_remark(line) for line in equations(source))
    return next((line for line in found if re.match(r"L    = .*sum_[it] (\[ )?-", line)), "")


# What L multiplies the surrogate by where the sampler is another policy: a script's own symbol.
CORRECTION = re.compile(r"^([cM]_it?) ")


def whole_surrogate(source):
    """What a script's L takes the mean of, without its sign and without the KL."""
    found = re.search(r"sum_[it] (?:\[ )?-(.*?)(?: \+ beta.*| \])?$", loss_line(source))
    return found[1] if found else ""


def surrogate(source):
    """The same without what corrects for the sampler."""
    return CORRECTION.sub("", whole_surrogate(source))


def correction(source):
    """The symbol of what corrects for the sampler in a script's L; "" if nothing does."""
    found = CORRECTION.match(whole_surrogate(source))
    return found[1] if found else ""


GREEK = "alpha|beta|gamma|delta|epsilon|lambda|mu|omega|phi|rho|sigma|tau|theta"
# A symbol of an equation that stands for a number, such as b, q_i or lambda; a function is none.
SYMBOL = re.compile(rf"(?<!\w)((?:{GREEK}|[A-Za-z])(?:_[ij][tks]?)?)(?![\w(|])")
GIVEN = {"L", "R", "o", "e", "beta", "i", "j", "k", "s", "t"}  # in every script


def undefined_symbols(source):
    """Symbols of a script's equations that no line, remark, sentence or option defines."""

    def names(text):
        return {word.partition("_")[0] for word in re.findall(r"\w+", text)}

    lines = equations(source)
    formulas = [re.sub(r"^\w+ +(=|<-) +", "", without_remark(line)) for line in lines]
    beside = docstring_of(source)
    for formula in formulas:
        beside = beside.replace(formula, "")
    config = source[source.index("class Config") :].partition("\n\n\n")[0]
    defined = GIVEN | names(beside) | names(config)
    used = [symbol for formula in formulas for symbol in SYMBOL.findall(formula)]
    return sorted({symbol for symbol in used if symbol.partition("_")[0] not in defined})


def moved_axes(source, hub):
    """The axes and extras on which a script's coordinates differ from those of its hub."""
    here, there = coordinates(source), coordinates(hub)
    return {name for name in AXES + EXTRAS if here.get(name) != there.get(name)}


def parent(source):
    """The script that a script is compared with, as its docstring says: vs grpo.py, or another."""
    found = re.search(r"^vs ([\w/]+)\.py:", source, re.MULTILINE)
    return module_named(found[1]) if found else "grpo"


def made_of(source):
    """The scripts that a composition is made of, as its docstring says; none for another script."""
    return [module_named(part.partition(":")[0]) for part in parts_named(source)]


def parts_named(source):
    """The parts of a composition as its docstring names them: ["dapo:sampling", "gspo"]."""
    found = re.search(r"composed by `python\s+-m\s+compose\s+([^`]+)`", source)
    return found[1].split() if found else []


def marker(line):
    """The axis or extra that a line of code is marked with, or None."""
    found = MARKER.search(line)
    return found and found["name"]

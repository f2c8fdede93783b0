"""The command that runs a run again, with options moved or with a part of another script."""

import ast
import shlex
from pathlib import Path

from compose import composition
from compose.reader import file_of, module_named, source_of
from tasks import InputError, printable

OF_THE_RUN = ("output_dir", "resume", "overwrite", "threads")  # no part of what is measured


def defaults(source):
    """{option: default} of a script; an option whose default is no constant is left out."""
    config = next(n for n in ast.parse(source).body if getattr(n, "name", "") == "Config")
    found = {}
    for line in config.body:
        match line:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Call(args=[default, *_])):
                try:
                    found[name] = ast.literal_eval(default)
                except ValueError:
                    continue
    return found


def module_of(run):
    """The module of a run's script; None if it is not in this repository."""
    module = module_named(run.script)
    return module if run.script.isidentifier() and file_of(module).exists() else None


def parts_of(script, made_of=()):
    """A script as parts of a composition; grpo.py, which is in all of them, is none."""
    known = {composition.short(name) for name in composition.composable()}
    return list(made_of) or ([script] if f"{script}.py" in known else [])


def options_of(run):
    """({option: value}, {option: default}) of a run: what it was given, the rest as usual.

    A log may come from anywhere: a value of another kind than its default is not believed.
    """
    module = module_of(run)
    if run.parts:
        usual = defaults(composition.compose(run.parts).source)
    else:
        usual = defaults(source_of(module or "grpo"))
    now = dict(usual)
    for name, value in run.settings.items():
        if name in usual and name not in OF_THE_RUN and same_kind(value, usual[name]):
            now[name] = value
    return now, usual


def same_kind(value, default):
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, list):
        return isinstance(value, list) and all(same_kind(part, default[0]) for part in value)
    return type(value) is type(default)


def text_of(value):
    """An option's value as words of a command line."""
    if isinstance(value, list):
        return " ".join(map(text_of, value))
    return f"{value:g}" if isinstance(value, float) else shlex.quote(printable(value))


def flags(options, usual):
    """The options that are not as usual, as words of a command line, each behind a space."""
    return spelled({name: value for name, value in options.items() if value != usual[name]})


def spelled(options):
    """All of these options as words of a command line; one that is empty has no words."""
    return "".join(f" --{name} {text_of(value)}" for name, value in options.items() if value != "")


def beside(run):
    """The option that lets a run begin where this one lies, or its successor may."""
    return f" --output_dir {shlex.quote(f'runs/{printable(Path(run.name).name)}-next')}"


def with_options(run, symptom, q):
    """The command that runs it again with the symptom's options; None if there is none."""
    now, usual = options_of(run)
    asked = symptom.options(q, now, usual) if symptom.options else {}
    moved = {name: value for name, value in asked.items() if now.get(name, value) != value}
    if run.script == "ttrl" and "reward_components" in asked:  # a verifier in place of the vote
        return f"python grpo.py{flags(*for_script('grpo', now, usual))}{beside(run)}"
    if not moved:
        return None
    kept = {name: value for name, value in now.items() if name not in moved}
    start = f"python -m compose {' '.join(run.parts)} -o mine.py && python mine.py"
    return (
        f"{start if run.parts else program(run)}{flags(kept, usual)}{spelled(moved)}{beside(run)}"
    )


def program(run):
    module = module_of(run)
    if module is None and not run.script.isidentifier():
        return "python grpo.py"
    return f"python -m {module}" if module and "." in module else f"python {run.script}.py"


def for_script(module, now, usual, source=None):
    """(options, defaults) with which another script is given what this run was given.

    An option that the other script lacks, or has another default of, is left as that has it.
    """
    other = defaults(source or source_of(module))
    same = {name for name, value in other.items() if usual.get(name) == value}
    return {name: value for name, value in now.items() if name in same}, other


def with_parts(run, parts):
    """The command that writes these parts as one script and runs it; None if they do not compose.

    A single whole script is run as it is.
    """
    now, usual = options_of(run)
    try:
        made = composition.compose(parts)
    except InputError:
        return None
    if len(parts) == 1 and ":" not in parts[0]:
        module = module_named(parts[0])
        start = f"python -m {module}" if "." in module else f"python {module}.py"
        return start + flags(*for_script(module, now, usual)) + beside(run)
    given = flags(*for_script("mine", now, usual, made.source))
    return f"python -m compose {' '.join(parts)} -o mine.py && python mine.py{given}"


def command(run, symptom, q):
    """What to try for a symptom of a run; None if it has no command."""
    asked = with_options(run, symptom, q)
    if asked or symptom.part is None:
        return asked
    parts = parts_of(run.script, run.parts)
    if symptom.part in parts or symptom.part.startswith(f"{run.script}:"):
        return None  # the run has that lever already
    return with_parts(run, [*parts, symptom.part])

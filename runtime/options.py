"""Options: the fields of a script's Config, from the command line, with their bounds."""

import argparse
import dataclasses
import math

import transformers

from tasks import InputError, printable


def option(default, help, **bounds):
    """A field of a script's Config: its default, its line in --help, and its bounds.

    at_least, above, below: a number; within: the least and the largest; choices: a container;
    at_most, divides, per: the name of another option. `check_config` enforces them.
    """
    metadata = {"help": help, "bounds": bounds}
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def parse_options(config_class, description=None, words=None):
    """A config_class from the words of a command line, sys.argv if None."""

    def without_bounds(field):  # the parser hands all metadata to argparse
        default = {"default": field.default, "default_factory": field.default_factory}
        help = {"help": field.metadata["help"]}
        return field.name, field.type, dataclasses.field(**default, metadata=help)

    fields = [without_bounds(field) for field in dataclasses.fields(config_class)]
    parser = Parser(
        dataclasses.make_dataclass(config_class.__name__, fields),
        description=description,
        epilog="Names in [brackets] are those of TRL's GRPOConfig for the same option.",
        formatter_class=HelpFormatter,
    )
    options, unknown = parser.parse_args_into_dataclasses(words, return_remaining_strings=True)
    if "-f" in unknown and any(word.endswith(".json") for word in unknown):
        parser.error("these are a notebook's own words; there, call train(Config())")
    if unknown:
        parser.error(f"unknown option {' '.join(unknown)}; --help lists the options")
    config = config_class(**vars(options))
    given, _ = parser.parse_known_args(words, argparse.Namespace(steps=None))
    config.steps_given = given.steps is not None  # no field, so that no log holds it
    return config


def given(config, names):
    """Those of the named options that are not at their defaults, as words of a command line."""
    default = type(config)()
    moved = [name for name in names if getattr(config, name) != getattr(default, name)]
    return ", ".join(f"--{name}" for name in moved)


class Parser(transformers.HfArgumentParser):
    def error(self, message):
        """One line, without the page of all options above it."""
        self.exit(2, f"{self.prog}: {printable(message)}\n")


class HelpFormatter(transformers.hf_argparser.ArgumentDefaultsHelpFormatter):
    def _fill_text(self, text, width, indent):
        return text  # a script's docstring keeps its own line breaks in --help


def check_config(config):
    """One clear line for the first option that is out of its bounds, or of any sensible ones."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        named = f"--{field.name} {value}"
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and abs(number) >= 2**63:
                raise InputError(f"{named}: a whole number of less than 2^63")
            if isinstance(number, float) and number and not 1e-30 <= abs(number) <= 1e30:
                raise InputError(f"{named}: a number of size 1e-30 to 1e30, or 0")
        for rule, bound in field.metadata["bounds"].items():
            if rule == "at_least" and not value >= bound:
                raise InputError(f"{named}: at least {bound}")
            if rule == "above" and not bound < value < math.inf:
                raise InputError(f"{named}: a number greater than {bound}")
            if rule == "below" and not value < bound:
                raise InputError(f"{named}: a number less than {bound}")
            if rule == "within" and not bound[0] <= value <= bound[1]:
                raise InputError(f"{named}: a number from {bound[0]} to {bound[1]}")
            if rule == "choices":
                for name in value if isinstance(value, list) else [value]:
                    if name not in bound:
                        allowed = ", ".join(map(str, bound))
                        raise InputError(f"--{field.name} {name}: choose from {allowed}")
            if rule == "at_most" and value > getattr(config, bound):
                raise InputError(f"{named}: at most --{bound} {getattr(config, bound)}")
            if rule == "divides" and (value < 1 or getattr(config, bound) % value):
                raise InputError(f"{named}: must divide --{bound} {getattr(config, bound)}")
            if rule == "per" and len(value) != len(getattr(config, bound)):
                raise InputError(f"--{field.name}: give one number for each of --{bound}")

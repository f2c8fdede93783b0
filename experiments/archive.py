"""The committed logs, a zip for each experiment: experiments/logs/NAME.zip, read in place.

A member is a run, ARM-seedSEED.jsonl: a line about the run, then its rows. It is in the zip of the
experiment that defines the arm. Equal logs make equal zips: members are sorted and share one date.
"""

import json
import os
import re
import zipfile

import filelock

from compose.reader import HERE
from experiments.catalogue import ARMS, DEFINED_IN

LOGS = HERE / "experiments/logs"
LOCK = HERE / "runs/logs.lock"  # runs/ is not committed
DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold


def zip_of(arm):
    """The file that an arm's logs are in, or will be."""
    return LOGS / f"{DEFINED_IN[arm]}.zip"


def seeds_of(arm):
    """The seeds of an arm's runs that are there, sorted."""
    if not zip_of(arm).exists():
        return []
    with zipfile.ZipFile(zip_of(arm)) as packed:
        found = [re.fullmatch(r"(.+)-seed(\d+)\.jsonl", name) for name in packed.namelist()]
    return sorted(int(match[2]) for match in found if match[1] == arm)


def compared_seeds(arm):
    """The seeds of an arm's runs that are there and in the catalogue: what is compared.

    A run with another seed moves no verdict, so nobody can add runs until one says what they hope.
    """
    return [seed for seed in seeds_of(arm) if seed in ARMS[arm].seeds]


def find(name):
    """(arm, seed) of a committed run by its name, such as grpo-seed1; None if there is none."""
    found = re.fullmatch(r"(.+)-seed([0-9]+)", name)
    if not found or found[1] not in ARMS or int(found[2]) not in seeds_of(found[1]):
        return None
    return found[1], int(found[2])


def read(arm, seed):
    """A run's lines as dicts: the first is about the run, the others are its rows."""
    with zipfile.ZipFile(zip_of(arm)) as packed:
        text = packed.read(f"{arm}-seed{seed}.jsonl").decode("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def save(arm, seed, lines):
    """Puts a run into its experiment's zip, in place of an older one of the same arm and seed.

    Two runs may end at once: they take turns, and a reader sees the zip before or after.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    LOCK.parent.mkdir(exist_ok=True)
    file = zip_of(arm)
    with filelock.FileLock(LOCK):
        members = {}
        if file.exists():
            with zipfile.ZipFile(file) as packed:
                members = {name: packed.read(name) for name in packed.namelist()}
        members[f"{arm}-seed{seed}.jsonl"] = "".join(f"{line}\n" for line in lines).encode()
        partial = file.with_name(f"{file.name}.part")
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
            for name in sorted(members):
                member = zipfile.ZipInfo(name, DATE)
                packed.writestr(member, members[name], zipfile.ZIP_DEFLATED, compresslevel=9)
        os.replace(partial, file)

"""Injects faults into runs and counts how they end.

    python -m tests.faults.faults --short   # a few of every kind on two scripts, half a minute
    python -m tests.faults.faults           # some thousand, 15 minutes; writes docs/lab/faults.md
    python -m tests.faults.faults --only "two starters"   # one kind again, and its row of the page

Every fault hits a run of its own, of two steps of a microscopic model (micro.py), and counts
as one of three: after it, or after --resume, the run ended as an uninterrupted one, row by row and
byte by byte; or it was refused in one line that names the file, nothing lost, and the way on that
the line names works; or anything else, which must be 0.
"""

if __package__ != "tests.faults":
    raise SystemExit("run it from the repository's folder: python -m tests.faults.faults")

import argparse
import functools
import hashlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from runtime import run_folder
from runtime.measures import repeatable

import torch

import common
from compose.reader import scripts
from tests.faults import micro
from tests.faults.injection import ACTIONS, Watch
from tests.faults.pages import read_section, write_section
from tools import tiny_runs

# ---- Runs to be disturbed -----------------------------------------------------------------------

FRESH, RESUMED, OVERWRITING = "a new run", "a resumed run", "a run that overwrites"
HOW = {FRESH: [], RESUMED: ["--resume"], OVERWRITING: ["--overwrite"]}


class World:
    """A script's uninterrupted run, and the folders in which others start."""

    def __init__(self, script, folder, model):
        self.script = script
        self.folder = folder / script
        self.model = model
        self.folder.mkdir()
        self.place = self.folder / "run with späces"  # every run has its turn here
        self.run(FRESH, seed=2)
        self.move(OVERWRITING)
        self.run(FRESH, steps=1)
        self.move(RESUMED)
        self.reset(RESUMED)
        self.run(RESUMED)
        self.expected = self.results()
        self.move("finished")
        # As after a kill in a save, before the checkpoint that it replaced is removed.
        both = shutil.copytree(self.folder / "finished", self.folder / "both")
        shutil.copytree(self.folder / RESUMED / "checkpoint", both / "checkpoint.old")

    def words(self, **changes):
        options = tiny_runs.options_of(
            self.script, model=self.model, output_dir=self.place, **changes
        )
        return tiny_runs.words_of(options)

    def run(self, how, **changes):
        ended = micro.run(self.script, [*self.words(**changes), *HOW[how]])
        assert ended.status == 0, ended
        return ended

    def move(self, name):
        shutil.rmtree(self.folder / name, ignore_errors=True)
        self.place.rename(self.folder / name)

    def reset(self, name):
        """The place as a run finds it that is named FRESH, RESUMED, ..."""
        shutil.rmtree(self.place, ignore_errors=True)
        if name != FRESH:
            shutil.copytree(self.folder / name, self.place)

    def results(self):
        """(rows, digests of transcripts and weights): equal for equal runs."""
        rows = repeatable(run_folder.read_jsonl(self.place / "metrics.jsonl"))
        files = [self.place / "samples.jsonl", *self.place.glob("checkpoint/*.safetensors")]
        return rows, [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]

    def contents(self):
        """{file: bytes} of the folder, without what may change though nothing is lost."""
        files = [file for file in self.place.rglob("*") if file.is_file() and file.name != "lock"]
        return {str(file): file.read_bytes() for file in files}

    def points(self, how):
        """[(kind, path)] of all points of an uninterrupted run."""
        listing = self.folder / "points"
        listing.unlink(missing_ok=True)
        self.reset(how)
        watch = Watch(self.script, self.place, listing=listing)
        ended = micro.run(self.script, [*self.words(), *HOW[how]], watch.install)
        assert ended.status == 0 and self.results() == self.expected, ended
        return [tuple(json.loads(line)) for line in listing.read_text().splitlines()]


PAGE, TOTAL = common.HERE / "docs/lab/faults.md", "**all**"
SAME, REFUSED, OTHER = "as uninterrupted", "refused in one line", "anything else"


def end_of(world, *words):
    """(verdict, what is to be said of it) of one more run at the world's place."""
    before = world.contents()
    ended = micro.run(world.script, [*world.words(), *words])
    if ended.status == 0:
        same = world.results() == world.expected
        return (SAME, "") if same else (OTHER, "it ended with other numbers")
    if not ended.refusal():
        return OTHER, ended.errors or f"status {ended.status}"
    if world.contents() != before:
        return OTHER, f"refused, and the folder has changed: {ended.errors}"
    return REFUSED, ended.refusal()


def after(world, how):
    """(verdict, why) of a disturbed run, from what --resume makes of what it left."""
    verdict, line = end_of(world, "--resume")
    if verdict == REFUSED and "no run in" in line:  # it had not begun
        return end_of(world)
    if verdict == REFUSED and how == OVERWRITING:  # the run that it replaces, other options
        return end_of(world, "--overwrite")
    return (OTHER, f"--resume refuses: {line}") if verdict == REFUSED else (verdict, line)


def disturb(world, how, prepare):
    """(verdict, why) of a run in whose process prepare() installs a fault."""
    world.reset(how)
    ended = micro.run(world.script, [*world.words(), *HOW[how]], prepare)
    if ended.status == 0 and world.results() == world.expected:
        return SAME, ""
    if ended.status not in (0, -signal.SIGKILL) and not ended.refusal():
        return OTHER, ended.errors or f"status {ended.status}"
    return after(world, how)


# ---- Damage at rest, limits, two starters -------------------------------------------------------


def flip(file, rng):
    data = bytearray(file.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def cut(file, rng):
    os.truncate(file, rng.choice([0, file.stat().st_size // 2, max(0, file.stat().st_size - 1)]))


def garbage(file, rng):
    file.write_bytes(rng.randbytes(rng.choice([1, 50, file.stat().st_size + 1])))


def lost(file, rng):
    file.unlink()


def folder_instead(file, rng):
    file.unlink()
    file.mkdir()


DAMAGE = {
    "bit flipped in a file": flip,
    "file cut off": cut,
    "file replaced by garbage": garbage,
    "file lost": lost,
    "a folder in a file's place": folder_instead,
}


def damage(world, where, name, harm, rng):
    """(verdict, why) of --resume on a finished run, or one with an older checkpoint, one file bad.

    If it refuses, the line has to name the file, and the way on that it names has to work.
    """
    world.reset(where)
    harm(world.place / name, rng)
    verdict, line = end_of(world, "--resume")
    if verdict != REFUSED:
        return verdict, line
    if Path(name).name not in line:
        return OTHER, f"the line does not name the file: {line}"
    if "; remove " in line:
        checkpoint = world.place / "checkpoint"
        shutil.rmtree(checkpoint if f"remove {checkpoint} " in line else world.place / name)
        verdict, why = end_of(world, "--resume")
    if verdict == REFUSED:
        verdict, why = end_of(world, "--overwrite")
    return (REFUSED, line) if verdict == SAME else (OTHER, f"{line}, but then: {why}")


def limit_files(size):
    """No file can grow beyond this many bytes: the system's own refusal, in every library."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def little_room(size):
    """The disk says that it has room for this many bytes."""
    usage = shutil.disk_usage("/")
    shutil.disk_usage = lambda _: usage._replace(free=size)


def two_starters(world, first, second, delay, killed):
    """(verdict, why) of two starts at one place, `delay` seconds apart, the first perhaps killed.

    At most one may do the run. If the first is killed, the second must not wait for it.
    """
    world.reset(RESUMED if RESUMED in (first, second) else FRESH)
    runs = [micro.Started(world.script, [*world.words(), *HOW[first]])]
    time.sleep(delay)
    if killed:
        os.kill(runs[0].pid, signal.SIGKILL)
        ended = runs[0].wait()
        return after(world, second) if ended.status in (0, -signal.SIGKILL) else (OTHER, str(ended))
    runs.append(micro.Started(world.script, [*world.words(), *HOW[second]]))
    ended = [run.wait() for run in runs]
    for one in ended:
        if one.status != 0 and not one.refusal():
            return OTHER, one.errors
    if not any(one.status == 0 for one in ended):
        return OTHER, "neither of the two did it"
    if world.results() != world.expected:
        return OTHER, "it ended with other numbers"
    return (REFUSED, "") if any(one.status for one in ended) else (SAME, "")


# ---- All of them --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    kind: str
    where: str
    inject: object  # () -> (verdict, why)


def faults_of(world, rng):
    """Every fault that is tried on a script."""
    place = world.place
    for how in (FRESH, RESUMED, OVERWRITING):
        points = world.points(how)
        for number, (kind, path) in enumerate(points):
            if number > 0 and points[number - 1 : number + 2] == [(kind, path)] * 3:
                continue  # of a file written in many pieces, the first two and the last
            for name, (act, can_hit) in ACTIONS.items():
                if can_hit(kind):
                    watch = Watch(world.script, place, at=number, act=act)
                    inject = functools.partial(disturb, world, how, watch.install)
                    yield Fault(name, f"{world.script}, {how}, {number}: {kind} {path}", inject)
        largest = max(file.stat().st_size for file in (world.folder / "finished").rglob("*"))
        for size in sorted({1000 + int(largest * (i / 16) ** 2) for i in range(16)}):
            for name, limit in (("files limited", limit_files), ("little room", little_room)):
                inject = functools.partial(disturb, world, how, functools.partial(limit, size))
                yield Fault(name, f"{world.script}, {how}, {size} bytes", inject)
    for where in ("finished", "both"):
        root = world.folder / where
        names = sorted(str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())
        for name in [name for name in names if not name.startswith("checkpoint.old")]:
            for kind, harm in DAMAGE.items():
                times = {flip: 16, cut: 3, garbage: 3}.get(harm, 1)
                for _ in range(times):
                    chance = random.Random(rng.random())
                    inject = functools.partial(damage, world, where, name, harm, chance)
                    yield Fault(kind, f"{world.script}, {where}, {name}", inject)
    starts = [(FRESH, FRESH), (FRESH, OVERWRITING), (RESUMED, RESUMED)]
    for (first, second), killed, _ in itertools.product(starts, (False, True), range(8)):
        delay = rng.uniform(0, 0.4)
        again = FRESH if killed else second
        inject = functools.partial(two_starters, world, first, again, delay, killed)
        yield Fault("two starters", f"{world.script}, {first}, {second}, {delay:.2f} s", inject)


def chosen(worlds, short, only, rng):
    """At most 250 of a kind on grpo.py, at any point, and three on each other script."""
    hub, other = (2, 1) if short else (250, 3)
    for world in worlds:
        most = hub if world.script == "grpo" else other
        of_kind = {}
        for fault in faults_of(world, rng):
            if only in (None, fault.kind):
                of_kind.setdefault(fault.kind, []).append(fault)
        for faults in of_kind.values():
            yield from rng.sample(faults, min(most, len(faults)))


def table(rows):
    """Lines of {kind: [how many as uninterrupted, refused, anything else]}."""
    lines = ["| fault | injected | as uninterrupted | refused in one line | anything else |"]
    lines += ["|---|---|---|---|---|"]
    totals = [sum(column) for column in zip(*rows.values(), strict=True)]
    for kind, counts in [*rows.items(), (TOTAL, totals)]:
        lines.append(f"| {kind} | {sum(counts)} | {' | '.join(map(str, counts))} |")
    return lines


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="a few of every kind, of two scripts")
    parser.add_argument("--only", metavar="KIND", help="one row of the table again")
    args = parser.parse_args()
    if args.short and args.only:
        parser.error("--only: not together with --short")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # and no run times how many are fastest
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not survive a fork
    rng = random.Random(0)
    started = time.perf_counter()
    memory = Path("/dev/shm")  # thousands of small files: not on a disk, where there is a choice
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        model = micro.make_model(Path(folder) / "model")
        names = ["grpo", "zoo.spo"] if args.short else scripts()
        worlds = [World(name, Path(folder), model) for name in names]
        counts = Counter()
        for fault in chosen(worlds, args.short, args.only, rng):
            verdict, why = fault.inject()
            counts[fault.kind, verdict] += 1
            if verdict == OTHER:
                print(f"ANYTHING ELSE: {fault.kind}: {fault.where}\n    {why}", flush=True)
    if not counts:
        parser.error(f"--only {args.only}: no such fault")
    kinds = dict.fromkeys(kind for kind, _ in counts)
    rows = {kind: [counts[kind, verdict] for verdict in (SAME, REFUSED, OTHER)] for kind in kinds}
    print("\n".join(table(rows)))
    minutes = (time.perf_counter() - started) / 60
    print(f"{sum(counts.values())} faults, {minutes:.1f} minutes")
    if args.only:
        earlier = read_section(PAGE, "Faults")
        rows = {kind: list(map(int, cells[1:])) for kind, *cells in earlier if kind != TOTAL} | rows
    if not args.short:
        write_section(PAGE, "Faults", table(rows))
    return any(rows[kind][-1] for kind in kinds)


if __name__ == "__main__":
    sys.exit(main())

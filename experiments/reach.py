"""Which of the rarely solved problems can a model solve at all?

    python -m experiments.reach                              # the base, 2 minutes
    python -m experiments.reach --model runs/mine/checkpoint # a model of yours

The base was taught with numbers to 12 and targets to 60. The problems of the arms beyond_* have
numbers to 20 and targets to 99, so most of them hold something that it has never seen.
"""

if __package__ != "experiments":
    raise SystemExit("run it from the repository's folder: python -m experiments.reach")

import argparse
from dataclasses import dataclass

import common
import grpo
from countdown_task import CountdownTask
from experiments.catalogue.beyond import RARE
from tasks import InputError, printable

TAUGHT = CountdownTask()  # the ranges that base_model.warm_start draws from
TRIES = 16


@dataclass
class Kind:
    """Problems of one kind, and what was right among TRIES completions of each."""

    name: str
    right: list[int]

    def row(self):
        solved = sum(count > 0 for count in self.right)
        share = sum(self.right) / (TRIES * len(self.right))
        return f"{self.name:28s} {len(self.right):8d} {solved:10d} {share:8.1%}"


def kind_of(problem):
    """The name of a problem's kind."""
    if max(problem.numbers) > TAUGHT.max_number:
        return f"a number above {TAUGHT.max_number}"
    if problem.target > TAUGHT.max_target:
        return f"a target above {TAUGHT.max_target}"
    return "within what was taught"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="base_model", help="folder or name on the Hub")
    try:
        model, tokenizer = common.load_model(parser.parse_args().model)
    except InputError as error:
        parser.exit(2, f"error: {printable(error)}\n")
    config = grpo.Config(group_size=TRIES, max_new_tokens=768, **RARE)
    problems = CountdownTask(max_number=config.max_number, max_target=config.max_target).held_out(
        config.eval_problems
    )
    kinds = {}
    for start in range(0, len(problems), 16):
        part = problems[start : start + 16]
        generator = common.torch_stream("reach", config.seed, start)
        rollout = grpo.sample_groups(model, tokenizer, part, config, generator)
        for problem, right in zip(part, rollout.correct.view(-1, TRIES).sum(1), strict=True):
            name = kind_of(problem)
            kinds.setdefault(name, Kind(name, [])).right.append(int(right))
    print(f"{'problems with':28s} {'problems':>8s} {'solved':>10s} {'right':>8s}")
    for name in sorted(kinds):
        print(kinds[name].row())


if __name__ == "__main__":
    main()

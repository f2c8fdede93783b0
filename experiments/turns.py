"""What the turns of zoo/gigpo.py are, and what a state is worth: for probes and figures.

python -m experiments.turns   # seconds; writes experiments/turns.json, one group of the base
"""

if __package__ != "experiments":
    raise SystemExit("run it from the repository's folder: python -m experiments.turns")

import itertools
import json
from dataclasses import dataclass

from runtime.run_folder import write_text

import numpy as np

import common
import grpo
from countdown_task import OPERATORS, CountdownTask
from zoo import gigpo
from zoo.calculator import combine

RESULT = common.HERE / "experiments/turns.json"

KINDS = ("open", "try", "wait", "give_up", "stop")


def texts_of_turns(rollout, row, tokenizer):
    """What the model wrote in each turn of a trajectory."""
    on = rollout.mask[row] > 0
    turns = rollout.turns[row]
    ids = rollout.completion_ids[row]
    last = int(turns[on].max())
    return [tokenizer.decode(ids[on & (turns == k)]) for k in range(last + 1)]


def kind(text, before, whole):
    """open a pair, try another operation, wait: start over, give up, or stop after a hit.

    text: of the turn; before: what the tool said last; whole: whether all numbers are left.
    """
    if "</think>" in text:
        return "stop" if before.endswith("yes") else "give_up"
    if "wait" in text:
        return "wait"
    return "open" if whole else "try"


def kinds_of(rollout, row, tokenizer):
    """The kind of each turn of a trajectory."""
    found = []
    ids = rollout.completion_ids[row]
    numbers = len(rollout.problems[row].numbers)
    for turn, text in enumerate(texts_of_turns(rollout, row, tokenizer)):
        first = int((rollout.turns[row] == turn).nonzero()[0])
        before = tokenizer.decode(ids[:first])
        whole = len(rollout.states[row][turn]) == numbers
        found.append(kind(text, before.rstrip(), whole))
    return found


def state_value(state, target):
    """1 if some order of steps from these numbers hits the target, else 0, by enumeration."""
    if len(state) == 1:
        return float(state[0] == target)
    for a, b in itertools.permutations(state, 2):
        for symbol in OPERATORS:
            step = combine(state, a, symbol, b)
            if step and state_value(step[1], target):
                return 1.0
    return 0.0


@dataclass
class Turn:
    """One turn of a trajectory, for describe."""

    kind: str
    S: float  # its own advantage
    A: float  # its trajectory's
    value: float | None  # of the two numbers that it leads to, if it opens a pair


def trajectory_advantages(pooled):
    """Pooled rewards (P, G) -> the advantages (B,) of grpo.py, 0 in a group without signal."""
    one = grpo.Config(reward_components=["answer"], reward_weights=[1.0])
    return grpo.compute_advantages(pooled.unsqueeze(-1), one).flatten()


def correlation(a, b):
    """Pearson's; None where one of them does not vary."""
    varies = len(a) > 1 and np.std(a) > 0 and np.std(b) > 0
    return float(np.corrcoef(a, b)[0, 1]) if varies else None


def describe(rollout, steps, whole, tokenizer):
    """Numbers of one rollout's turns: steps S (B, most turns), whole A_E (B,).

    For every kind its share and its mean S; turns per trajectory; signal in groups without any;
    and whether S and A_E of an opening turn know if the pair of numbers that it leads to can hit
    the target.
    """
    turns = []
    for row in range(len(rollout.states)):
        kinds = kinds_of(rollout, row, tokenizer)
        for turn, name in enumerate(kinds):
            after = rollout.states[row][turn + 1] if turn + 1 < len(rollout.states[row]) else None
            target = rollout.problems[row].target
            opens = name in ("open", "wait") and after is not None and len(after) == 2
            value = state_value(after, target) if opens else None
            turns.append(Turn(name, float(steps[row, turn]), float(whole[row]), value))
    found = {}
    for name in KINDS:
        own = [one.S for one in turns if one.kind == name]
        found[f"turn_share_{name}"] = len(own) / len(turns)
        found[f"turn_S_{name}"] = float(np.mean(own)) if own else None
    found["turns"] = len(turns) / len(rollout.states)
    silent = [one.S for one in turns if one.A == 0]
    found["turn_signal_in_silent_groups"] = float(np.mean(np.abs(silent) > 0)) if silent else None
    judged = [one for one in turns if one.value is not None]
    if judged:
        values = [one.value for one in judged]
        found["value_known_to_turn"] = correlation([one.S for one in judged], values)
        found["value_known_to_trajectory"] = correlation([one.A for one in judged], values)
    return found


def one_group(model, tokenizer, config):
    """The first held-out problem of which the model solves between a quarter and half of G tries.

    {numbers, target, trajectories: [{right, advantage, turns: [{state, kind, text, S}]}]}
    """
    for number, problem in enumerate(CountdownTask().held_out(50)):
        generator = common.torch_stream("one group", number)
        rollout = gigpo.sample_groups(model, tokenizer, [problem], config, generator)
        if 0.25 <= rollout.correct.float().mean() <= 0.5:
            break
    rewards = gigpo.compute_rewards(rollout.problems, rollout.completions, config)
    pooled = rewards.sum(-1)
    S = gigpo.turn_advantages(pooled, rollout.states, config)
    whole = trajectory_advantages(pooled)
    trajectories = []
    for row in range(config.group_size):
        kinds = kinds_of(rollout, row, tokenizer)
        texts = texts_of_turns(rollout, row, tokenizer)
        turns = [
            {"state": state, "kind": kind, "text": text.strip(), "S": round(float(S[row, k]), 3)}
            for k, (state, kind, text) in enumerate(
                zip(rollout.states[row], kinds, texts, strict=False)
            )
        ]
        right = bool(rollout.correct[row])
        advantage = round(float(whole[row]), 3)
        trajectories.append({"right": right, "advantage": advantage, "turns": turns})
    return {"numbers": problem.numbers, "target": problem.target, "trajectories": trajectories}


if __name__ == "__main__":
    config = gigpo.Config()
    group = one_group(*common.load_model(config.model), config)
    write_text(RESULT, json.dumps(group, indent=1) + "\n")

"""How noisy is the gradient under each baseline V? At equal completions, without an update.

    python -m experiments.gradient_noise        # 15 minutes; writes experiments/gradient_noise.json

A policy writes 16 completions for each of 16 problems, again and again. Every rung of the ladder
turns the same rewards into advantages A = R - V, and every quarter of a rollout (4 problems, 64
completions) into a gradient of the loss -A log pi, mean over tokens. For M such gradients g

    noise   tr Var(g)           summed over the weights
    signal  |E g|^2             estimated without bias: |mean g|^2 - noise / M

and what is reported is the noise, as a share of that under the batch's mean. The signal is the same
for all: a baseline changes no expectation. (The group's mean is the mean of the others, but for a
factor (G - 1) / G on every advantage: one rung for both.) Noise over signal was reported first; its
interval after 20 steps was too wide to compare anything.

Hypothesis, before its run: the batch's mean takes off what a success rate of 0.3 allows, about a
third; a baseline per problem (group, memory, truth) at most another quarter, the share of Var(R)
that a problem's success rate explains; the group's mean and the mean of the others are one value,
as one is the other times G / (G - 1). The critic is between the batch's mean and the truth: what it
knows better it knows late in the completion, where few tokens are left to decide.
"""

if __package__ != "experiments":
    raise SystemExit("run it from the repository's folder: python -m experiments.gradient_noise")

import argparse
import json
from dataclasses import replace

from runtime import engine
from runtime.intervals import half_width
from runtime.run_folder import write_text

import numpy as np
import torch

import common
import grpo
from countdown_task import CountdownTask
from zoo import ppo

RESULT = common.HERE / "experiments/gradient_noise.json"
ROLLOUTS = 16
GROUP = 16  # completions of a problem
QUARTER = 64  # completions of a gradient
TRIES = 64  # completions that estimate a problem's success rate
REFERENCE = "the batch's mean"
PRETRAINING = 20  # rollouts that the critic has seen
STEPS = 20  # of grpo.py, for the second policy


def answers(rollout):
    """The answer reward (P, G)."""
    return rollout.correct.float().view(-1, GROUP)


def baselines(rollout, truth, memory, critic, config):
    """{rung: V, broadcast to (B, T) against R}, all from the same completions.

    truth, memory (P,): success rates from 64 and from 8 other completions of the same policy.
    """
    R = answers(rollout)
    P, G = R.shape
    per_completion = {
        "nothing": torch.zeros(P, G),
        "the batch's mean": R.mean().expand(P, G),
        "the mean of the others": (R.sum(1, keepdim=True) - R) / (G - 1),
        "a memory of 8 visits": memory[:, None].expand(P, G),
        "the true success rate": truth[:, None].expand(P, G),
    }
    found = {name: values.reshape(-1, 1) for name, values in per_completion.items()}
    found["a critic"] = ppo.over_rollout(ppo.prefix_values, critic, rollout, config)
    return found


def gradient(model, rollout, rows, advantages, config):
    """Gradient of -A log pi, mean over the tokens of `rows`, as one vector."""
    num_tokens = rollout.mask[rows].sum()
    for part in engine.pack_rows(rollout, rows, config):
        logprobs = grpo.completion_logprobs(model, rollout, part, config)  # (b, T')
        A = advantages[part, : logprobs.shape[1]]
        (-(A * logprobs).sum() / num_tokens).backward()
    vector = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    model.zero_grad()
    return vector


def noise_and_signal(products):
    """(tr Var(g), |E g|^2) of M vectors, both unbiased, from their products g_i . g_j, (M, M)."""
    M = len(products)
    mean_square = products.sum() / M**2  # |mean g|^2
    noise = (np.trace(products) - M * mean_square) / (M - 1)
    return noise, mean_square - noise / M


def against(reference, products, per):
    """What is reported of a rung: its noise against a reference's on the same rollouts.

    interval: 95 %, of t, by a jackknife over rollouts of `per` gradients each.
    """
    M = len(products)

    def share(part):
        of_both = [noise_and_signal(each[np.ix_(part, part)])[0] for each in (products, reference)]
        return of_both[0] / of_both[1]

    left = [np.delete(np.arange(M), np.s_[first : first + per]) for first in range(0, M, per)]
    without = np.array([share(part) for part in left])
    deviation = (len(left) - 1) * without.std(ddof=1)  # of the jackknife's pseudo-values
    half = half_width(deviation, len(left))
    noise, signal = noise_and_signal(products)
    found = share(np.arange(M))
    return {
        "noise": found,
        "interval": [found - half, found + half],
        "noise_over_signal": noise / signal,
    }


def success_rates(model, tokenizer, problems, count, config, key):
    """Share of `count` completions of each problem that are right, (P,)."""
    many = replace(config, group_size=count)
    rollout = grpo.sample_groups(model, tokenizer, problems, many, common.torch_stream(*key))
    return rollout.correct.float().view(len(problems), count).mean(1)


def trained_critic(model, tokenizer, task, config):
    """PPO's critic after some rollouts of a policy that stands still."""
    critic = ppo.load_critic(config)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=config.critic_learning_rate)
    for number in range(PRETRAINING):
        problems = task.sample(16, common.stream("critic", number))
        generator = common.torch_stream("critic", number)
        rollout = grpo.sample_groups(model, tokenizer, problems, config, generator)
        rollout.values = ppo.over_rollout(ppo.prefix_values, critic, rollout, config)
        returns = answers(rollout).view(-1, 1) * rollout.mask
        ppo.update_critic(critic, optimizer, rollout, returns, config)
    return critic


def measure(model, tokenizer, config):
    """{rung: what `against` says of it, explained} of a policy.

    explained: share of Var(R), over tokens.
    """
    task = CountdownTask()
    critic = trained_critic(model, tokenizer, task, config)
    gradients, explained = {}, {}
    for number in range(ROLLOUTS):
        problems = task.sample(16, common.stream("noise", number))
        generator = common.torch_stream("noise", number)
        rollout = grpo.sample_groups(model, tokenizer, problems, config, generator)
        truth = success_rates(model, tokenizer, problems, TRIES, config, ("truth", number))
        memory = success_rates(model, tokenizer, problems, 8, config, ("memory", number))
        R = answers(rollout).view(-1, 1) * rollout.mask  # (B, T)
        on = rollout.mask > 0
        for name, V in baselines(rollout, truth, memory, critic, config).items():
            A = (R - V) * rollout.mask
            share = 1 - (A[on].var() / R[on].var()).item()
            explained.setdefault(name, []).append(share)
            for rows in torch.arange(len(A)).split(QUARTER):
                vector = gradient(model, rollout, rows.tolist(), A, config)
                gradients.setdefault(name, []).append(vector)
        print(f"rollout {number + 1} of {ROLLOUTS}", flush=True)
    products = {}
    for name, vectors in gradients.items():
        stacked = torch.stack(vectors)  # (M, n)
        products[name] = (stacked @ stacked.T).double().numpy()
    per = len(gradients[REFERENCE]) // ROLLOUTS
    return {
        name: {
            **against(products[REFERENCE], products[name], per),
            "explained": float(np.mean(explained[name])),
        }
        for name in gradients
    }


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    config = ppo.Config(prompts_per_step=16, group_size=GROUP)
    folder = common.HERE / "runs/gradient_noise"
    grpo.train(grpo.Config(steps=STEPS, eval_every=0, output_dir=str(folder), overwrite=True))
    report = {}
    for name, path in (("base", config.model), (f"after {STEPS} steps", folder / "checkpoint")):
        model, tokenizer = common.load_model(str(path))
        report[name] = measure(model, tokenizer, replace(config, model=str(path)))
        write_text(RESULT, json.dumps(report, indent=1) + "\n")
    for name, rungs in report.items():
        for rung, found in rungs.items():
            print(f"{name:14s} {rung:24s}", {k: np.round(v, 2).tolist() for k, v in found.items()})


if __name__ == "__main__":
    main()

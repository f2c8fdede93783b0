"""What a run measures: the means that the loss reports, and a description of what was sampled.

docs/reference/log.md says what each number means. session.py logs them.
"""

import dataclasses
import itertools
import math
import statistics
import sys

from runtime.intervals import half_width

import torch

import common

COLUMNS = {  # of the console: metric -> (header, format)
    "reward": ("reward", "6.3f"),
    "accuracy": ("right", "5.0%"),
    "length": ("tokens", "6.1f"),
    "length_right": ("if right", "8.1f"),
    "length_wrong": ("if wrong", "8.1f"),
    "truncated": ("cut", "4.0%"),
    "entropy": ("entropy", "7.3f"),
    "clipped_low": ("clip-", "6.2%"),
    "clipped_high": ("clip+", "6.2%"),
    "kl_ref": ("kl ref", "6.4f"),
    "grad_norm": ("grad", "5.2f"),
    "seconds": ("sec", "5.1f"),
}
MACHINE_DEPENDENT = ("seconds", "tokens_per_second", "peak_memory_mb", "threads")
UNCERTAIN = 0.5  # nats; a token is uncertain if the entropy of the sampler was above this


class TokenMetrics:
    """Means over the completion tokens of all minibatches; for `ratio` also extremes and spread.

    Of the advantages, (B, 1) or (B, T), it counts the different values and keeps the largest.
    """

    def __init__(self, advantages):
        self.levels = len(advantages.round(decimals=4).unique())
        self.largest = advantages.abs().amax().item()
        self.sums = {}
        self.count = 0  # tokens
        self.lowest_ratio = 1.0
        self.highest_ratio = 1.0
        self.squared_log_ratio = 0.0
        self.uncertain = 0  # tokens
        self.uncertain_clipped = 0
        self.grad_norms = []

    def add(self, metrics, mask, entropy):
        """What policy_loss reports of one micro-batch, each (b, T') or (b, 1).

        ratio: pi / pi_old, KeyError without it; clipped_low and clipped_high: tokens that a clip
        stops, where there is one; kl_ref: where there is a reference; kl_old comes from
        update_policy. Whatever else is in it is averaged and logged under its name.
        """
        if "ratio" not in metrics:
            raise KeyError(f"policy_loss: its metrics need 'ratio', and are {sorted(metrics)}")
        self.count += mask.sum().item()
        uncertain = (mask > 0) & (entropy > UNCERTAIN)
        self.uncertain += uncertain.sum().item()
        clipped = metrics.get("clipped_low", False) | metrics.get("clipped_high", False)
        self.uncertain_clipped += (uncertain & clipped).sum().item()
        for name, values in metrics.items():
            values = values.detach().expand_as(mask)
            self.sums[name] = self.sums.get(name, 0.0) + (values * mask).sum().item()
            if name == "ratio":
                low, high = values[mask > 0].aminmax()
                self.lowest_ratio = min(self.lowest_ratio, low.item())
                self.highest_ratio = max(self.highest_ratio, high.item())
                self.squared_log_ratio += (values.log()[mask > 0] ** 2).sum().item()

    def summary(self):
        """{metric: value}; None for what was not measured, because no group had signal."""
        names = ("ratio", "clipped_low", "clipped_high", "kl_ref", "kl_old")
        norms = self.grad_norms
        clipped = self.uncertain_clipped / self.uncertain if self.uncertain else None
        good = list(itertools.takewhile(math.isfinite, norms))  # of the updates before a broken one
        broken = {"broken_update": len(good) + 1, "last_good_norm": good[-1] if good else None}
        means = {name: total / self.count for name, total in self.sums.items()}
        return {
            **(means or dict.fromkeys(names)),
            "ratio_min": self.lowest_ratio if means else None,
            "ratio_max": self.highest_ratio if means else None,
            "ratio_spread": math.sqrt(self.squared_log_ratio / self.count) if means else None,
            "advantage_levels": self.levels,
            "advantage_max": self.largest,
            "clipped_uncertain": clipped,
            "grad_norm": statistics.fmean(norms) if norms else None,
            "updates": len(norms),
            **(broken if len(good) < len(norms) else {}),
        }


def retries(completions):
    """(lines tried again, retry points): a retry point is the end of a line that did not hit.

    There the model tries again, gives up, or runs out of its budget; the last does not count.
    """
    again = 0
    points = 0
    for text in completions:
        thought, closed, _ = text.partition("</think>")
        count = thought.count("\nwait ")
        again += count
        points += count + (bool(closed) and not thought.endswith(" yes"))
    return again, points


def describe(rollout, rewards, config):
    """What was sampled: rewards (P, G, K), lengths of right and wrong completions, entropy."""

    def mean(values):
        return values.float().mean().item() if values.numel() else None

    lengths = rollout.mask.sum(1)
    right = rollout.correct > 0
    weights = torch.tensor(config.reward_weights)
    pooled = (rewards[..., : len(weights)] * weights).sum(-1)
    spread = pooled.amax(1) - pooled.amin(1)  # (P,) of each group
    components = {
        f"reward_{name}": mean(rewards[..., index])
        for index, name in enumerate(config.reward_components)
    }
    again, points = retries(rollout.completions)
    return {
        "reward": mean(pooled),
        "accuracy": mean(rollout.correct),
        **components,
        "length": mean(lengths),
        "length_right": mean(lengths[right]),
        "length_wrong": mean(lengths[~right]),
        "truncated": mean(rollout.truncated),
        "entropy": (rollout.entropy.sum() / rollout.mask.sum()).item(),
        "retry": again / points if points else None,
        "groups_without_signal": mean(spread < 1e-6) if pooled.shape[1] > 1 else None,
        "completions_sampled": rollout.completions_sampled,
        "tokens_sampled": rollout.tokens_sampled,
    }


def explained_variance(rollout, rewards, config):
    """Share of the variance of R that a critic's values explain, over all tokens and by quarter.

    Rewards (P, G, K), rollout.values (B, T); quarters of each completion: _q1 to _q4. Against R,
    not against the returns that the critic is trained on: for lambda < 1 those contain its values.
    None where R does not vary.
    """
    mask = rollout.mask > 0  # (B, T)
    pooled = (rewards * torch.tensor(config.reward_weights)).sum(-1)  # (P, G)
    R = pooled.to(rollout.mask).view(-1, 1).expand_as(mask)
    rest = R - rollout.values
    place = rollout.mask.cumsum(1) / (rollout.mask.sum(1, keepdim=True) + 1)  # in (0, 1)
    parts = {"explained": mask}
    parts |= {f"explained_q{q + 1}": mask & ((4 * place).long() == q) for q in range(4)}
    return {
        name: 1 - (rest[on].var() / R[on].var()).item() if R[on].var() > 1e-9 else None
        for name, on in parts.items()
    }


def mismatch(rollout, sampler_logprobs):
    """How far mu, which drew the tokens with these log-probs (B, T), is from the old policy.

    sampler_kl: k3 estimate of KL(mu || pi_old), nats per token; sampler_spread: root mean square of
    log(pi_old / mu); sampler_weight_max: the largest pi_old / mu.
    """
    log_weight = (rollout.logprobs - sampler_logprobs)[rollout.mask > 0]  # of all tokens
    return {
        "sampler_kl": (log_weight.exp() - 1 - log_weight).mean().item(),
        "sampler_spread": log_weight.square().mean().sqrt().item(),
        "sampler_weight_max": log_weight.max().exp().item(),
    }


def auc(score, right):
    """Chance that a right completion scores higher than a wrong one: scores and 0 or 1, (B,).

    Half is guessing; None if there are not both.
    """
    above = score[right > 0, None] - score[right == 0]  # (right, wrong)
    return (above > 0).float().add(above == 0, alpha=0.5).mean().item() if above.numel() else None


def transcripts(rollout):
    """[{the problem's fields, right, completion}] of every row."""
    rows = zip(rollout.problems, rollout.correct.tolist(), rollout.completions, strict=True)
    return [
        {**dataclasses.asdict(problem), "right": bool(right), "completion": text}
        for problem, right, text in rows
    ]


def repeatable(rows):
    """Rows of a log without what a clock and the machine say: the same for two equal runs."""
    return [{k: v for k, v in row.items() if not k.startswith(MACHINE_DEPENDENT)} for row in rows]


def accuracy_text(metrics):
    """Share of right answers and its interval over problems, of which each is right or wrong."""
    share = metrics["accuracy"]
    count = metrics["problems"]
    if count < 2 or share in (0, 1):  # no spread among them, which is no certainty
        return f"{share:.1%}"
    deviation = math.sqrt(share * (1 - share) * count / (count - 1))  # sample std of 0s and 1s
    return f"{share:.1%} ± {half_width(deviation, count):.1%}"


def peak_memory_mb():
    """Largest memory of this process so far: on CUDA the GPU's, else resident memory."""
    if common.DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # Windows has no getrusage
        return math.nan
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit

"""What an asynchronous sampler does: rollouts that are some steps old."""

import copy
from collections import deque

import torch


class OldSampler:
    """A script's sample_batch that samples with the policy of `lag` steps ago.

    Up to step `lag` that is the initial policy. Only the policy is old: the problems and the
    random numbers of a step stay the same. Past policies are not saved, so a run that was cut off
    starts again.
    """

    def __init__(self, sample_batch, lag):
        self.sample_batch = sample_batch
        self.past = deque(maxlen=lag + 1)  # policies before the last steps, the oldest first

    def __call__(self, model, *rest):
        self.past.append(copy.deepcopy(model))
        return self.sample_batch(self.past[0], *rest)


def policy_loss(logprobs, old_logprobs, ref_logprobs, advantages, mask, config):
    """REINFORCE with grpo.py's advantage: no ratio and no clip, as if the rollout were fresh."""
    token_loss = -logprobs * advantages
    ratio = torch.exp(logprobs - old_logprobs)  # (B, T), logged only
    never = torch.zeros_like(ratio, dtype=torch.bool)
    return token_loss, {"ratio": ratio, "clipped_low": never, "clipped_high": never}

"""GSPO: Group Sequence Policy Optimization (arXiv:2507.18071).

For each prompt sample a group of G completions o_1 .. o_G; the group is the baseline:

    A_i  = (R_i - mean(R)) / std(R)                       R_i: weighted sum of reward components
    s_i  = exp( 1/|o_i| sum_t log pi(o_it) / pi_old(o_it) )     sequence ratio, a geometric mean
    k_it = pi_ref / pi - log(pi_ref / pi) - 1             k3 estimate of the KL to pi_ref
    L    = 1/G sum_i [ -min(s_i A_i, clip(s_i, 1-e_low, 1+e_high) A_i) + beta 1/|o_i| sum_t k_it ]

Coordinates on the six axes:
    granularity   sequence ratio, clipped as a whole
    clip width    3e-4 below, 4e-4 above, on the sequence ratio
    length + std  1/|o| per completion (inside s_i), divided by the group's std
    KL            k3 to the frozen initial model, in the loss, beta 0.04
    advantage     reward components pooled, then normalised per group
    sampling      static groups

vs grpo.py: 1) one ratio per completion, so all its tokens are clipped or none is; 2) its range.
The range is about a thousand times tighter than grpo.py's, because a geometric mean over |o| tokens
    hardly moves. With the defaults it clips 38 % of the tokens over the first ten steps, grpo.py's
    0.02 % (five seeds); it bites and the policy learns, so the published range stays.
GSPO-token (Eq. 13-14) writes s_it = sg[s_i] pi_it / sg[pi_it] so that advantages may differ from
    token to token. With one advantage per completion its loss and gradient equal these
    (tests/test_family.py).
Not implemented: GSPO-token as an option. The paper states no KL term; grpo.py's stays, so that the
    diff shows one axis.
"""

from dataclasses import dataclass, replace
from statistics import fmean

import torch
import torch.nn.functional as F
from transformers.hf_argparser import HfArg

import common
import run_log
from countdown_task import REWARDS, CountdownTask, Problem, is_correct


@dataclass
class Config:
    model: str = HfArg(default="base_model", help="model folder or Hugging Face hub id")
    seed: int = HfArg(default=1, help="seed of problems and sampling")
    steps: int = HfArg(default=30, help="rollouts; each is followed by `minibatches` updates")
    prompts_per_step: int = HfArg(default=16, help="P: prompts per rollout")
    group_size: int = HfArg(default=16, help="G: completions per prompt")
    minibatches: int = HfArg(default=4, help="optimizer steps per rollout; at 1 no ratio leaves 1")
    max_new_tokens: int = HfArg(default=256, help="T: generation budget, in tokens")
    temperature: float = HfArg(default=1.0, help="of sampling and of every log-prob")
    learning_rate: float = HfArg(default=2e-4, help="AdamW, constant; 1e-6 for 1B weights")
    max_grad_norm: float = HfArg(default=1.0, help="gradients are scaled down to this norm")
    clip_low: float = HfArg(default=3e-4, help="below 1 - clip_low: clipped")  # <- clip width
    clip_high: float = HfArg(default=4e-4, help="above 1 + clip_high: clipped")  # <- clip width
    kl_coef: float = HfArg(default=0.04, help="beta: weight of the KL to the reference")
    reward_components: list[str] = HfArg(default_factory=lambda: ["answer", "format"], help="K")
    reward_weights: list[float] = HfArg(default_factory=lambda: [1.0, 0.1], help="one for each")
    operands: int = HfArg(default=3, help="numbers per problem")
    max_number: int = HfArg(default=12, help="numbers run from 1 to this")
    min_target: int = HfArg(default=10, help="smallest target")
    max_target: int = HfArg(default=60, help="largest target")
    data: str = HfArg(default="", help="JSONL or parquet file of problems to use instead")
    eval_every: int = HfArg(default=10, help="steps between evaluations; 0: only first and last")
    eval_problems: int = HfArg(default=384, help="held-out problems, one completion each")
    tokens_per_microbatch: int = HfArg(default=2048, help="small fits a CPU cache")
    dtype: str = HfArg(default="auto", help="auto (bfloat16 autocast on CUDA), float32, bfloat16")
    checkpoint_every: int = HfArg(default=10, help="steps between checkpoints")
    output_dir: str = HfArg(default="", help="default: runs/<script>-seed<seed>")
    resume: bool = HfArg(default=False, help="continue the run in output_dir")
    overwrite: bool = HfArg(default=False, help="replace the run in output_dir")


@dataclass
class Rollout:
    """P prompts, G completions each; rows B = P * G, prompt by prompt; T = max_new_tokens."""

    problems: list[Problem]  # P
    prompts: list[list[int]]  # P lists of token ids
    completions: list[str]  # B texts
    completion_ids: torch.Tensor  # (B, T)
    mask: torch.Tensor  # (B, T) 1 up to and including EOS, 0 after it
    logprobs: torch.Tensor  # (B, T) under the policy that sampled, 0 outside the mask
    entropy: torch.Tensor  # (B, T) of the sampling distribution, in nats, 0 outside the mask
    truncated: torch.Tensor  # (B,) 1 if the budget ran out before EOS
    correct: torch.Tensor  # (B,) 1 if the verifier accepts the answer
    completions_sampled: int  # all that were drawn for this batch
    tokens_sampled: int
    ref_logprobs: torch.Tensor | None = None  # (B, T) under the reference model


# -------------------------------------------------------------------------------------------------
# Sampling


@torch.no_grad()
def sample_groups(model, tokenizer, problems, config, generator):
    """Sample config.group_size completions per problem at config.temperature, full vocabulary.

    One uniform number per (row, position), drawn up front, decides every token by inverting the
    CDF: what a row samples does not depend on which other rows are still running.
    """
    P, G, T = len(problems), config.group_size, config.max_new_tokens
    prompts = common.encode_prompts(model, tokenizer, problems, config)
    uniform = torch.rand(P * G, T, generator=generator, dtype=torch.float64).to(common.DEVICE)
    completion_ids = torch.zeros(P * G, T, dtype=torch.long, device=common.DEVICE)
    logprobs = torch.zeros(P * G, T, device=common.DEVICE)
    entropy = torch.zeros(P * G, T, device=common.DEVICE)

    with common.autocast(config):
        # Prefill each prompt once, then share its keys and values out to its group.
        cache = common.KVCache(model, prompts)
        rows = torch.arange(P * G, device=common.DEVICE)  # rows still in the batch, (b,)
        cache.select(rows // G)
        token = torch.tensor([[p[-1]] for p in prompts], device=common.DEVICE)[rows // G]  # (b, 1)
        finished = torch.zeros_like(rows, dtype=torch.bool)  # (b,)
        for t in range(T):
            logits = cache.decode(model, token)  # (b, V)
            logp = F.log_softmax(logits.float() / config.temperature, dim=-1)
            probs = logp.exp()
            cdf = probs.cumsum(-1, dtype=torch.float64)
            token = torch.searchsorted(cdf, uniform[rows, t, None] * cdf[:, -1:], right=True)
            completion_ids[rows, t] = token[:, 0]
            logprobs[rows, t] = logp.gather(-1, token)[:, 0]
            entropy[rows, t] = -(probs * logp).sum(-1)
            finished |= token[:, 0] == tokenizer.eos_token_id
            if finished.all():
                break
            if finished.float().mean() > 0.1:  # drop finished rows a block at a time
                keep = (~finished).nonzero()[:, 0]
                rows, token, finished = rows[keep], token[keep], finished[keep]
                cache.select(keep)

    is_eos = (completion_ids == tokenizer.eos_token_id).long()
    mask = (is_eos.cumsum(1) - is_eos == 0).float()  # EOS is trained, what follows it is not
    completions = [
        tokenizer.decode(ids[:n], skip_special_tokens=True)
        for ids, n in zip(completion_ids.tolist(), mask.sum(1).long().tolist(), strict=True)
    ]
    correct = [is_correct(text, problems[i // G]) for i, text in enumerate(completions)]
    truncated, correct = 1 - is_eos.amax(1), torch.tensor(correct, dtype=torch.long)
    logprobs, entropy, counts = logprobs * mask, entropy * mask, (len(mask), int(mask.sum()))
    rollout = problems, prompts, completions, completion_ids, mask, logprobs, entropy
    return Rollout(*rollout, truncated, correct, *counts)


def sample_batch(model, tokenizer, task, config, step):
    """One training batch: P fresh problems, one group each -> (rollout, rewards (P, G, K))."""
    problems = task.sample(config.prompts_per_step, common.stream(config.seed, "problems", step))
    generator = common.torch_stream(config.seed, "sampling", step)
    rollout = sample_groups(model, tokenizer, problems, config, generator)
    return rollout, compute_rewards(problems, rollout.completions, config)


# -------------------------------------------------------------------------------------------------
# Reward, advantage, loss


def compute_rewards(problems, completions, config):
    """Raw reward components (P, G, K), in the order of config.reward_components."""
    G = len(completions) // len(problems)
    rewards = [
        [REWARDS[name](text, problems[i // G]) for name in config.reward_components]
        for i, text in enumerate(completions)
    ]
    return torch.tensor(rewards).view(len(problems), G, -1)


def compute_advantages(rewards, config):
    """Rewards (P, G, K) -> advantages (P, G)."""
    pooled = (rewards * torch.tensor(config.reward_weights)).sum(-1)  # (P, G)
    centred = pooled - pooled.mean(1, keepdim=True)
    advantages = centred / (pooled.std(1, keepdim=True) + 1e-4)  # sample std
    # Equal rewards can differ from their float32 mean by rounding: no signal is exactly 0.
    no_signal = pooled.amax(1, keepdim=True) - pooled.amin(1, keepdim=True) < 1e-6
    return advantages.masked_fill(no_signal, 0.0)


def policy_loss(logprobs, old_logprobs, ref_logprobs, advantages, mask, config):
    """Per-token loss (B, T) from log-probs (B, T) and advantages (B, 1); and what to log."""
    log_ratio = ((logprobs - old_logprobs) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    ratio = torch.exp(log_ratio)  # (B, 1)  <- granularity: one ratio per completion
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    surrogate = torch.min(ratio * advantages, clipped * advantages)
    log_ref_ratio = ref_logprobs - logprobs
    kl_ref = torch.exp(log_ref_ratio) - log_ref_ratio - 1  # k3, never negative
    token_loss = -surrogate + config.kl_coef * kl_ref
    metrics = {
        "ratio": ratio,
        "clip_low": (advantages < 0) & (ratio < 1 - config.clip_low),
        "clip_high": (advantages > 0) & (ratio > 1 + config.clip_high),
        "kl_ref": kl_ref,
    }
    return token_loss, metrics


def aggregate_loss(token_loss, mask, num_sequences, num_tokens, config):
    """Token losses (b, T) of one micro-batch -> its share of the minibatch's loss, a scalar.

    num_sequences and num_tokens count the whole minibatch, so that micro-batches add up.
    """
    per_sequence = (token_loss * mask).sum(1) / mask.sum(1)  # (b,) 1/|o|
    return per_sequence.sum() / num_sequences


# -------------------------------------------------------------------------------------------------
# Update


def completion_logprobs(model, rollout, rows, config):
    """Log-probs (b, T') of the completions of `rows`, T' the longest of them; 0 off the mask."""
    tree = common.PrefixTree(rollout, rows, config)  # what rows share is computed once
    with common.autocast(config):
        logits = tree.forward(model)  # (n, V) of the n distinct prefixes that predict a token
    logp = F.log_softmax(logits.float() / config.temperature, dim=-1)
    T = tree.states.shape[1]
    return logp[tree.states, rollout.completion_ids[rows, :T]] * rollout.mask[rows, :T]


@torch.no_grad()
def rollout_logprobs(model, rollout, config):
    """Log-probs (B, T) of a whole rollout, without gradient."""
    logprobs = torch.zeros_like(rollout.logprobs)
    for rows in common.pack_rows(rollout, range(len(logprobs)), config):
        values = completion_logprobs(model, rollout, rows, config)
        logprobs[rows, : values.shape[1]] = values
    return logprobs


def update_policy(model, optimizer, rollout, advantages, config):
    """Several optimizer steps on one rollout, whole groups in each; advantages (P, G)."""
    advantages = advantages.reshape(-1, 1).to(common.DEVICE)  # (B, 1)
    metrics = common.TokenMetrics()
    for minibatch in torch.arange(len(advantages)).chunk(config.minibatches):
        if not advantages[minibatch].any():
            continue  # no signal, no step: Adam's momentum alone would move the weights
        num_sequences, num_tokens = len(minibatch), rollout.mask[minibatch].sum()
        for rows in common.pack_rows(rollout, minibatch.tolist(), config):
            logprobs = completion_logprobs(model, rollout, rows, config)  # (b, T')
            T = logprobs.shape[1]
            mask = rollout.mask[rows, :T]
            old = rollout.logprobs[rows, :T]
            ref = rollout.ref_logprobs[rows, :T]
            token_loss, stats = policy_loss(logprobs, old, ref, advantages[rows], mask, config)
            aggregate_loss(token_loss, mask, num_sequences, num_tokens, config).backward()
            stats["kl_old"] = torch.exp(logprobs - old) - 1 - (logprobs - old)  # k3
            metrics.add(stats, mask, rollout.entropy[rows, :T])
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        metrics.grad_norms.append(norm.item())
        optimizer.step()
        optimizer.zero_grad()
    return metrics.summary()


# -------------------------------------------------------------------------------------------------
# Evaluation, training


def evaluate(model, tokenizer, problems, config):
    """One completion per held-out problem, from a random stream that training never touches."""
    config = replace(config, group_size=1)
    generator, chunk = common.torch_stream(config.seed, "evaluation"), 256
    correct, lengths, truncated, samples = [], [], [], []
    for start in range(0, len(problems), chunk):
        part = problems[start : start + chunk]
        rollout = sample_groups(model, tokenizer, part, config, generator)
        correct += rollout.correct.tolist()
        lengths += rollout.mask.sum(1).tolist()
        truncated += rollout.truncated.tolist()
        samples += zip(part, rollout.completions, rollout.correct.tolist(), strict=True)
    metrics = {"accuracy": fmean(correct), "length": fmean(lengths), "truncated": fmean(truncated)}
    samples = [
        {"numbers": p.numbers, "target": p.target, "right": bool(right), "completion": text}
        for p, text, right in samples[:8]
    ]
    return {**metrics, "problems": len(problems)}, samples


def train(config):
    """The whole run: evaluate, then sample, score, update, again and again."""
    run = run_log.Run(config, __file__)
    torch.manual_seed(config.seed)
    task = CountdownTask(
        config.operands, config.max_number, config.min_target, config.max_target, config.data
    )
    task.sample(1, common.stream("is there anything to train on?"))
    held_out = task.held_out(config.eval_problems)
    model, tokenizer = run.load()
    common.encode_prompts(model, tokenizer, held_out, config)  # do they fit?
    reference = common.load_model(config.model)[0]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=0.0, fused=True
    )
    for step in run.steps(model, tokenizer, optimizer):
        if step > 0:
            rollout, rewards = sample_batch(model, tokenizer, task, config, step)
            run.lap("sampling")
            advantages = compute_advantages(rewards, config)
            if common.uses_bf16(config):  # the sampler rounds differently: take pi_old afresh
                rollout.logprobs = rollout_logprobs(model, rollout, config)
            rollout.ref_logprobs = rollout_logprobs(reference, rollout, config)
            update = update_policy(model, optimizer, rollout, advantages, config)
            run.lap("updating")
            run.log(step, {**common.describe(rollout, rewards, config), **update})
        if step in (0, config.steps) or (config.eval_every and step % config.eval_every == 0):
            run.log_evaluation(step, *evaluate(model, tokenizer, held_out, config))


if __name__ == "__main__":
    run_log.launch(train, Config, __doc__)

"""RLOO: REINFORCE Leave-One-Out (Back to Basics, arXiv:2402.14740).

For each prompt sample a group of G completions o_1 .. o_G; the group is the baseline:

    R_i  = r_i - beta sum_t log pi_old / pi_ref           r_i: weighted sum of reward components
    A_i  = R_i - mean of R_j over j != i                  leave one out
    s_i  = prod_t pi(o_it | o_i<t) / pi_old(o_it | o_i<t)       ratio of the whole completion
    L    = 1/G sum_i [ -min(s_i A_i, clip(s_i, 1-e, 1+e) A_i) ]

Coordinates on the seven axes:
    granularity   the completion is one action: the product of its token ratios
    clip width    symmetric, 0.2
    length + std  no 1/|o|, no division by the group's std
    KL            k1 to the frozen initial model, in the reward, beta 0.05
    advantage     reward components pooled, minus the mean of the others
    sampling      static groups
    sampler       taken for the old policy

The method in code:
    others = (pooled.sum(1, keepdim=True) - pooled) / (config.group_size - 1)
    log_ratio = ((logprobs - old_logprobs) * mask).sum(1, keepdim=True)

vs grpo.py: 1) the baseline leaves the completion out, so it is independent of it: unbiased;
    2) one ratio per completion, a sum of log-ratios, not a mean; 3) nothing is divided by;
    4) the KL is part of the reward, so a group whose answers are all right keeps a signal.
The gradient sums over tokens. It is G / (G - 1) T times dr_grpo.py's at ratio 1, T the budget:
    max_grad_norm bites at every step and sets its size.
The ratio and its clip are those of TRL, but for a cap of e^20 that keeps the product a number. The
    paper has neither: the same gradient at ratio 1.
Not implemented: group sizes of 2 and 4, as the paper has; refreshing the reference model.
"""

from dataclasses import dataclass, replace

from runtime import engine, measures, session  # before torch: how its threads wait
from runtime.options import option

import torch
import torch.nn.functional as F

import common
import tasks


@dataclass
class Config:
    # Model
    model: str = option("base_model", "model folder or Hugging Face hub id")
    dtype: str = option("auto", "auto: bfloat16 on CUDA; float32; bfloat16", choices=common.DTYPES)
    device: str = option("auto", "auto: CUDA, else the CPU; cpu; cuda; mps", choices=common.DEVICES)
    lora_rank: int = option(0, "by peft: train adapters of this rank; 0: all weights", at_least=0)
    # Sampling
    prompts_per_step: int = option(16, "P: prompts per rollout", at_least=1)
    group_size: int = option(16, "G: completions each [num_generations]", at_least=2)
    max_new_tokens: int = option(256, "T: token budget [max_completion_length]", at_least=1)
    temperature: float = option(1.0, "divides logits, in sampling and in every log-prob", above=0)
    # Optimisation
    steps: int = option(30, "rollouts; each is followed by `minibatches` updates", at_least=0)
    minibatches: int = option(4, "updates per rollout; 1: never clips", divides="prompts_per_step")
    learning_rate: float = option(2e-4, "AdamW, constant; 1e-6 for 1B weights", above=0)
    max_grad_norm: float = option(1.0, "gradients are scaled down to this norm", above=0)
    tokens_per_microbatch: int = option(2048, "lower it if memory runs out", at_least=1)
    # This algorithm
    clip_low: float = option(0.2, "ratio >= 1 - this [epsilon]", at_least=0)
    clip_high: float = option(0.2, "ratio <= 1 + this [epsilon_high]", at_least=0)
    kl_coef: float = option(0.05, "weight of the KL in the reward [beta]")  # <- KL
    reward_components: list[str] = option(["answer", "format"], "K rewards of the task")
    reward_weights: list[float] = option([1.0, 0.1], "one per reward", per="reward_components")
    # Task
    task: str = option("countdown_task", "module that says what the task is")
    operands: int = option(3, "numbers per problem")
    max_number: int = option(12, "numbers run from 1 to this")
    min_target: int = option(10, "smallest target")
    max_target: int = option(60, "largest target")
    data: str = option("", "file of problems to use instead: JSONL, JSON, CSV, parquet")
    # Run
    seed: int = option(1, "seed of problems and sampling")
    threads: int = option(0, "threads on a CPU; 0: a short timing decides", within=(0, 1024))
    eval_every: int = option(10, "steps between evaluations; 0: only first and last", at_least=0)
    eval_problems: int = option(384, "held-out problems, one completion each", at_least=1)
    checkpoint_every: int = option(10, "steps between checkpoints", at_least=1)
    output_dir: str = option("", "default: runs/<script>-seed<seed>")
    report_to: str = option("none", "or tensorboard, wandb, trackio, csv", choices=session.TRACKERS)
    resume: bool = option(False, "continue the run in output_dir")
    overwrite: bool = option(False, "replace the run in output_dir, and all else there")


@dataclass
class Rollout:
    """P problems, G completions each: B = P * G rows, problem by problem; T = max_new_tokens."""

    problems: list  # B problems of the task, each G times
    prompts: list[list[int]]  # B lists of token ids
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


# ---- Sampling -----------------------------------------------------------------------------------


def sample_tokens(logp, uniform):
    """One token per row: torch.multinomial(logp.exp(), 1), but with its random numbers given.

    logp (b, V), uniform (b, 1) in [0, 1) -> (b, 1): the first token whose CDF exceeds uniform.
    """
    cdf = logp.exp().cumsum(-1, dtype=torch.float64)
    return torch.searchsorted(cdf, uniform * cdf[:, -1:], right=True)


@torch.no_grad()
def generate(model, prompts, config, generator):
    """One completion for each of B prompts: ids, mask, log-probs and entropy, all (B, T).

    One uniform number per (row, position), drawn up front, decides every token: what a row samples
    does not depend on which other rows are still running.
    """
    B, T = len(prompts), config.max_new_tokens
    uniform = torch.rand(B, T, generator=generator, dtype=torch.float64).to(common.DEVICE)
    ids = torch.zeros(B, T, dtype=torch.long, device=common.DEVICE)
    logprobs = torch.zeros(B, T, device=common.DEVICE)
    entropy = torch.zeros(B, T, device=common.DEVICE)
    rows = torch.arange(B, device=common.DEVICE)  # rows still in the batch, (b,)
    token = torch.tensor([[prompt[-1]] for prompt in prompts], device=common.DEVICE)  # (b, 1)
    finished = torch.zeros(B, dtype=torch.bool, device=common.DEVICE)
    with common.autocast(config):
        cache = engine.start_decoding(model, prompts)  # equal prompts are computed once
        for t in range(T):
            logits = cache.decode(model, token)  # (b, V)
            logp = F.log_softmax(logits.float() / config.temperature, dim=-1)
            token = sample_tokens(logp, uniform[rows, t, None])
            ids[rows, t] = token[:, 0]
            logprobs[rows, t] = logp.gather(-1, token)[:, 0]
            entropy[rows, t] = -(logp.exp() * logp).sum(-1)
            finished[rows] |= common.is_end(token[:, 0], model)
            running = (~finished[rows]).nonzero()[:, 0]
            if len(running) == 0:
                break
            if 10 * len(running) < 9 * len(rows):  # drop finished rows a tenth at a time
                rows = rows[running]
                token = token[running]
                cache.select(running)

    is_end = common.is_end(ids, model).long()
    mask = (is_end.cumsum(1) - is_end == 0).float()  # EOS is trained, what follows it is not
    return ids, mask, logprobs * mask, entropy * mask


def sample_groups(model, tokenizer, problems, config, generator):
    """config.group_size completions of each of P problems, judged by the verifier -> Rollout."""
    encoded = common.encode_prompts(model, tokenizer, problems, config)  # P lists of token ids
    asked = [problem for problem in problems for _ in range(config.group_size)]  # B
    prompts = [prompt for prompt in encoded for _ in range(config.group_size)]  # B
    ids, mask, logprobs, entropy = generate(model, prompts, config, generator)
    completions = common.decode(model, tokenizer, ids)
    correct = [problem.is_correct(text) for problem, text in zip(asked, completions, strict=True)]
    return Rollout(
        problems=asked,
        prompts=prompts,
        completions=completions,
        completion_ids=ids,
        mask=mask,
        logprobs=logprobs,
        entropy=entropy,
        truncated=1 - common.is_end(ids, model).long().amax(1),
        correct=torch.tensor(correct, dtype=torch.long),
        completions_sampled=len(mask),
        tokens_sampled=int(mask.sum()),
    )


def sample_batch(model, tokenizer, task, config, step):
    """One training batch: P fresh problems, one group each -> (rollout, rewards (P, G, K))."""
    problems = task.sample(config.prompts_per_step, common.stream(config.seed, "problems", step))
    generator = common.torch_stream(config.seed, "sampling", step)
    rollout = sample_groups(model, tokenizer, problems, config, generator)
    return rollout, compute_rewards(rollout.problems, rollout.completions, config)


# ---- Reward, advantage, loss --------------------------------------------------------------------


def compute_rewards(problems, completions, config):
    """Raw reward components (P, G, K), in the order of config.reward_components."""
    rewards = [
        [problem.reward(name, text) for name in config.reward_components]
        for problem, text in zip(problems, completions, strict=True)
    ]
    return torch.tensor(rewards).view(-1, config.group_size, len(config.reward_components))


def compute_advantages(rewards, config):
    """Rewards (P, G, K + 1), the last one the KL -> advantages (P, G)."""
    weights = [*config.reward_weights, -config.kl_coef]  # <- KL: in the reward
    pooled = (rewards * torch.tensor(weights)).sum(-1)  # (P, G)
    others = (pooled.sum(1, keepdim=True) - pooled) / (config.group_size - 1)  # <- advantage
    centred = pooled - others
    advantages = centred  # <- length + std: not divided by the group's std
    # Equal rewards can differ from their float32 mean by rounding: no signal is exactly 0.
    no_signal = pooled.amax(1, keepdim=True) - pooled.amin(1, keepdim=True) < 1e-6
    return advantages.masked_fill(no_signal, 0.0)


def policy_loss(logprobs, old_logprobs, ref_logprobs, advantages, mask, config):
    """Log-probs (B, T), advantages (B, 1) or (B, T) -> loss (B, T), what TokenMetrics logs."""
    log_ratio = ((logprobs - old_logprobs) * mask).sum(1, keepdim=True)
    ratio = torch.exp(log_ratio.clamp(max=20))  # (B, 1)  <- granularity: a sum; 0 * inf is NaN
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    surrogate = torch.min(ratio * advantages, clipped * advantages)
    log_ref_ratio = ref_logprobs - logprobs
    kl_ref = torch.exp(log_ref_ratio) - log_ref_ratio - 1  # k3, never negative
    token_loss = -surrogate  # (B, 1), for every token alike  <- KL: not in the loss
    metrics = {
        "ratio": ratio,
        "clipped_low": (advantages < 0) & (ratio < 1 - config.clip_low),
        "clipped_high": (advantages > 0) & (ratio > 1 + config.clip_high),
        "kl_ref": kl_ref,
    }
    return token_loss, metrics


def aggregate_loss(token_loss, mask, num_sequences, num_tokens, config):
    """Token losses (b, T) of one micro-batch -> its share of the minibatch's loss, a scalar.

    num_sequences and num_tokens count the whole minibatch, so that micro-batches add up.
    """
    per_sequence = (token_loss * mask).sum(1) / mask.sum(1)  # (b,) 1/|o|
    return per_sequence.sum() / num_sequences


# ---- Update -------------------------------------------------------------------------------------


def completion_logprobs(model, rollout, rows, config):
    """Log-probs (b, T') of the completions of `rows`, T' the longest of them; 0 off the mask."""
    with common.autocast(config):
        logits, prefix = engine.completion_logits(model, rollout, rows)  # (n, V), (b, T')
    T = prefix.shape[1]  # token t of row i follows prefix[i, t], one of n distinct prefixes
    ids = rollout.completion_ids[rows, :T]
    return engine.log_softmax_at(logits, prefix, ids, config.temperature) * rollout.mask[rows, :T]


@torch.no_grad()
def over_rollout(function, model, rollout, config):
    """function(model, rollout, rows, config) of a whole rollout, (B, T), without gradient."""
    values = torch.zeros_like(rollout.mask)
    for rows in engine.pack_rows(rollout, range(len(values)), config):
        part = function(model, rollout, rows, config)  # (b, T')
        values[rows, : part.shape[1]] = part
    return values


def update_policy(model, optimizer, rollout, advantages, config):
    """Several optimizer steps on one rollout, whole groups in each; advantages (P, G) or (B, T)."""
    advantages = advantages.reshape(len(rollout.mask), -1).to(common.DEVICE)  # (B, 1) or (B, T)
    metrics = measures.TokenMetrics(advantages)
    for minibatch in torch.arange(len(advantages)).chunk(config.minibatches):
        num_sequences = len(minibatch)
        if not advantages[minibatch].any():
            continue  # no signal, no step: Adam's momentum alone would move the weights
        num_tokens = rollout.mask[minibatch].sum()
        for rows in engine.pack_rows(rollout, minibatch.tolist(), config):
            logprobs = completion_logprobs(model, rollout, rows, config)  # (b, T')
            T = logprobs.shape[1]
            mask = rollout.mask[rows, :T]
            old = rollout.logprobs[rows, :T]
            ref = rollout.ref_logprobs[rows, :T]
            A = advantages[rows, :T]
            token_loss, stats = policy_loss(logprobs, old, ref, A, mask, config)
            aggregate_loss(token_loss, mask, num_sequences, num_tokens, config).backward()
            stats["kl_old"] = torch.exp(logprobs - old) - 1 - (logprobs - old)  # k3
            metrics.add(stats, mask, rollout.entropy[rows, :T])
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        metrics.grad_norms.append(norm.item())
        optimizer.step()
        optimizer.zero_grad()
    return metrics.summary()


# ---- Evaluation, training -----------------------------------------------------------------------


def evaluate(model, tokenizer, problems, config):
    """Rollouts of one completion per problem, from a random stream that training never touches."""
    one_each = replace(config, group_size=1)
    generator = common.torch_stream(config.seed, "evaluation")
    rows = config.prompts_per_step * config.group_size  # as in training: it needs no more memory
    parts = [problems[first : first + rows] for first in range(0, len(problems), rows)]
    return [sample_groups(model, tokenizer, part, one_each, generator) for part in parts]


def train(config):
    """The whole run: evaluate, then sample, score, update, again and again."""
    run = session.Run(config, __file__)
    task = tasks.load(config)
    held_out = task.held_out(config.eval_problems)
    model, tokenizer = run.load(held_out + task.longest_prompts())
    reference, _ = common.load_model(config.model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=0.0, fused=True
    )
    for step in run.steps(model, tokenizer, optimizer=optimizer):
        if step > 0:  # step 0 only evaluates
            rollout, rewards = sample_batch(model, tokenizer, task, config, step)
            run.lap("sampling")
            if common.uses_bf16(config):  # the sampler rounds differently: take pi_old afresh
                rollout.logprobs = over_rollout(completion_logprobs, model, rollout, config)
            rollout.ref_logprobs = over_rollout(completion_logprobs, reference, rollout, config)
            kl = (rollout.logprobs - rollout.ref_logprobs).sum(1)  # (B,)  <- KL: k1
            rewards = torch.cat([rewards, kl.to(rewards).view_as(rewards[..., :1])], -1)
            advantages = compute_advantages(rewards, config)
            update = update_policy(model, optimizer, rollout, advantages, config)
            run.lap("updating")
            run.log(step, {**measures.describe(rollout, rewards, config), **update})
        if step in (0, config.steps) or (config.eval_every and step % config.eval_every == 0):
            run.log_evaluation(step, evaluate(model, tokenizer, held_out, config))


if __name__ == "__main__":
    session.launch(train, Config, __doc__)

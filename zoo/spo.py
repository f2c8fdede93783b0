"""SPO: Single-stream Policy Optimization (arXiv:2509.13232).

For each of P problems sample one completion o_i; a memory of the problem x is the baseline:

    v(x) = alpha(x) / (alpha(x) + beta(x))                success rate, before this visit
    A_i  = (R_i - v(x_i) - mean) / std                    over all completions of the rollout
    r_it = pi(o_it | o_i<t) / pi_old(o_it | o_i<t)        token ratio
    L    = 1/sum_i |o_i| sum_i sum_t [ -min(r_it A_i, clip(r_it, 1-e_low, 1+e_high) A_i) ]
    then   rho = clip(2^(-D/D_half), rho_min, rho_max)    D: how far log pi moved on x's last visit
           alpha <- rho alpha + R_i,  beta <- rho beta + 1 - R_i

Coordinates on the seven axes:
    granularity   token ratio
    clip width    0.2 below, 0.28 above
    length + std  mean over the tokens of the minibatch, divided by the rollout's std
    KL            none, and no reference model
    advantage     0 or 1, minus what the tracker expects, minus the rollout's mean
    sampling      256 problems of a pool, one completion each, those of middling value more often
    sampler       taken for the old policy

    tracker       a belief in every problem's success rate, and its last completion: no axis

The method in code:
    surprise = pooled - baseline
    self.alpha[drawn] = rho * self.alpha[drawn] + success

vs grpo.py: 1) the baseline is remembered, not sampled: no group, and no completion without signal;
    2) problems come back, from a pool of 512 that is first judged by 8 completions each (they
    count in step 1's totals); 3) one std for the rollout; 4) clip-higher, token mean, no KL.
Paid for the answer alone: the tracker counts right and wrong.
D and the weights of the draw are those of the authors' code (docs/reference/deviations.md).
Not implemented: asynchronous sampling, which a method without groups makes easy.
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
    prompts_per_step: int = option(256, "P prompts", at_least=1, at_most="pool_size")  # <- sampling
    group_size: int = option(1, "G: completions each [num_generations]", choices=[1])  # <- sampling
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
    clip_high: float = option(0.28, "ratio <= 1 + this [epsilon_high]", at_least=0)  # <- clip width
    reward_components: list[str] = option(["answer"], "pays 0/1", choices=["answer"])  # <- tracker
    reward_weights: list[float] = option([1.0], "fixed at 1", choices=[1], per="reward_components")
    pool_size: int = option(512, "N: problems that come back", at_least=1)  # <- tracker
    offline_completions: int = option(8, "of each problem before step 1", at_least=1, below=1000)
    rho_min: float = option(0.875, "least memory: 1/(1-rho) visits", at_least=0, at_most="rho_max")
    rho_max: float = option(0.96, "most memory: 1/(1-rho) visits", at_least=0, below=1)
    half_life: float = option(0.06, "D_half: a move of so many nats per token halves it", above=0)
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
    drawn: torch.Tensor | None = None  # (B,) places in the pool  <- tracker


class Tracker(torch.nn.Module):  # <- tracker: what earlier visits say of each problem
    """A Beta(alpha, beta) belief in the success rate of each of N problems, and its last visit."""

    def __init__(self, problems, config):
        super().__init__()
        N, T = len(problems), config.max_new_tokens
        self.problems = problems
        self.register_buffer("alpha", torch.zeros(N))  # successes, the old ones counting less
        self.register_buffer("beta", torch.zeros(N))  # failures
        self.register_buffer("completion_ids", torch.zeros(N, T, dtype=torch.long))  # last visit
        self.register_buffer("mask", torch.zeros(N, T))  # all 0: not visited yet
        self.register_buffer("logprobs", torch.zeros(N, T))  # after that visit's update
        self.to(common.DEVICE)

    def value(self):
        """v (N,): the expected success rate of each problem."""
        return self.alpha / (self.alpha + self.beta)

    def draw(self, count, generator):
        """Places (count,) of distinct problems; those of middling value come more often."""
        value = self.value().cpu()
        weight = (value * (1 - value)).sqrt() + 0.05
        return torch.multinomial(weight, count, generator=generator).to(common.DEVICE)

    def start(self, model, tokenizer, config, generator):
        """The offline phase: beliefs from completions of the initial model -> its rollouts."""
        many = replace(config, group_size=config.offline_completions)
        parts = [self.problems[i : i + 32] for i in range(0, len(self.problems), 32)]
        rollouts = [sample_groups(model, tokenizer, part, many, generator) for part in parts]
        right = torch.cat([rollout.correct for rollout in rollouts]).view(len(self.problems), -1)
        rate = (right.sum(1) + 0.5) / (config.offline_completions + 1)  # (N,) never 0 or 1
        size = 1 / (1 - config.rho_min)  # as many visits as the fastest forgetting remembers
        self.alpha.copy_(size * rate)
        self.beta.copy_(size * (1 - rate))
        return rollouts

    @torch.no_grad()
    def update(self, model, rollout, rewards, config):
        """After the policy's update: forget by how far it has moved, then count -> metrics."""
        drawn = rollout.drawn
        visited = self.mask[drawn].any(1, keepdim=True)  # (B, 1)
        ids = torch.where(visited, self.completion_ids[drawn], rollout.completion_ids)
        last = replace(rollout, completion_ids=ids)
        last.mask = torch.where(visited, self.mask[drawn], rollout.mask)
        change = over_rollout(completion_logprobs, model, last, config) - self.logprobs[drawn]
        moved = (change.abs() * last.mask).sum(1) / last.mask.sum(1) * visited[:, 0]  # D (B,)
        rho = (2 ** (-moved / config.half_life)).clamp(config.rho_min, config.rho_max)
        success = rewards.view(-1).to(rho)  # (B,) 0 or 1
        self.alpha[drawn] = rho * self.alpha[drawn] + success  # <- tracker
        self.beta[drawn] = rho * self.beta[drawn] + 1 - success
        self.completion_ids[drawn] = rollout.completion_ids
        self.mask[drawn] = rollout.mask
        self.logprobs[drawn] = over_rollout(completion_logprobs, model, rollout, config)
        return {"tracker_rho": rho.mean().item(), "tracker_moved": moved.mean().item()}


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


def sample_batch(model, tokenizer, tracker, config, step):  # <- tracker: chooses the problems
    """One training batch: P problems of the pool, one completion each -> (rollout, rewards)."""
    generator = common.torch_stream(config.seed, "sampling", step)
    offline = [] if step > 1 else tracker.start(model, tokenizer, config, generator)  # <- sampling
    drawn = tracker.draw(config.prompts_per_step, generator)
    problems = [tracker.problems[place] for place in drawn.tolist()]
    rollout = sample_groups(model, tokenizer, problems, config, generator)
    rollout.drawn = drawn  # <- tracker: it learns from this visit
    rollout.completions_sampled += sum(part.completions_sampled for part in offline)
    rollout.tokens_sampled += sum(part.tokens_sampled for part in offline)
    return rollout, compute_rewards(rollout.problems, rollout.completions, config)


# ---- Reward, advantage, loss --------------------------------------------------------------------


def compute_rewards(problems, completions, config):
    """Raw reward components (P, G, K), in the order of config.reward_components."""
    rewards = [
        [problem.reward(name, text) for name in config.reward_components]
        for problem, text in zip(problems, completions, strict=True)
    ]
    return torch.tensor(rewards).view(-1, config.group_size, len(config.reward_components))


def compute_advantages(rewards, baseline, config):  # <- advantage: what the tracker expects
    """Rewards (P, G, K), expected success (P, G) -> advantages (P, G)."""
    pooled = (rewards * torch.tensor(config.reward_weights)).sum(-1)  # (P, G)
    surprise = pooled - baseline  # <- advantage: minus what the tracker expects
    centred = surprise - surprise.mean()  # <- advantage: a tracker that lags is corrected
    advantages = centred / (surprise.std() + 1e-4)  # <- length + std: of the rollout, sample std
    # Equal rewards can differ from their float32 mean by rounding: no signal is exactly 0.
    no_signal = surprise.amax() - surprise.amin() < 1e-6  # <- advantage: of the rollout
    return advantages.masked_fill(no_signal, 0.0)


def policy_loss(logprobs, old_logprobs, advantages, mask, config):  # <- KL: dropped
    """Log-probs (B, T), advantages (B, 1) or (B, T) -> loss (B, T), what TokenMetrics logs."""
    ratio = torch.exp(logprobs - old_logprobs)  # (B, T)
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    surrogate = torch.min(ratio * advantages, clipped * advantages)
    token_loss = -surrogate  # <- KL: dropped
    metrics = {
        "ratio": ratio,
        "clipped_low": (advantages < 0) & (ratio < 1 - config.clip_low),
        "clipped_high": (advantages > 0) & (ratio > 1 + config.clip_high),
    }
    return token_loss, metrics


def aggregate_loss(token_loss, mask, num_sequences, num_tokens, config):
    """Token losses (b, T) of one micro-batch -> its share of the minibatch's loss, a scalar.

    num_sequences and num_tokens count the whole minibatch, so that micro-batches add up.
    """
    return (token_loss * mask).sum() / num_tokens  # <- length + std: every token weighs the same


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
            A = advantages[rows, :T]
            token_loss, stats = policy_loss(logprobs, old, A, mask, config)  # <- KL: dropped
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
    pool = task.distinct(config.pool_size, common.stream(config.seed, "pool"), "--pool_size")
    tracker = Tracker(pool, config)  # <- tracker
    model, tokenizer = run.load(held_out + task.longest_prompts())
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=0.0, fused=True
    )
    for step in run.steps(model, tokenizer, optimizer=optimizer, tracker=tracker):  # <- tracker
        if step > 0:  # step 0 only evaluates
            rollout, rewards = sample_batch(model, tokenizer, tracker, config, step)  # <- tracker
            run.lap("sampling")
            if common.uses_bf16(config):  # the sampler rounds differently: take pi_old afresh
                rollout.logprobs = over_rollout(completion_logprobs, model, rollout, config)
            baseline = tracker.value()[rollout.drawn, None].to(rewards)  # (P, 1)  <- tracker
            advantages = compute_advantages(rewards, baseline, config)
            update = update_policy(model, optimizer, rollout, advantages, config)
            update |= tracker.update(model, rollout, rewards, config)  # <- tracker: last
            run.lap("updating")
            run.log(step, {**measures.describe(rollout, rewards, config), **update})
        if step in (0, config.steps) or (config.eval_every and step % config.eval_every == 0):
            run.log_evaluation(step, evaluate(model, tokenizer, held_out, config))


if __name__ == "__main__":
    session.launch(train, Config, __doc__)

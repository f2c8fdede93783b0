"""What a watched run logs besides its own metrics; nothing here changes a run."""

import math
import statistics
from collections import Counter
from dataclasses import replace

from runtime import engine, measures

import torch
import torch.nn.functional as F

import common
import grpo
from countdown_task import CountdownTask
from experiments import turns

# Tokens by the probability that they had when they were drawn.
RARE = 0.1
SURE = 0.9
# Ratios between which the weight of a token's gradient is averaged.
RATIO_EDGES = (0.25, 0.5, 0.7, 0.8, 0.9, 0.97, 1.03, 1.1, 1.2, 1.3, 1.5, 2.0, 4.0)


def token_classes(tokenizer):
    """{class: ids}: retry points (try again or stop), numbers, operators, format (all else)."""
    ids = range(len(tokenizer))
    text = {i: tokenizer.decode([i]) for i in ids}
    classes = {
        "retry_point": [i for i in ids if text[i] in ("\nwait ", "</think>")],
        "number": [i for i in ids if text[i].isdigit()],
        "operator": [i for i in ids if text[i] in ("+", "-", "*", "/")],
    }
    known = {i for members in classes.values() for i in members}
    return {**classes, "format": [i for i in ids if i not in known]}


def token_entropy(model, rollout, rows, config):
    """Entropy (b, T') in nats of the next-token distribution at each token of `rows`."""
    logits, prefix = engine.completion_logits(model, rollout, rows)  # (n, V), (b, T')
    logp = F.log_softmax(logits.float() / config.temperature, dim=-1)
    entropy = -(logp.exp() * logp).sum(-1)  # (n,)
    return entropy[prefix] * rollout.mask[rows, : prefix.shape[1]]


def spread_within(advantages, mask):
    """Share of the variance of token advantages (B, T) that lies within completions."""
    mean = (advantages * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    on = mask > 0
    return ((advantages - mean)[on].square().mean() / advantages[on].var(correction=0)).item()


class FixedPrefixes:
    """Completions that the initial model wrote on held-out problems: where a policy is asked.

    The mean entropy of what a policy writes falls with every sure digit that it adds. Here the
    prefixes stay the same, and base-uncertain tokens are read apart from the others: those at
    which the initial model, the base, had an entropy above UNCERTAIN nats.
    """

    PROBLEMS = 64
    BUDGET = 256  # tokens each
    UNCERTAIN = 0.3

    def __init__(self, config):
        initial, tokenizer = common.load_model(config.model)
        problems = CountdownTask().held_out(self.PROBLEMS)
        generator = common.torch_stream("fixed prefixes", config.seed)
        self.config = replace(config, group_size=1, max_new_tokens=self.BUDGET)
        self.rollout = grpo.sample_groups(initial, tokenizer, problems, self.config, generator)
        self.uncertain = self.rollout.entropy > self.UNCERTAIN  # (64, T)
        self.sure = (self.rollout.mask > 0) & ~self.uncertain

    def entropy(self, model):
        entropy = grpo.over_rollout(token_entropy, model, self.rollout, self.config)
        return {
            "entropy_base_uncertain": entropy[self.uncertain].mean().item(),
            "entropy_base_sure": entropy[self.sure].mean().item(),
        }


class Routing:
    """Which experts each token of a rollout went to, before the update and in it.

    Without experts in the model it remembers nothing.
    """

    def __init__(self, model):
        self.model = model
        self.routed = []
        self.before = None
        routers = [part for part in model.modules() if type(part).__name__.endswith("TopKRouter")]
        for router in routers:
            router.register_forward_hook(lambda *args: self.routed.append(args[-1][2]))
        self.layers = len(routers)

    def last(self, rollout, rows, config):
        """Experts (layers, b, T, k) that the states which predict the completion went through."""
        routed, self.routed = torch.stack(self.routed[-self.layers :]), []  # (layers, N, k)
        tree = engine.PrefixTree(rollout, rows)
        return routed[:, tree.predicting[tree.prefix]].sort(-1).values

    @torch.no_grad()
    def remember(self, rollout, config):
        if not self.layers:
            return
        shape = rollout.mask.shape
        self.before = torch.zeros(self.layers, *shape, 2, dtype=torch.long)
        for rows in engine.pack_rows(rollout, range(shape[0]), config):
            grpo.completion_logprobs(self.model, rollout, rows, config)
            experts = self.last(rollout, rows, config)
            self.before[:, rows, : experts.shape[2]] = experts

    def switched(self, rollout, rows, config):
        """(b, T): whether any layer sends a token to other experts than before the update."""
        if not self.layers:
            return None
        experts = self.last(rollout, rows, config)
        return (experts != self.before[:, rows, : experts.shape[2]]).any(-1).any(0)


class Probes:
    """Wraps functions of a script's module; what they saw in a step comes out of `summary`.

    They compute from copies of what passes through and return it unchanged.
    """

    def __init__(self, module, other_sampler=False):
        self.module = module
        self.other_sampler = other_sampler  # than the policy: how far it is gets measured
        self.classes = None  # of tokens
        self.routing = None  # in a mixture of experts
        self.agree = None  # with a vote, (P, G)
        self.fixed = None  # prefixes
        watched = ["sample_batch", "completion_logprobs", "policy_loss", "compute_advantages"]
        watched += [name for name in ("agreement", "turn_advantages") if hasattr(module, name)]
        for name in watched:
            setattr(module, name, self.wrap(name, getattr(module, name)))
        self.reset()

    def reset(self):
        self.sums = Counter()
        self.found = {}
        bins = len(RATIO_EDGES) + 1
        self.weights = {sign: torch.zeros(bins, 2).double() for sign in ("up", "down")}

    def wrap(self, name, function):
        def wrapped(*args, **kwargs):
            result = function(*args, **kwargs)
            getattr(self, f"see_{name}")(result, *args, **kwargs)
            return result

        return wrapped

    def see_sample_batch(self, result, model, tokenizer, task, config, *_):
        rollout, _ = result
        if self.routing is None:
            self.routing = Routing(model)
        self.routing.remember(rollout, config)
        self.classes = self.classes or token_classes(tokenizer)
        self.rollout = rollout
        self.tokenizer = tokenizer
        self.fixed = self.fixed or FixedPrefixes(config)
        self.found |= self.fixed.entropy(model)
        if self.other_sampler:
            old = self.module.over_rollout(self.module.completion_logprobs, model, rollout, config)
            self.found |= measures.mismatch(replace(rollout, logprobs=old), rollout.logprobs)
        self.correct = rollout.correct.view(-1, config.group_size)  # (P, G)
        self.right = self.correct.sum(1).tolist()

    def see_compute_advantages(self, result, rewards, *rest):
        """Distinct values, each group's share of the weight, and what a tracker explains."""
        advantages = result[0] if isinstance(result, tuple) else result  # a critic has returns too
        if advantages.shape != rewards.shape[:2]:  # (B, T): one for every token
            self.found["spread_within"] = spread_within(advantages, self.rollout.mask)
        zero = advantages.reshape(rewards.shape[0] * rewards.shape[1], -1).eq(0).all(1)  # (B,)
        self.found["zero_advantages"] = zero.float().mean().item()
        if len(rest) == 2:  # a tracker's expectation (P, G), and the config
            surprise = rewards[..., 0] - rest[0]
            variance = rewards[..., 0].var(correction=0)
            self.found["explained"] = 1 - ((surprise**2).mean() / variance).item()
            # What is left to explain once the batch's mean has taken out a common error, a lag.
            self.found["explained_centred"] = 1 - (surprise.var(correction=0) / variance).item()
        levels = [{round(x, 4) for x in group} for group in advantages.tolist()]
        self.found["advantage_levels_per_group"] = statistics.fmean(map(len, levels))
        if rewards.shape[1] > 1:  # groups
            weight = advantages.reshape(len(rewards), -1).abs().sum(1)  # (P,)
            weight = weight / weight.mean().clamp(min=1e-9)
            pairs = zip(self.right, weight.tolist(), strict=True)
            self.found["weight_by_right"] = [[right, round(w, 4)] for right, w in pairs]

    def see_turn_advantages(self, steps, pooled, states, config):
        """What kinds of turns there were, and what GiGPO's second advantage says of each."""
        whole = turns.trajectory_advantages(pooled)
        self.found |= turns.describe(self.rollout, steps, whole, self.tokenizer)

    def see_agreement(self, agree, *_):
        """Of the groups: whether the label is right; of the completions: paid for being right.

        Called before sample_batch has returned, so that the verifier's view comes later.
        """
        self.agree = agree

    def vote(self):
        voted = self.agree.bool()  # (P, G)
        label = [bool(right[yes].any()) for right, yes in zip(self.correct, voted, strict=True)]
        return {
            "label_right": statistics.fmean(label),
            "vote_agrees": (voted == self.correct.bool()).float().mean().item(),
            "label_by_right": [[n, int(yes)] for n, yes in zip(self.right, label, strict=True)],
        }

    def see_completion_logprobs(self, logprobs, model, rollout, rows, config):
        self.ids = rollout.completion_ids[rows]
        self.switched = (
            self.routing.switched(rollout, rows, config) if logprobs.requires_grad else None
        )

    def see_policy_loss(self, result, logprobs, old_logprobs, *rest):
        token_loss, metrics = result
        advantages = rest[-3]
        mask = rest[-2]
        on = mask > 0
        ids = self.ids[:, : mask.shape[1]]
        zeroed = torch.zeros_like(on)
        # CISPO's clipped_high, alone, marks capped weights; it takes no gradient away.
        if {"clipped_low", "clipped_high"} <= metrics.keys():
            zeroed = (metrics["clipped_low"] | metrics["clipped_high"]).expand_as(on)
        log_ratio = (logprobs - old_logprobs).detach()
        chance = old_logprobs.detach().exp()  # that the token had
        for name, here in (("rare", chance < RARE), ("sure", chance > SURE)):
            self.sums[f"tokens_{name}"] += (on & here).sum().item()
            self.sums[f"zeroed_{name}"] += (on & here & zeroed).sum().item()
        self.sums["zeroed"] += (on & zeroed).sum().item()
        self.sums["zeroed_chance"] += chance[on & zeroed].sum().item()
        self.weigh(token_loss, logprobs, log_ratio.exp(), advantages, on)
        for name, members in self.classes.items():
            here = on & torch.isin(ids, torch.tensor(members))
            self.sums[f"tokens_{name}"] += here.sum().item()
            self.sums[f"zeroed_{name}"] += (zeroed & here).sum().item()
        self.count("token", on, log_ratio)
        if self.switched is not None:
            self.count("switched", on & self.switched, log_ratio)
            self.count("stayed", on & ~self.switched, log_ratio)
        sequence = (log_ratio * mask).sum(1) / mask.sum(1)
        every = torch.ones_like(sequence, dtype=torch.bool)
        self.count("sequence", every, sequence)
        self.count("product", every, (log_ratio * mask).sum(1))

    def weigh(self, token_loss, logprobs, ratio, advantages, on):
        """What a token's gradient is multiplied by beside its advantage, by its ratio.

        It is 1 for REINFORCE. A KL in the loss is in it, so look at runs without one.
        """
        A = advantages.expand_as(ratio)
        token_loss = token_loss.expand_as(logprobs)  # rloo.py has one loss for a completion
        (slope,) = torch.autograd.grad(token_loss[on].sum(), logprobs, retain_graph=True)
        place = torch.bucketize(ratio, torch.tensor(RATIO_EDGES))
        for sign, side in (("up", A > 0), ("down", A < 0)):
            here = on & side
            counts = torch.bincount(place[here], minlength=len(RATIO_EDGES) + 1)
            weight = -slope[here] / A[here]
            total = torch.zeros(len(counts)).index_add(0, place[here], weight)
            self.weights[sign] += torch.stack([counts.float(), total], 1).double()

    def count(self, name, on, log_ratio):
        self.sums[name] += on.sum().item()
        self.sums[f"{name}_square"] += (log_ratio[on] ** 2).sum().item()

    def summary(self):
        sums = self.sums
        found = dict(self.found)
        rms = lambda name: math.sqrt(sums[f"{name}_square"] / sums[name])  # noqa: E731
        for name in self.classes or ():
            found[f"zeroed_{name}"] = sums[f"zeroed_{name}"] / max(sums[f"tokens_{name}"], 1)
        for name in ("rare", "sure"):
            found[f"zeroed_{name}"] = sums[f"zeroed_{name}"] / max(sums[f"tokens_{name}"], 1)
        if sums["zeroed"]:
            found["zeroed_chance"] = sums["zeroed_chance"] / sums["zeroed"]
        if sums["token"]:
            found["weight_by_ratio"] = {k: v.tolist() for k, v in self.weights.items()}
            found |= {"log_ratio_rms": rms("token"), "sequence_log_ratio_rms": rms("sequence")}
            found["product_log_ratio_rms"] = rms("product")
        if self.agree is not None:
            found |= self.vote()
        if sums["switched"]:
            found |= {
                "experts_switched": sums["switched"] / sums["token"],
                "log_ratio_rms_switched": rms("switched"),
                "log_ratio_rms_stayed": rms("stayed"),
            }
        self.reset()
        return found


def pass_at_k(model, tokenizer, module, config):
    """{k: mean over the config's held-out problems} from 16 completions each, without bias."""
    task = CountdownTask(config.operands, config.max_number, config.min_target, config.max_target)
    problems = task.held_out(config.eval_problems)
    n = 16
    right = []
    for start in range(0, len(problems), 16):
        part = problems[start : start + 16]
        generator = common.torch_stream("pass", config.seed, start)
        rollout = module.sample_groups(
            model, tokenizer, part, replace(config, group_size=n), generator
        )
        right += rollout.correct.view(-1, n).sum(1).tolist()
    return {
        k: sum(1 - math.comb(n - c, k) / math.comb(n, k) for c in right) / len(right)
        for k in (1, 2, 4, 8, 16)
    }

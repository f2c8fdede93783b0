"""What the committed logs in plots/data/runs/ say: curves, effects of each axis, intervals.

A difference is paired by seed: same problems, same initial model. Its interval is a 95 % percentile
bootstrap interval over seeds. Arms whose runs are not all there yet are compared on the seeds that
both have.
"""

import functools
import json
from dataclasses import dataclass

import numpy as np

from plots.experiments import EXPERIMENTS, LOGS

SCRIPTS = EXPERIMENTS["defaults"].arms


# -------------------------------------------------------------------------------------------------
# Logs and statistics


@functools.cache
def load(arm):
    """{seed: rows of the run}, the line about the run left out."""
    runs = {}
    for path in sorted(LOGS.glob(f"{arm}-seed*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        runs[rows[0]["seed"]] = rows[1:]
    return runs


def curve(rows, metric):
    """(steps, values) of a metric in one run; `metric` is a name or a function of a row."""
    get = metric if callable(metric) else lambda row: row.get(metric)
    points = [(row["step"], get(row)) for row in rows]
    points = [(step, value) for step, value in points if value is not None]
    return tuple(np.array(part, float) for part in zip(*points, strict=True)) or ([], [])


def mean_over(metric, first, last):
    """A number per run: the metric's mean over these steps, both included."""

    def number(rows):
        return float(np.mean(curve([r for r in rows if first <= r["step"] <= last], metric)[1]))

    return number


def tokens_at(rows, step):
    """Tokens generated up to a step, refilled groups included."""
    return max((row.get("tokens_total", 0) for row in rows if row["step"] <= step), default=0)


def interval(values, draws=10_000):
    """95 % percentile bootstrap interval of the mean over seeds."""
    rng = np.random.default_rng(0)
    return np.percentile(rng.choice(values, (draws, len(values))).mean(1), [2.5, 97.5])


# -------------------------------------------------------------------------------------------------
# What each axis moves


def lopsided_weight(rows):
    """Weight of groups with 1, 2, 14 or 15 of 16 right over that of even ones (6-10), 12 steps."""
    pairs = [pair for row in rows if row["step"] <= 12 for pair in row.get("weight_by_right", [])]
    lopsided = [weight for right, weight in pairs if right in (1, 2, 14, 15)]
    even = [weight for right, weight in pairs if 6 <= right <= 10]
    return float(np.mean(lopsided) / np.mean(even))


def wrong_length_at_equal_accuracy(rows):
    steps = [row for row in rows if 0.66 <= row.get("accuracy", 0) <= 0.78]
    return float(np.mean([row["length_wrong"] for row in steps]))


def clipped(row):
    """Share of tokens without gradient, or, of CISPO, with a capped weight."""
    parts = [row.get("clip_low"), row.get("clip_high")]
    return None if parts[1] is None else (parts[0] or 0) + parts[1]


def accuracy_at_tokens(budget):
    """Held-out accuracy, interpolated, when this many tokens had been generated."""

    def number(rows):
        steps, accuracy = curve(rows, "eval_accuracy")
        return float(np.interp(budget, [tokens_at(rows, step) for step in steps], accuracy))

    return number


def saturating_fit(rows):
    """(ceiling, tokens to go 63 % of the way to it): accuracy = c - (c - a0) exp(-tokens / tau).

    Least squares over the evaluations; for every tau on a grid the rest is linear.
    """
    steps, accuracy = curve(rows, "eval_accuracy")
    tokens = np.array([tokens_at(rows, step) for step in steps])
    best = None
    for tau in np.geomspace(tokens[-1] / 30, tokens[-1] * 2, 200):
        decay = np.exp(-tokens / tau)
        parts = np.stack([1 - decay, decay], 1)  # accuracy = c (1 - decay) + a0 decay
        (ceiling, start), *_ = np.linalg.lstsq(parts, accuracy, rcond=None)
        error = ((parts @ [ceiling, start] - accuracy) ** 2).sum()
        if best is None or error < best[0]:
            best = error, float(ceiling), float(tau)
    return best[1:]


def pass_at(step_index, k):
    """A number per run: pass@k from its first (0) or last (-1) model."""

    def number(rows):
        found = sorted((row for row in rows if "pass_at" in row), key=lambda row: row["step"])
        return found[step_index]["pass_at"][str(k)]

    return number


@dataclass(frozen=True)
class Effect:
    """A number of one arm's runs against that of another's, paired by seed.

    `metric` takes a run's rows; a pair of functions takes one for each arm. `expected` is the sign
    of the difference that the hypothesis states, 0 for none.
    """

    experiment: str
    what: str
    base: str
    moved: str
    metric: object
    expected: int

    def values(self):
        first, second = self.metric if isinstance(self.metric, tuple) else (self.metric,) * 2
        a, b = load(self.base), load(self.moved)
        seeds = sorted(a.keys() & b.keys())
        return np.array([first(a[s]) for s in seeds]), np.array([second(b[s]) for s in seeds])

    def measured(self):
        """{seeds, base, moved, difference, interval, agree, verdict}; None without two seeds."""
        before, after = self.values()
        if len(before) < 2:
            return None
        difference = after - before
        low, high = interval(difference)
        sign = 1 if low > 0 else -1 if high < 0 else 0
        if self.expected:
            verdict = {self.expected: "seen", 0: "not seen"}.get(sign, "the reverse")
        else:
            verdict = "within noise, as expected" if sign == 0 else "differs"
        return {
            "seeds": len(before),
            "base": before.mean(),
            "moved": after.mean(),
            "difference": difference.mean(),
            "interval": (low, high),
            "agree": int((np.sign(difference) == np.sign(difference.mean())).sum()),
            "verdict": verdict,
        }


END, EARLY = mean_over("eval_accuracy", 12, 30), (2, 6)
EFFECTS = [
    Effect(
        "granularity",
        "spread of the ratio (RMS of its log), token → sequence",
        "stale_symmetric",
        "stale_sequence",
        (mean_over("log_ratio_rms", 1, 12), mean_over("sequence_log_ratio_rms", 1, 12)),
        -1,
    ),
    Effect(
        "granularity",
        "share of tokens that the script's own clip stops, token → sequence",
        "stale_symmetric",
        "stale_sequence",
        mean_over(clipped, 1, 12),
        1,
    ),
    Effect(
        "stability",
        "accuracy in steps 10-12 at a rate that breaks training, token → sequence",
        "hot_token",
        "hot_sequence",
        mean_over("accuracy", 10, 12),
        1,
    ),
    Effect(
        "mixture",
        "share of tokens sent to other experts, before an update → over a rollout's updates",
        "mixture_token",
        "mixture_token",
        (lambda rows: 0.0, mean_over("experts_switched", 1, 12)),
        1,
    ),
    Effect(
        "mixture",
        "spread of the token ratio, dense base → mixture of experts",
        "stale_symmetric",
        "mixture_token",
        mean_over("log_ratio_rms", 1, 12),
        1,
    ),
    Effect(
        "mixture",
        "spread of the token ratio, tokens that kept their experts → that changed them",
        "mixture_token",
        "mixture_token",
        (
            mean_over("log_ratio_rms_stayed", 1, 12),
            mean_over("log_ratio_rms_switched", 1, 12),
        ),
        1,
    ),
    Effect(
        "mixture",
        "spread of the ratio in a mixture of experts, token → sequence",
        "mixture_token",
        "mixture_sequence",
        (mean_over("log_ratio_rms", 1, 12), mean_over("sequence_log_ratio_rms", 1, 12)),
        -1,
    ),
    Effect(
        "clip_width",
        "share of tokens clipped from above, bound 0.2 → 0.28",
        "stale_symmetric",
        "stale_higher",
        mean_over("clip_high", 1, 12),
        -1,
    ),
    Effect(
        "clip_width",
        "retries at a fork in steps 2-6, bound 0.2 → 0.28",
        "stale_symmetric",
        "stale_higher",
        mean_over("retry", *EARLY),
        1,
    ),
    Effect(
        "clip_width",
        "retries at a fork in steps 2-6, bound 0.2 → 1.0",
        "stale_symmetric",
        "stale_wide",
        mean_over("retry", *EARLY),
        1,
    ),
    Effect(
        "clip_width",
        "entropy (nats) in steps 8-12, bound 0.2 → 0.28",
        "stale_symmetric",
        "stale_higher",
        mean_over("entropy", 8, 12),
        1,
    ),
    Effect(
        "clip_width",
        "entropy (nats) in steps 8-12, bound 0.2 → 1.0",
        "stale_symmetric",
        "stale_wide",
        mean_over("entropy", 8, 12),
        1,
    ),
    Effect(
        "clip_object",
        "share without gradient under PPO's clip in steps 1-6, numbers → fork tokens",
        "stale_ppo_clip",
        "stale_ppo_clip",
        (mean_over("zeroed_number", 1, 6), mean_over("zeroed_fork", 1, 6)),
        1,
    ),
    Effect(
        "clip_object",
        "share of fork tokens without gradient in steps 1-6, PPO's clip → CISPO",
        "stale_ppo_clip",
        "stale_cispo",
        mean_over("zeroed_fork", 1, 6),
        -1,
    ),
    Effect(
        "clip_object",
        "retries at a fork in steps 2-6, PPO's clip → CISPO",
        "stale_ppo_clip",
        "stale_cispo",
        mean_over("retry", *EARLY),
        1,
    ),
    Effect(
        "clip_object",
        "accuracy in steps 10-12, PPO's clip → CISPO",
        "stale_ppo_clip",
        "stale_cispo",
        mean_over("accuracy", 10, 12),
        0,
    ),
    Effect(
        "length",
        "tokens of wrong completions in steps 11-20, 1/|o| → token mean",
        "kl_0",
        "token_mean",
        mean_over("length_wrong", 11, 20),
        -1,
    ),
    Effect(
        "length",
        "tokens of wrong completions in steps 11-20, 1/|o| → constant",
        "kl_0",
        "constant_length",
        mean_over("length_wrong", 11, 20),
        -1,
    ),
    *(
        Effect(
            "length",
            f"tokens of wrong completions in steps with 66-78 % right, 1/|o| → {name}",
            "kl_0",
            arm,
            wrong_length_at_equal_accuracy,
            -1,
        )
        for name, arm in (("token mean", "token_mean"), ("constant", "constant_length"))
    ),
    Effect(
        "length",
        "held-out accuracy at step 20, 1/|o| → token mean",
        "kl_0",
        "token_mean",
        END,
        0,
    ),
    Effect(
        "length",
        "held-out accuracy at step 20, 1/|o| → constant",
        "kl_0",
        "constant_length",
        END,
        0,
    ),
    Effect(
        "length",
        "right answers per 1,000 tokens in steps 11-20, 1/|o| → token mean",
        "kl_0",
        "token_mean",
        mean_over(
            lambda row: 1e3 * row["accuracy"] / row["length"] if "length" in row else None, 11, 20
        ),
        1,
    ),
    Effect(
        "std",
        "gradient weight of lopsided groups over even ones, group std → none",
        "kl_0",
        "no_std",
        lopsided_weight,
        -1,
    ),
    Effect(
        "kl",
        "KL to the initial model in steps 11-20 (k3, nats per token), coefficient 0 → 0.4",
        "kl_0",
        "kl_10x",
        mean_over("kl_ref", 11, 20),
        -1,
    ),
    Effect(
        "kl",
        "KL to the initial model in steps 11-20, coefficient 0 → 0.04",
        "kl_0",
        "grpo",
        mean_over("kl_ref", 11, 20),
        -1,
    ),
    Effect(
        "kl",
        "held-out accuracy at step 20, coefficient 0 → 0.4",
        "kl_0",
        "kl_10x",
        mean_over("eval_accuracy", 20, 20),
        -1,
    ),
    Effect(
        "kl",
        "held-out accuracy at step 20, coefficient 0 → 0.04",
        "kl_0",
        "grpo",
        mean_over("eval_accuracy", 20, 20),
        -1,
    ),
    Effect(
        "kl",
        "peak memory (MB), default runs, grpo.py with its reference → dr_grpo.py without",
        "grpo",
        "dr_grpo",
        lambda rows: max(row.get("peak_memory_mb", 0) for row in rows),
        -1,
    ),
    *(
        Effect(
            "advantage",
            f"distinct advantages per batch, {count} rewards, pooled → decoupled",
            f"pooled_{count}",
            f"decoupled_{count}",
            mean_over("advantage_levels", 1, 12),
            1,
        )
        for count in ("two", "three")
    ),
    *(
        Effect(
            "advantage",
            f"{component} reward in steps 8-12, {count} rewards, pooled → decoupled",
            f"pooled_{count}",
            f"decoupled_{count}",
            mean_over(f"reward_{component}", 8, 12),
            1,
        )
        for count, components in (
            ("two", ("answer", "brevity")),
            ("three", ("answer", "brevity", "plain")),
        )
        for component in components
    ),
    Effect(
        "sampling",
        "share of groups without signal in steps 11-20, static → refilled",
        "static",
        "dynamic",
        mean_over("groups_without_signal", 11, 20),
        -1,
    ),
    Effect(
        "sampling",
        "thousand tokens generated in 20 steps, static → refilled",
        "static",
        "dynamic",
        lambda rows: tokens_at(rows, 20) / 1e3,
        1,
    ),
    Effect(
        "sampling",
        "held-out accuracy at step 20, static → refilled",
        "static",
        "dynamic",
        mean_over("eval_accuracy", 20, 20),
        1,
    ),
    Effect(
        "sampling",
        "held-out accuracy after 350 thousand tokens, static → refilled",
        "static",
        "dynamic",
        accuracy_at_tokens(350e3),
        0,
    ),
    Effect(
        "reward",
        "share of completions in steps 16-20 that are right → that earn the reward with a seam",
        "seam",
        "seam",
        (mean_over("accuracy", 16, 20), mean_over("reward_claim", 16, 20)),
        1,
    ),
    Effect(
        "reward",
        "held-out accuracy at step 20, true reward → believed claim",
        "true_reward",
        "seam",
        mean_over("eval_accuracy", 20, 20),
        -1,
    ),
    Effect(
        "long",
        "held-out accuracy, step 30 → 120",
        "long",
        "long",
        (mean_over("eval_accuracy", 30, 30), mean_over("eval_accuracy", 120, 120)),
        1,
    ),
    Effect(
        "planted",
        "tokens per completion, paid for length on problems without a solution, steps 1-3 → 18-20",
        "only_verbose",
        "only_verbose",
        (mean_over("length", 1, 3), mean_over("length", 18, 20)),
        1,
    ),
    Effect(
        "planted",
        "entropy (nats), paid for one order of search, steps 1-3 → 18-20",
        "only_orderly",
        "only_orderly",
        (mean_over("entropy", 1, 3), mean_over("entropy", 18, 20)),
        -1,
    ),
    *(
        Effect(
            "defaults",
            f"held-out accuracy at step 30, grpo.py → {script}.py",
            "grpo",
            script,
            mean_over("eval_accuracy", 30, 30),
            0,
        )
        for script in SCRIPTS[1:]
    ),
    *(
        Effect(
            "defaults",
            f"{name}, grpo.py before → after 30 steps",
            "grpo",
            "grpo",
            (pass_at(0, k), pass_at(-1, k)),
            sign,
        )
        for name, k, sign in (("pass@1", 1, 1), ("pass@16", 16, 0))
    ),
]

"""The symptoms of a run: each a number with a threshold, and the axis to move."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

VOTE = "agreement with the vote"  # what ttrl.py's `answer` pays, not the verifier's verdict
SHORTEST = 8  # training steps of a run; a quarter of fewer is noise


@dataclass(frozen=True)
class Finding:
    symptom: str
    shown: bool
    evidence: str


class Quarters:
    """Means of metrics over the first and the last quarter of a run."""

    def __init__(self, rows):
        self.rows = rows
        self.size = max(3, len(rows) // 4)

    def mean(self, metric, rows):
        values = [row[metric] for row in rows if row.get(metric) is not None]
        return fmean(values) if values else None

    def first(self, metric):
        return self.mean(metric, self.rows[: self.size])

    def second(self, metric):
        return self.mean(metric, self.rows[self.size : 2 * self.size])

    def last(self, metric):
        return self.mean(metric, self.rows[-self.size :])

    def whole(self, metric):
        return self.mean(metric, self.rows)

    def best(self, metric):
        """The largest mean over a quarter's length of steps."""
        values = [row[metric] for row in self.rows]
        return max(fmean(values[i : i + self.size]) for i in range(len(values) - self.size + 1))

    def gain(self, metric):
        first, last = self.first(metric), self.last(metric)
        return 0.0 if first is None or last is None else last - first


def length_without_accuracy(q, script):
    changes = []
    for then in (q.first, q.second):
        growth = q.last("length") / then("length")
        gain = q.last("accuracy") - then("accuracy")
        changes.append((gain < 0.05, growth, gain))
    stuck, growth, gain = max(changes)  # the greatest growth without a gain, if there is one
    return (
        stuck and growth > 1.25,
        f"tokens per completion x {growth:.2f} (threshold 1.25) while accuracy moves by "
        f"{100 * gain:+.0f} points (threshold 5)",
    )


def entropy_collapse(q, script):
    left = q.last("entropy") / max(q.first("entropy"), 1e-9)
    text = f"{100 * left:.0f} % of the first quarter's entropy is left (threshold 60 %)"
    return left < 0.6, text


def noisy_ratios(q, script):
    kl = q.whole("kl_old") or 0.0
    largest = q.whole("ratio_max") or 1.0
    text = f"KL to the policy that sampled {kl:.1e} (threshold 1e-3), largest ratio {largest:.1f}"
    return kl > 1e-3, text


def component_names(rows):
    """The reward components of a run; reward_auc is of prime.py's reward model."""
    names = {key for row in rows for key in row if key.startswith("reward_")}
    return sorted(names - {"reward_auc", "reward_auc_seen"})


def colliding_components(q, script):
    names = [name for name in component_names(q.rows) if all(name in row for row in q.rows)]
    up = [name for name in names if q.gain(name) > 0.05]
    stuck = [name for name in names if q.gain(name) < 0.03 and q.first(name) < 0.9]
    moves = ", ".join(f"{name[7:]} {q.first(name):.2f} -> {q.last(name):.2f}" for name in names)
    if script == "ttrl":
        moves = moves.replace("answer", VOTE)
    limits = "(thresholds: one up by 0.05, one that began below 0.9 not by 0.03)"
    return bool(up and stuck), f"{moves or 'one component'} {limits}"


def clipped_uncertain(q, script):
    share = q.first("clipped_uncertain")
    if share is None:
        return False, "not logged"
    if script in ("cispo", "gspo", "rloo"):  # one caps weights, two stop whole completions
        return False, f"{script}.py's clip does not single out tokens"
    text = f"{100 * share:.1f} % of uncertain tokens clipped in the first quarter (threshold 2 %)"
    return share > 0.02, text


def no_signal(q, script):
    share = q.last("groups_without_signal")
    if share is None:
        return False, "not logged: one completion per problem is no group"
    text = f"{100 * share:.0f} % of the groups in the last quarter (threshold 30 %)"
    if script == "rloo":
        text += "; the KL in the reward is all that they train on"
    return share > 0.3, text


def reward_without_accuracy(q, script):
    reward, accuracy = q.gain("reward"), q.gain("accuracy")
    name = f"reward for {VOTE}" if script == "ttrl" else "reward"
    text = f"{name} {reward:+.2f} (threshold 0.05), accuracy {accuracy:+.2f} (threshold: a third)"
    return reward > 0.05 and accuracy < reward / 3, text


def far_from_start(q, script):
    kl = q.last("kl_ref")
    if kl is None:
        return False, "not logged: this script has no reference model"
    return kl > 0.2, f"KL to the initial model {kl:.3f} in the last quarter (threshold 0.2)"


def cut_off(q, script):
    share = q.last("truncated")
    if share is None:
        return False, "not logged"
    text = f"{100 * share:.0f} % of the completions in the last quarter (threshold 25 %)"
    return share > 0.25, text


def breaking(q, script):
    fall = q.best("accuracy") - q.last("accuracy")
    return fall > 0.06, f"accuracy {100 * fall:.0f} points below its best (threshold 6)"


@dataclass(frozen=True)
class Symptom:
    """How it is tested, what to move, and the panel that shows it."""

    test: Callable  # (quarters, script) -> (shown, evidence)
    lever: str
    part: str | None  # the lever as a part for compose
    panel: str  # title: what is drawn
    metrics: tuple[str, ...]  # drawn; none: all reward components
    threshold: Callable | None = None  # quarters -> the value that is drawn as a line


SYMPTOMS = {  # by urgency: what makes the rest meaningless stands first
    "training breaks": Symptom(
        breaking,
        "nothing yet: smaller steps first (--learning_rate, --minibatches), then look again",
        None,
        "right completions",
        ("accuracy",),
        lambda q: q.best("accuracy") - 0.06,
    ),
    "reward rises, accuracy does not": Symptom(
        reward_without_accuracy,
        "no axis: the reward; read samples.jsonl and make it harder to exploit, or let a "
        "verifier judge where a vote did",
        None,
        "reward and accuracy",
        ("reward", "accuracy", "eval_accuracy"),
    ),
    "completions are cut off": Symptom(
        cut_off,
        "no axis: a larger --max_new_tokens; or sampling: dapo.py's overlong punishment",
        "dapo:sampling",
        "completions cut off by the budget",
        ("truncated",),
        lambda q: 0.25,
    ),
    "length grows without accuracy": Symptom(
        length_without_accuracy,
        "length + std: dr_grpo.py or dapo.py's token mean; sampling: dapo.py's overlong punishment",
        "dr_grpo:length_std",
        "tokens per completion",
        ("length", "length_right", "length_wrong"),
        lambda q: 1.25 * q.first("length"),
    ),
    "entropy collapses": Symptom(
        entropy_collapse,
        "clip width: dapo.py's clip-higher; KL: grpo.py",
        "dapo:clip_width",
        "entropy, nats",
        ("entropy",),
        lambda q: 0.6 * q.first("entropy"),
    ),
    "token ratios are noisy": Symptom(
        noisy_ratios,
        "granularity: gspo.py or zoo/gmpo.py; or fewer --minibatches, or a smaller --learning_rate",
        "gspo",
        "KL to the policy that sampled, nats",
        ("kl_old",),
        lambda q: 1e-3,
    ),
    "reward components collide": Symptom(
        colliding_components,
        "advantage: gdpo.py; then the weights",
        "gdpo",
        "reward components",
        (),
    ),
    "uncertain tokens are clipped": Symptom(
        clipped_uncertain,
        "clip width: dapo.py's clip-higher, or cispo.py",
        "cispo:clip_width",
        "share of tokens clipped",
        ("clipped_low", "clipped_high", "clipped_uncertain"),
        lambda q: 0.02,
    ),
    "groups without signal": Symptom(
        no_signal,
        "harder problems if most are right (--operands 4), easier ones if hardly any is; sampling: "
        "dapo.py; or no groups: zoo/spo.py, ppo.py",
        "dapo:sampling",
        "groups without signal",
        ("groups_without_signal",),
        lambda q: 0.3,
    ),
    "policy far from the start": Symptom(
        far_from_start,
        "KL: a larger --kl_coef; fewer --minibatches",
        None,
        "KL to the initial model, nats",
        ("kl_ref",),
        lambda q: 0.2,
    ),
}


def findings(script, rows):
    """All symptoms, shown or not, of a run's training rows."""
    quarters = Quarters(rows)
    found = []
    for name, symptom in SYMPTOMS.items():
        shown, evidence = symptom.test(quarters, script)
        found.append(Finding(name, shown, evidence))
    return found

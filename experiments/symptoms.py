"""What a run is, and its symptoms: each a number with a threshold, and the axis to move."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

VOTE = "agreement with the vote"  # what ttrl.py's `answer` pays, not the verifier's verdict
SHORTEST = 8  # training steps of a run; a quarter of fewer is noise
# Thresholds of what a run is. They were set on the logs of all experiments but planted_anew;
# results.md says how often they are right on those.
LEFT = 0.1  # nats per token to the policy that sampled; default runs have 1e-4
EXPLODED = 2  # times the entropy of the first quarter; where training goes well it falls
SILENT = 0.8  # of the groups
NEVER = 0.01  # right: 85 of 100 groups of 16 have no right answer
ALWAYS = 0.99  # right: 85 of 100 groups of 16 have no wrong one
ALL_CUT = 0.95  # of the completions
NO_FORMAT = 0.05  # of the completions
# No log had a say in the last one.
DISAGREE = 2e-3  # nats per token: NeMo-RL's limit for models of 8B and more (docs/lab/sampler.md)


@dataclass(frozen=True)
class State:
    """What a run is, in one word, the numbers that decide, and the symptom whose lever comes first.

    No symptom if there is nothing to be done.
    """

    word: str
    evidence: str
    symptom: str | None


@dataclass(frozen=True)
class Finding:
    symptom: str
    shown: bool
    evidence: str


class Quarters:
    """Means of metrics over the first and the last quarter of a run.

    evaluations: rows of held-out accuracy; fatal: what the log says has ended the run.
    """

    def __init__(self, rows, evaluations=(), fatal=""):
        self.rows = rows
        self.evaluations = evaluations
        self.held_out = [row["eval_accuracy"] for row in evaluations]
        self.fatal = fatal
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


# ---- What a run is: broken, hacked, starved, or none of these -----------------------------------


def percent(share):
    return f"{100 * share:.0f} %"


def fell(best, last):
    """Below half of the best, and by 10 points: what is near 0 halves by chance."""
    return last < best / 2 and best - last >= 0.1


def is_broken(q, script):
    """Training broke: the log says so, accuracy is gone, or the policy has left the sampler.

    Accuracy that is gone while the reward has risen is no break: that run got what it was paid for.
    """
    if q.fatal:
        return True, q.fatal
    hacked, _ = reward_without_accuracy(q, script)
    best, last = q.best("accuracy"), q.last("accuracy")
    text = f"{percent(last)} right, {percent(best)} at best (threshold: half)"
    checks = [(fell(best, last) and not hacked, text)]
    if q.held_out:
        best, last = max(q.held_out), q.held_out[-1]
        text = f"held out {percent(last)}, {percent(best)} at best (threshold: half)"
        checks.append((fell(best, last) and not hacked, text))
    kl = q.last("kl_old") or 0.0
    checks.append((kl > LEFT, f"KL to the policy that sampled {kl:.1e} (threshold {LEFT})"))
    entropy = q.last("entropy") / max(q.first("entropy"), 1e-9)
    checks.append((entropy > EXPLODED, f"entropy x {entropy:.2f} (threshold {EXPLODED})"))
    found = [text for is_so, text in checks if is_so]
    return bool(found), "; ".join(found or [text for _, text in checks])


def is_starved(q, script):
    """Groups give no signal, or none on the answer."""
    share, right = q.last("groups_without_signal"), q.last("accuracy")
    starved = (share is not None and share > SILENT) or not NEVER <= right <= ALWAYS
    texts = []
    if share is not None:
        limit = f"threshold {percent(SILENT)}"
        texts.append(f"{percent(share)} of the groups without signal ({limit})")
    if starved:
        limits = f"thresholds {percent(NEVER)} and {percent(ALWAYS)}"
        texts.append(f"{100 * right:.1f} % right ({limits})")
        if cause := cause_of_silence(q, script):
            texts.append(f"{cause}: {SYMPTOMS[cause].test(q, script)[1]}")
    return starved, "; ".join(texts)


def cause_of_silence(q, script):
    """The symptom that says why no completion can be right; None if it is only that none is."""
    causes = ("every completion is cut", "never writes the format")
    return next((name for name in causes if SYMPTOMS[name].test(q, script)[0]), None)


def state(script, rows, evaluations=(), fatal=""):
    """The State of a run, by its training rows and evaluations; fatal: what has ended it."""
    if fatal:  # however short it is
        return State("broken", fatal, "training breaks")
    q = Quarters(rows, evaluations)
    broken, of_break = is_broken(q, script)
    if broken:
        return State("broken", of_break, "training breaks")
    hacked, of_reward = reward_without_accuracy(q, script)
    if hacked:
        return State("hacked", of_reward, "reward rises, accuracy does not")
    starved, of_groups = is_starved(q, script)
    if starved:
        cause = cause_of_silence(q, script) or "groups without signal"
        return State("starved", of_groups, cause)
    return State("healthy", "; ".join(filter(None, [of_break, of_reward, of_groups])), None)


# ---- Symptoms -----------------------------------------------------------------------------------


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
    cause = cause_of_silence(q, script)
    if share is None:
        text = "not logged: one completion per problem is no group"
    else:
        text = f"{100 * share:.0f} % of the groups in the last quarter (threshold 30 %)"
        if script == "rloo":
            text += "; the KL in the reward is all that they train on"
    if cause:  # its lever is another one
        return False, f"{text}; the cause: {cause}"
    if state(script, q.rows, q.evaluations, q.fatal).word == "starved":  # never right, or always
        return True, is_starved(q, script)[1]
    return share is not None and share > 0.3, text


def reward_without_accuracy(q, script):
    reward, accuracy = q.gain("reward"), q.gain("accuracy")
    name = f"reward for {VOTE}" if script == "ttrl" else "reward"
    text = f"{name} {reward:+.2f} (threshold 0.05), accuracy {accuracy:+.2f} (threshold: a third)"
    if reward <= 0.05 or accuracy >= reward / 3:
        return False, text
    if accuracy > 0.05:
        return True, f"{text}: it rises far less"
    return True, f"{text}: it {'falls' if accuracy < -0.05 else 'does not rise'}"


def far_from_start(q, script):
    kl = q.last("kl_ref")
    if kl is None:
        return False, "not logged: this script has no reference model"
    return kl > 0.2, f"KL to the initial model {kl:.3f} in the last quarter (threshold 0.2)"


def all_cut(q, script):
    share = q.last("truncated")
    if share is None:
        return False, "not logged"
    text = f"{percent(share)} of the completions in the last quarter (threshold {percent(ALL_CUT)})"
    return share > ALL_CUT, text


def cut_off(q, script):
    share = q.last("truncated")
    if share is None:
        return False, "not logged"
    text = f"{100 * share:.0f} % of the completions in the last quarter (threshold 25 %)"
    if share > ALL_CUT:  # a symptom of its own
        return False, f"{text}: all of them"
    return share > 0.25, text


def no_format(q, script):
    share = q.last("reward_format")
    if share is None:
        return False, "not logged: the reward has no format"
    text = f"{percent(share)} of the completions in the last quarter have it (threshold "
    text += f"{percent(NO_FORMAT)})"
    if all_cut(q, script)[0]:
        return False, f"{text}: they are cut before it could be complete"
    return share < NO_FORMAT, text


def sampler_disagrees(q, script):
    kl = q.last("sampler_kl")
    if kl is None:
        return False, "not logged; python -m zoo.tis, with the options of this run, logs it"
    text = f"KL(mu || pi_old) {kl:.1e} nats per token in the last quarter (threshold {DISAGREE:g})"
    spread = q.last("sampler_spread")
    if spread is not None:
        text += f", log(pi_old / mu) varies by {spread:.2g}"
    if script == "tis":
        text += "; tis.py weighs it in, up to its cap"
    return kl > DISAGREE, text


def breaking(q, script):
    fall = q.best("accuracy") - q.last("accuracy")
    text = f"accuracy {100 * fall:.0f} points below its best (threshold 6)"
    broken, of_break = is_broken(q, script)
    return broken or fall > 0.06, f"{text}; {of_break}" if broken else text


@dataclass(frozen=True)
class Symptom:
    """How it is tested, what to move, and the panel that shows it."""

    test: Callable  # (quarters, script) -> (shown, evidence)
    lever: str
    part: str | None  # the lever as a part for compose
    panel: str  # title: what is drawn
    metrics: tuple[str, ...]  # drawn; none: all reward components
    threshold: Callable | None = None  # quarters -> the value that is drawn as a line
    # (quarters, the run's options, their defaults) -> options to run it again with; none of them:
    # the part is the lever.
    options: Callable | None = None


def smaller_steps(q, now, usual):
    """The usual rate, or a quarter of one that is no higher; no more updates than usual."""
    rate, count = now["learning_rate"], now["minibatches"]
    if count > usual["minibatches"]:
        count = math.gcd(usual["minibatches"], now["prompts_per_step"])  # it has to divide that
    return {
        "learning_rate": usual["learning_rate"] if rate > usual["learning_rate"] else rate / 4,
        "minibatches": count,
    }


def verified_reward(q, now, usual):
    return {"reward_components": ["answer"], "reward_weights": [1.0]}


def colder_or_another_model(q, now, usual):
    if now["temperature"] > usual["temperature"]:
        return {"temperature": usual["temperature"]}
    return {"model": "Qwen/Qwen2.5-1.5B-Instruct"}


def other_problems(q, now, usual):
    """Harder ones, if most are right, the usual ones, if hardly any is; {} if that is no help.

    These options are Countdown's: another task's problems are what they are.
    """
    if now["task"] != "countdown_task":
        return {}
    if q.last("accuracy") > 0.5:
        return {"max_number": 20, "max_target": 99, "data": ""}
    if q.last("accuracy") < 0.1:
        names = ("operands", "max_number", "min_target", "max_target", "data")
        return {name: usual[name] for name in names}
    return {}


def held_tighter(q, now, usual):
    if "kl_coef" not in usual:  # no reference model
        return {}
    return {"kl_coef": 10 * now["kl_coef"] if now["kl_coef"] > 0 else usual["kl_coef"]}


def tighter_below(q, now, usual):
    """A quarter of the lower bound, which keeps entropy; more of the KL if there is none."""
    if now.get("clip_low"):
        return {"clip_low": now["clip_low"] / 4}
    return held_tighter(q, now, usual)


SYMPTOMS = {  # by urgency: what makes the rest meaningless stands first
    "training breaks": Symptom(
        breaking,
        "nothing yet: smaller steps first (--learning_rate, --minibatches), then look again",
        None,
        "right completions",
        ("accuracy",),
        lambda q: q.best("accuracy") - 0.06,
        smaller_steps,
    ),
    "reward rises, accuracy does not": Symptom(
        reward_without_accuracy,
        "no axis: the reward; read samples.jsonl and make it harder to exploit, or let a "
        "verifier judge where a vote did",
        None,
        "reward and accuracy",
        ("reward", "accuracy", "eval_accuracy"),
        options=verified_reward,
    ),
    "every completion is cut": Symptom(
        all_cut,
        "no axis: a larger --max_new_tokens; or it never ends: read samples.jsonl",
        None,
        "cut off by the budget: every one?",
        ("truncated",),
        lambda q: ALL_CUT,
        lambda q, now, usual: {"max_new_tokens": max(256, 4 * now["max_new_tokens"])},
    ),
    "never writes the format": Symptom(
        no_format,
        "no axis: what is never sampled cannot be learnt: a lower --temperature, an instruction-"
        "tuned --model, or a warm start",
        None,
        "completions in the format",
        ("reward_format",),
        lambda q: NO_FORMAT,
        colder_or_another_model,
    ),
    "completions are cut off": Symptom(
        cut_off,
        "no axis: a larger --max_new_tokens; or sampling: dapo.py's overlong punishment",
        "dapo:sampling",
        "cut off by the budget: too many?",
        ("truncated",),
        lambda q: 0.25,
        lambda q, now, usual: {"max_new_tokens": 2 * now["max_new_tokens"]},
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
        "KL: grpo.py, or a larger --kl_coef; clip width: a tighter --clip_low",
        None,
        "entropy, nats",
        ("entropy",),
        lambda q: 0.6 * q.first("entropy"),
        tighter_below,
    ),
    "token ratios are noisy": Symptom(
        noisy_ratios,
        "granularity: gspo.py or zoo/gmpo.py; or fewer --minibatches, or a smaller --learning_rate",
        "gspo",
        "KL to the policy that sampled, nats",
        ("kl_old",),
        lambda q: 1e-3,
    ),
    "sampler and update disagree": Symptom(
        sampler_disagrees,
        "sampler: zoo/tis.py weighs each token by pi_old / mu; or a sampler that rounds less",
        "tis",
        "KL of the sampler to pi_old, nats",
        ("sampler_kl",),
        lambda q: DISAGREE,
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
        "harder problems if most are right, easier ones if hardly any is; sampling: dapo.py; or "
        "no groups: zoo/spo.py, ppo.py",
        "dapo:sampling",
        "groups without signal",
        ("groups_without_signal",),
        lambda q: 0.3,
        other_problems,
    ),
    "policy far from the start": Symptom(
        far_from_start,
        "KL: a larger --kl_coef; fewer --minibatches",
        None,
        "KL to the initial model, nats",
        ("kl_ref",),
        lambda q: 0.2,
        held_tighter,
    ),
}


def findings(script, rows, evaluations=(), fatal=""):
    """All symptoms, shown or not, of a run's training rows; the rest as in `state`."""
    quarters = Quarters(rows, evaluations, fatal)
    found = []
    for name, symptom in SYMPTOMS.items():
        shown, evidence = symptom.test(quarters, script)
        found.append(Finding(name, shown, evidence))
    return found

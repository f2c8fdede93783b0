"""The seventh axis and the methods of 2026, measured: docs/lab/sampler.md says what it means."""

import numpy as np

from experiments.curves import curve, load, mean_over, tokens_at
from experiments.effects import pass_at
from experiments.probes import RATIO_EDGES
from plots.style import COLOURS, STYLES, draw_seeds, legend, plt, save, seeds_of

SAMPLERS = {  # arm whose sampler is not the policy: label
    "bf16_believed": "bf16",
    "fp8_believed": "fp8",
    "int4_believed": "int4",
    "old_forgotten": "4 steps old",
}
COARSE = {
    "fine_believed": "sampler = policy",
    "int4_believed": "int4, believed",
    "int4_forgotten": "int4, forgotten",
    "int4_capped": "int4, capped (tis.py)",
    "int4_dropped": "int4, dropped (IcePop)",
    "int4_masked": "int4, V3.2's mask",
}
OLD = {
    "aged_grpo_4_mid": "believed",
    "aged_reinforce_4_mid": "no ratio (REINFORCE)",
    "old_forgotten": "forgotten",
    "old_capped": "capped (tis.py)",
    "old_masked": "believed, V3.2's mask",
}
GATES = {"fine_believed": "PPO's clip", "far_sapo": "SAPO's gate", "far_dro": "DRO's square"}
STOPPED = {"fine_believed": "PPO's clip", "far_dppo": "DPPO's bound"}
TOKENS = {"retry_point": "try again or stop", "rare": "rare, p < 0.1", "sure": "sure, p > 0.9"}
UNITS = {"rare_std": "over the std", "rare_no_std": "over nothing", "rare_mean": "over the mean"}
SPRINGS = {
    "aged_reinforce_4_mid": "REINFORCE, 1e-3",
    "old_dro_mid": "DRO, 1e-3",
    "aged_reinforce_4_high": "REINFORCE, 2e-3",
    "old_dro_high": "DRO, 2e-3",
}


def draw_lines(axes, arms, metric):
    """One metric of several arms over steps."""
    for index, (arm, label) in enumerate(arms.items()):
        draw_seeds(axes, arm, metric, label, index)
    axes.set_xlabel("step (one rollout each)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    legend(axes)


def draw_mismatch():
    """How far a sampler is from the policy, and what becomes of training on what it draws."""
    figure, ((distance, spread), (coarse, old)) = plt.subplots(
        2, 2, figsize=(10, 7.4), layout="constrained"
    )
    draw_lines(distance, SAMPLERS, "sampler_kl")
    distance.set(title="how far the sampler is: KL(mu || pi_old)", ylabel="nats per token (k3)")
    draw_lines(spread, SAMPLERS, "sampler_spread")
    spread.set(title="how much that differs from token to token", ylabel="std of log pi_old / mu")
    distance.set(yscale="log", ylim=(1e-7, 2))  # old rollouts begin at 0
    spread.set(yscale="log", ylim=(3e-4, 5))
    draw_lines(coarse, COARSE, "accuracy")
    coarse.set(title="trained on an int4 sampler's rollouts, 16 updates each")
    draw_lines(old, OLD, "accuracy")
    old.set(title="trained on rollouts 4 steps old, one update each, rate 1e-3")
    for axes in (coarse, old):
        axes.set(ylabel="share of right completions", ylim=(0, None))
    save(
        figure,
        "mismatch",
        f"{seeds_of(*SAMPLERS, *COARSE, *OLD)} per arm (thin), mean (thick). No KL in the loss. "
        "256 completions per step, those of old rollouts 128.\nForgotten: pi_old computed afresh. "
        "Capped, dropped: each token also weighs pi_old / mu.\n"
        "python -m experiments.run --only mismatch lag",
    )


def weights(arm, sign):
    """(centres of the bins of ratios, mean weight of a token's gradient there), over all seeds."""
    bins = [row["weight_by_ratio"][sign] for rows in load(arm).values() for row in rows[1:13]]
    count, total = np.array(bins).sum(0).T
    edges = np.array((RATIO_EDGES[0] / 2, *RATIO_EDGES, RATIO_EDGES[-1] * 2))
    centres = np.sqrt(edges[1:] * edges[:-1])
    enough = count >= 30
    return centres[enough], total[enough] / count[enough]


def marked(index):
    """The style of a line with a point where it was measured."""
    return {
        "color": COLOURS[index],
        "ls": STYLES[index],
        "marker": "osD"[index],
        "ms": 4,
        "lw": 1.6,
    }


def draw_gates(axes, sign, title):
    for index, (arm, label) in enumerate(GATES.items()):
        axes.plot(*weights(arm, sign), label=label, **marked(index))
    axes.axhline(1, color="#bbbbbb", lw=0.8, zorder=0)
    axes.set_xscale("log")
    ticks = (0.2, 0.5, 0.8, 1.2, 2, 4)
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.minorticks_off()
    axes.set(title=title, xlabel="ratio of the token", ylabel="weight of its gradient")
    legend(axes)


def draw_stopped(axes):
    """Share of tokens without gradient, by the kind of token."""
    for index, (arm, label) in enumerate(STOPPED.items()):
        for place, kind in enumerate(TOKENS):
            shares = [mean_over(f"zeroed_{kind}", 1, 6)(rows) for rows in load(arm).values()]
            x = place + 0.24 * (index - 0.5)
            axes.bar(x, np.mean(shares), 0.22, color=COLOURS[index], alpha=0.45)
            axes.scatter([x] * len(shares), shares, color=COLOURS[index], s=12)
        axes.bar(0, 0, color=COLOURS[index], alpha=0.45, label=label)
    axes.set_xticks(range(len(TOKENS)), TOKENS.values())
    axes.set(title="tokens that are stopped, steps 1-6", ylabel="share without gradient")
    legend(axes)


def draw_group_weights(axes):
    """A group's weight in the update, by how many of its 16 completions are right."""
    for index, (arm, label) in enumerate(UNITS.items()):
        found = {}
        for rows in load(arm).values():
            for row in rows:
                groups = [group for group in row.get("weight_by_right", ()) if group[1]]
                mean = np.mean([weight for _, weight in groups]) if groups else 1
                for right, weight in groups:
                    found.setdefault(right, []).append(weight / mean)
        counts = sorted(right for right, shares in found.items() if len(shares) >= 5)
        means = [np.mean(found[right]) for right in counts]
        axes.plot(counts, means, label=label, **marked(index))
    axes.set(title="MaxRL: which groups weigh", xlabel="right completions of 16")
    axes.set_ylabel("weight over that of all groups with signal")
    legend(axes)


def draw_tries(axes):
    """Problems solved in k tries at the end."""
    tries = (1, 2, 4, 8, 16)
    for index, (arm, label) in enumerate(UNITS.items()):
        lines = [[pass_at(-1, k)(rows) for k in tries] for rows in load(arm).values()]
        for line in lines:
            axes.plot(tries, line, color=COLOURS[index], lw=0.6, alpha=0.4)
        axes.plot(tries, np.mean(lines, 0), label=label, **marked(index))
    axes.set(title="problems that the base rarely solves", xlabel="tries", xscale="log")
    axes.set_xticks(tries, tries)
    axes.minorticks_off()
    axes.set(ylabel="share solved after 20 steps", ylim=(0, None))
    legend(axes)


def draw_methods():
    """What SAPO, DPPO, MaxRL and DRO move."""
    figure, (top, bottom) = plt.subplots(2, 3, figsize=(12.5, 7.2), layout="constrained")
    draw_gates(top[0], "up", "pushed up (A > 0)")
    draw_gates(top[1], "down", "pushed down (A < 0)")
    draw_stopped(top[2])
    draw_group_weights(bottom[0])
    draw_tries(bottom[1])
    draw_lines(bottom[2], SPRINGS, "accuracy")
    bottom[2].set(title="rollouts 4 steps old", ylabel="share of right completions", ylim=(0, None))
    save(
        figure,
        "frontier_measured",
        f"{seeds_of(*GATES, *STOPPED, *UNITS, *SPRINGS)} per arm. Top: 16 updates per rollout, "
        "learning rate 5e-4, no KL; bins of at least 30 tokens.\nBelow, left and middle: numbers "
        "to 20, targets to 99, only the answer is paid.\n"
        "python -m experiments.run --only soft_clip max_likelihood spring mismatch lag",
    )


def draw_teacher():
    """Held-out accuracy over tokens: told at every token by a teacher, or once by the verifier."""
    figure, axes = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
    arms = {"grpo": "grpo.py", "distilled": "a teacher at every token (exercise 17)"}
    for index, (arm, label) in enumerate(arms.items()):
        lines = []
        for rows in load(arm).values():
            steps, accuracy = curve(rows, "eval_accuracy")
            lines.append(([tokens_at(rows, step) / 1e3 for step in steps], accuracy))
            axes.plot(*lines[-1], color=COLOURS[index], lw=0.6, alpha=0.35)
        axes.plot(*np.mean(lines, 0), label=label, **marked(index))
    axes.set(xlabel="thousand tokens generated", ylabel="held-out accuracy", ylim=(0, 0.9))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    save(
        figure,
        "teacher",
        f"{seeds_of(*arms)} per arm (thin), mean (thick). The teacher is grpo.py's model of "
        "step 30,\nseed 11. python -m experiments.run --only exercises defaults",
    )


def draw():
    draw_mismatch()
    draw_methods()
    draw_teacher()

"""What a critic knows, what it takes from the gradient's noise, and what a reward model has seen.

Drawn by `python -m plots.make_figures`; what it means is in docs/just_ppo.md.
"""

import json

from experiments.effects import DERIVED
from experiments.gradient_noise import RESULT
from plots.style import COLOURS, draw_seeds, legend, plt, save, seeds_of

QUARTERS = ("first", "second", "third", "last")


def draw_critic():
    """Explained variance by quarter and by baseline; what a reward model has been shown."""
    figure, (quarters, baselines, models) = plt.subplots(
        1, 3, figsize=(11.5, 3.8), layout="constrained"
    )
    for index, name in enumerate(QUARTERS):
        draw_seeds(quarters, "ppo", f"explained_q{index + 1}", f"{name} quarter", index)
    quarters.set(title="PPO's critic, along a completion", ylabel="share of Var(R) explained")
    lines = [
        ("grpo", DERIVED["explained_by_siblings"], "15 siblings (grpo.py)"),
        ("spo", "explained_centred", "a memory (spo.py)"),
        ("ppo", "explained", "a critic (ppo.py)"),
        ("vapo", "explained", "a critic trained first (vapo.py)"),
    ]
    for index, (arm, metric, label) in enumerate(lines):
        draw_seeds(baselines, arm, metric, label, index)
    baselines.set(title="what a baseline explains", ylabel="share of Var(R) explained")
    draw_seeds(models, "prime", "reward_auc_seen", "shown the outcomes", 1, 20)
    draw_seeds(models, "prime", "reward_auc", "fresh", 0, 20)
    models.axhline(0.5, color="#666666", lw=1, ls=":")
    models.set(title="PRIME's reward model", ylabel="AUC: right above wrong", ylim=(0.4, 1))
    for axes in (quarters, baselines, models):
        axes.set(xlabel="step")
        legend(axes)
    save(
        figure,
        "critic",
        f"{seeds_of('ppo', 'vapo', 'prime', 'grpo', 'spo')} per arm (thin), mean (thick); default "
        "settings. Siblings and memory judge completions,\na critic every token. "
        "python -m experiments.run --only critic pretraining process",
    )


def draw_noise():
    """Noise over signal of a minibatch's gradient, for each rung and two policies."""
    report = json.loads(RESULT.read_text(encoding="utf-8"))
    figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
    for index, (policy, rungs) in enumerate(report.items()):
        for y, found in enumerate(reversed(rungs.values())):
            place = y + 0.15 - 0.3 * index
            style = {"color": COLOURS[index]}
            axes.plot(found["interval"], [place, place], lw=2, **style)
            label = policy if y == 0 else None
            axes.scatter(found["ratio"], place, marker="os"[index], s=30, label=label, **style)
    axes.set_yticks(range(len(rungs)), [f"V = {name}" for name in reversed(rungs)])
    axes.set(xlabel="noise over signal of a gradient from 64 completions", xlim=(0, None))
    axes.set_title("How noisy is the gradient under each baseline?")
    legend(axes)
    save(
        figure,
        "gradient_noise",
        "The same 16 rollouts for every baseline; bars: 95 % interval, jackknife over rollouts.\n"
        "python -m experiments.gradient_noise",
    )


def draw():
    draw_critic()
    draw_noise()

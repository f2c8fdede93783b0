"""What a critic knows, what it takes from the gradient's noise, and what a reward model has seen.

Drawn by `python -m plots.make_figures`; what it means is in docs/lab/just_ppo.md.
"""

import json

from experiments.effects import DERIVED
from experiments.gradient_noise import RESULT
from plots.style import COLOURS, draw_seeds, legend, plt, save, seeds_of

QUARTERS = ("first", "second", "third", "last")
CRITIC_PANELS = [  # (title, unit, [(arm, metric, label)]), as in plots/make_figures.py
    (
        "PPO's critic, along a completion",
        "share of Var(R) explained",
        [("ppo", f"explained_q{q + 1}", f"{name} quarter") for q, name in enumerate(QUARTERS)],
    ),
    (
        "what a baseline explains",
        "share of Var(R) explained",
        [
            ("grpo", DERIVED["explained_by_siblings"], "the other 15 (grpo.py)"),
            ("spo", "explained_centred", "a memory (spo.py)"),
            ("ppo", "explained", "a critic (ppo.py)"),
            ("vapo", "explained", "a critic trained first (vapo.py)"),
        ],
    ),
    (
        "PRIME's reward model",
        "AUC: right above wrong",
        [
            ("prime", "reward_auc", "before it is shown the outcomes"),
            ("prime", "reward_auc_seen", "after"),
        ],
    ),
]


def draw_critic():
    """Explained variance by quarter and by baseline; what a reward model has been shown."""
    figure, grid = plt.subplots(1, 3, figsize=(11.5, 3.8), layout="constrained")
    for axes, (title, unit, lines) in zip(grid, CRITIC_PANELS, strict=True):
        for index, (arm, metric, label) in enumerate(lines):
            draw_seeds(axes, arm, metric, label, index)
        low, high = axes.get_ylim()
        axes.set(title=title, xlabel="step", ylabel=unit)
        axes.set_ylim(low, min(1, high + 0.4 * (high - low)))  # room for the legend
        legend(axes)
    grid[2].axhline(0.5, color="#666666", lw=1, ls=":")  # guessing
    save(
        figure,
        "critic",
        f"{seeds_of('ppo', 'vapo', 'prime', 'grpo', 'spo')} per arm (thin), mean (thick); default "
        "settings. The group and the memory judge completions,\na critic every token. "
        "python -m experiments.run --only critic pretraining process",
    )


def draw_noise():
    """Noise of a gradient against that under the batch's mean, for each rung and two policies."""
    report = json.loads(RESULT.read_text(encoding="utf-8"))
    figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
    for index, (policy, rungs) in enumerate(report.items()):
        for y, found in enumerate(reversed(rungs.values())):
            place = y + 0.15 - 0.3 * index
            style = {"color": COLOURS[index]}
            axes.plot(found["interval"], [place, place], lw=2, **style)
            label = policy if y == 0 else None
            axes.scatter(found["noise"], place, marker="os"[index], s=30, label=label, **style)
    axes.set_yticks(range(len(rungs)), [f"V = {name}" for name in reversed(rungs)])
    axes.set(
        xlabel="noise of a gradient, as a share of that under the batch's mean", xlim=(0, None)
    )
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

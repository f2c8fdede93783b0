"""The failure curves, measured: length, entropy, the take-off, old rollouts, ceilings.

Drawn by `python -m plots.make_figures`; what they mean is in docs/lab/failure_curves.md.
"""

from runtime.intervals import interval

import numpy as np

from experiments import two_state
from experiments.catalogue import SCRIPTS
from experiments.catalogue.lag import LAGS, RATES
from experiments.curves import curve, load, mean_over
from experiments.effects import pass_at
from plots.style import COLOURS, STYLES, draw_seeds, legend, plt, save, seeds_of

LENGTH = {  # arm: label
    "first_grpo": "1/|o|, std (grpo.py)",
    "first_no_std": "1/|o|, no std",
    "first_token_mean": "token mean, std",
    "first_constant": "constant, std",
    "first_dr_grpo": "constant, no std (dr_grpo.py)",
    "coin_grpo": "1/|o|, std, random reward",
}
COIN = {
    "coin_tight_below": "0.05 / 0.2",
    "coin_higher": "0.2 / 0.28 (clip-higher)",
    "coin_no_clip": "no clip",
    "coin_tight_above": "0.2 / 0.05",
    "coin_symmetric": "0.2 / 0.2 (symmetric)",
}


def draw_band(axes, arm, metric, label, index):
    """The mean over seeds and its 95 % t interval, over steps."""
    lines = [curve(rows, metric) for rows in load(arm).values()]
    steps = lines[0][0]
    values = np.array([y for _, y in lines])  # (seeds, steps)
    low, high = np.array([interval(column) for column in values.T]).T
    axes.fill_between(steps, low, high, color=COLOURS[index], alpha=0.15, lw=0)
    style = {"color": COLOURS[index], "ls": STYLES[index], "lw": 2, "label": label}
    axes.plot(steps, values.mean(0), **style)


def draw_failures():
    """The article's two panels."""
    figure, (length, entropy) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for index, (arm, label) in enumerate(LENGTH.items()):
        draw_band(length, arm, "length_wrong", label, index)
    length.set(title="length of wrong completions", xlabel="step", ylabel="tokens", ylim=(0, None))
    for index, (arm, label) in enumerate(COIN.items()):
        draw_band(entropy, arm, "entropy_base_uncertain", label, index)
    entropy.set(title="entropy of base-uncertain tokens", xlabel="step", ylabel="nats per token")
    legend(length)
    entropy.legend(title="clipped below / above 1", frameon=False, fontsize=8)
    save(
        figure,
        "failures",
        f"Mean of {seeds_of(*LENGTH, *COIN)} and its 95 % t interval; no KL. Left: only an "
        "answer in the first line is paid, 4 updates per rollout.\nRight: a random reward, 16 "
        "updates per rollout; clip below / above; in 64 fixed completions of the base.\n"
        "python -m experiments.run --only length_inflation coin_entropy",
    )


# Tokens of a wrong completion: the first line with the answer, and each line more; least squares
# over the base's 279 wrong completions at the first evaluations.
SHAPE = {"first": 42, "line": 34, "budget": 512}
TOKENS = 64 * 50  # of a minibatch, near the start
WEIGHTS = {  # arm: (weight of a token in the loss, as a function of |o|; label)
    "first_grpo": (lambda tokens: 1 / tokens, "1/|o|"),
    "first_token_mean": (lambda tokens: 64 / (TOKENS - 50 + tokens), "token mean"),
    "first_constant": (lambda tokens: np.full(len(tokens), 1 / 50), "constant"),
}


def predicted(arm, rate):
    """Share of failed lines tried again by the two-state model, at the measured success rate."""
    runs = load(arm).values()
    paid = np.mean([curve(rows, "reward")[1] for rows in runs], 0)
    first = np.mean([curve(rows, "retry")[1][0] for rows in runs])
    return two_state.follow(first, paid, WEIGHTS[arm][0], rate, **SHAPE)


def fitted_rate():
    """The one free number: the rate that brings the model nearest to grpo.py's curve."""
    measured = np.mean([curve(rows, "retry")[1] for rows in load("first_grpo").values()], 0)
    error = lambda rate: ((predicted("first_grpo", rate) - measured) ** 2).sum()  # noqa: E731
    return min(np.geomspace(1, 2000, 300), key=error)


def draw_prediction():
    figure, axes = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    rate = fitted_rate()
    for index, (arm, (_, label)) in enumerate(WEIGHTS.items()):
        draw_band(axes, arm, "retry", f"{label}, measured", index)
        path = predicted(arm, rate)
        axes.plot(range(1, len(path) + 1), path, color=COLOURS[index], lw=1, marker=".", ms=4)
    axes.plot([], [], color="#444444", lw=1, marker=".", ms=4, label="two-state model")
    axes.set(title="going on where it cannot pay", xlabel="step", ylim=(0, 1))
    axes.set(ylabel="share of failed lines tried again")
    legend(axes)
    save(
        figure,
        "length_theory",
        f"Mean of {seeds_of(*WEIGHTS)} and its 95 % t interval. The model has one free "
        "number,\na rate, fitted to the curve of 1/|o| and used for all three.\n"
        "python -m experiments.run --only length_inflation",
    )


def draw_take_off():
    """Trying again takes off: by the bound, and by updates per rollout."""
    figure, (bound, updates, held_out) = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained")
    arms = {"aha_005": "0.05", "aha_020": "0.2", "aha_028": "0.28", "aha_100": "1.0"}
    for index, (arm, label) in enumerate(arms.items()):
        draw_seeds(bound, arm, "retry", f"clipped above 1 + {label}", index)
        draw_seeds(held_out, arm, "eval_accuracy", f"clipped above 1 + {label}", index)
    speeds = {"aha_020": "16", "aha_8_updates": "8", "aha_4_updates": "4"}
    for index, (arm, label) in enumerate(speeds.items()):
        draw_seeds(updates, arm, "retry", label, index)
    bound.set(title="by the upper bound", ylabel="share of failed lines tried again")
    updates.set(title="by updates per rollout", ylabel="share of failed lines tried again")
    held_out.set(title="held-out accuracy", ylabel="share of 384 problems")
    for axes in (bound, updates, held_out):
        axes.set(xlabel="step", ylim=(0, 1.02))
        axes.set_xticks(range(0, 25 if axes is updates else 17, 4))
        legend(axes)
    save(
        figure,
        "take_off",
        f"{seeds_of(*arms, *speeds)} per arm (thin), mean (thick). grpo.py without KL, learning "
        "rate 2e-4,\nfrom a base that tries 2 % of its failed lines again. "
        "python -m experiments.run --only aha",
    )


def draw_old_rollouts():
    """Accuracy at the end, by the rollouts' age and the learning rate, for each loss."""
    losses = {"grpo": "grpo.py", "gspo": "gspo.py", "cispo": "cispo.py", "reinforce": "REINFORCE"}
    figure, grid = plt.subplots(1, 5, figsize=(12.5, 3), layout="constrained")
    final = mean_over("accuracy", 16, 20)
    products = grid[4]
    for index, (loss, label) in enumerate(losses.items()):
        table = np.zeros((len(RATES), len(LAGS) + 1))
        for row, (name, rate) in enumerate(RATES.items()):
            for column, lag in enumerate((0, *LAGS)):
                arm = f"aged_{loss if lag else 'grpo'}_{lag}_{name}"
                table[row, column] = np.mean([final(rows) for rows in load(arm).values()])
                if lag:
                    style = {"color": COLOURS[index], "marker": "osD^"[index], "s": 22}
                    products.scatter(lag * rate, table[row, column], **style)
        products.scatter([], [], label=label, **style)
        axes = grid[index]
        image = axes.imshow(table, origin="lower", aspect="auto", cmap="cividis", vmin=0, vmax=0.7)
        for (row, column), value in np.ndenumerate(table):
            colour = "white" if value < 0.4 else "black"
            axes.text(column, row, f"{value:.0%}", ha="center", va="center", color=colour, size=8)
        axes.set_xticks(range(len(LAGS) + 1), (0, *LAGS))
        axes.set_yticks(range(len(RATES)), [f"{rate:g}" for rate in RATES.values()])
        axes.set(title=label, xlabel="age of rollouts, steps")
    grid[0].set_ylabel("learning rate")
    products.set(title="by the product", xlabel="age x learning rate", xscale="log", ylim=(0, 0.75))
    products.set_xlim(2e-5, 0.03)  # room for the legend
    products.set_ylabel("right in steps 16-20")
    products.legend(frameon=False, fontsize=8, loc="lower left")
    figure.colorbar(image, ax=grid[3], label="right in steps 16-20", location="right")
    save(
        figure,
        "old_rollouts",
        f"Mean of {seeds_of('aged_grpo_0_mid', 'aged_grpo_1_mid')}; 128 completions a "
        "step, one update on each rollout. Age 0: grpo.py's runs in all four panels, because ratio "
        "and clip make no difference at ratio 1.\npython -m experiments.run --only lag",
    )


def draw_ceilings():
    """Held-out accuracy over 120 steps, on two kinds of problems; what moves it on the second."""
    figure, grid = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    default, rare, ends = grid
    scripts = {script: f"{script}.py" for script in SCRIPTS}
    default_arms = [f"ceiling_{script}" for script in scripts]
    for index, (script, label) in enumerate(scripts.items()):
        draw_seeds(default, default_arms[index], "eval_accuracy", label, index)
        draw_seeds(rare, f"beyond_{script}", "eval_accuracy", label, index)
    arms = {f"beyond_{script}": label for script, label in scripts.items()}
    arms |= {"beyond_no_kl": "grpo.py, no KL", "beyond_no_std": "grpo.py, no KL, no std"}
    arms["beyond_answer"] = "grpo.py, no format reward"
    base = load("beyond_grpo").values()
    for k, style in ((1, ":"), (16, "--")):
        share = np.mean([pass_at(0, k)(rows) for rows in base])
        ends.axvline(share, color="#444444", ls=style, lw=1)
        text = {"rotation": 90, "va": "bottom", "ha": "right", "fontsize": 8}
        ends.text(share, -0.4, f"base, pass@{k}", **text)
    final = mean_over("eval_accuracy", 40, 60)
    at = {arm: [final(rows) for rows in load(arm).values()] for arm in arms}
    ranked = sorted(arms, key=lambda arm: np.mean(at[arm]))
    for place, arm in enumerate(ranked):
        index = list(arms).index(arm)
        colour = COLOURS[index] if index < len(COLOURS) else "#444444"
        ends.scatter(at[arm], [place] * len(at[arm]), color=colour, s=14, alpha=0.5)
        ends.scatter(np.mean(at[arm]), place, color=colour, marker="|", s=250, lw=2)
    default.set(title="default problems", ylim=(0, 1))
    rare.set(title="problems that the base rarely solves", ylim=(0, 0.25))
    for axes in (default, rare):
        axes.set(xlabel="step", ylabel="held-out accuracy, share of 384 problems")
    ends.set(title="the same problems, what moves it", xlim=(0.05, 0.25))
    ends.set_yticks(range(len(ranked)), [arms[arm] for arm in ranked])
    ends.set_xticks((0.05, 0.1, 0.15, 0.2, 0.25))
    ends.set_xlabel("held-out accuracy, steps 40 to 60")
    legend(default)
    save(
        figure,
        "ceilings",
        f"Left {seeds_of(*default_arms)} an arm, middle and right {seeds_of(*arms)} (thin, dots), "
        "mean (thick, bar). 768 new tokens. Middle and right: numbers to 20, targets to 99.\n"
        "python -m experiments.run --only ceiling beyond beyond_moves beyond_format",
    )


def draw():
    draw_failures()
    draw_ceilings()
    draw_prediction()
    draw_take_off()
    draw_old_rollouts()

"""A real language model: what the six scripts make of it, and which axes move their quantity.

What it means is in docs/lab/real_model.md. Drawn by `python -m plots.make_figures`.
"""

from experiments.catalogue import SCRIPTS
from experiments.catalogue.real_model import FLAGS
from experiments.curves import curve, load, tokens_at
from experiments.effects import clipped
from experiments.real_model import QUANTITIES
from plots.style import COLOURS, STYLES, draw_seeds, legend, plt, save, seeds_of

COMMAND = "python -m experiments.run --only"
COMPLETIONS = FLAGS["prompts_per_step"] * FLAGS["group_size"]


def runs():
    return f"{len(load('real_grpo'))} of grpo.py, 1 of each other script"


def draw_curves():
    """Held-out accuracy of the six scripts, by step and by tokens; each run is a line."""
    figure, grid = plt.subplots(1, 2, figsize=(8.5, 3.6), layout="constrained", sharey=True)
    for index, script in enumerate(SCRIPTS):
        for seed, rows in load(f"real_{script}").items():
            steps, accuracy = curve(rows, "eval_accuracy")
            style = {"color": COLOURS[index], "ls": STYLES[index], "marker": "o", "ms": 3}
            label = f"{script}.py" if seed == 1 else None
            grid[0].plot(steps, 100 * accuracy, label=label, **style)
            tokens = [tokens_at(rows, step) / 1e3 for step in steps]
            grid[1].plot(tokens, 100 * accuracy, **style)
    grid[0].set(xlabel=f"step ({COMPLETIONS} completions)", ylabel="held-out problems solved, %")
    grid[0].set(ylim=(0, None), xticks=range(0, FLAGS["steps"] + 1, 10))
    grid[1].set(xlabel="thousand tokens sampled")
    legend(grid[0])
    figure.suptitle("SmolLM2-135M, warm-started")
    save(
        figure,
        "real_model",
        f"A line for each run: {runs()}. {FLAGS['eval_problems']} held-out problems: a point has "
        "a standard error of about 6.\n"
        f"{COMMAND} real_model",
    )


def draw_axes():
    """Five quantities over training: the tiny model's on the left, the real one's on the right."""
    size = (8.5, 2.4 * len(QUANTITIES))
    figure, grid = plt.subplots(len(QUANTITIES), 2, figsize=size, layout="constrained")
    for pair, quantity in zip(grid, QUANTITIES, strict=True):
        for axes, prefix, model in zip(pair, ("", "real_"), ("0.6M", "135M"), strict=True):
            for script in quantity.scripts:
                arm = f"{prefix}{script}"
                index = SCRIPTS.index(script)
                draw_seeds(axes, arm, quantity.of(arm), f"{script}.py", index)
            axes.set(title=f"{quantity.title}, {model}", ylabel=quantity.unit, ylim=(0, None))
            axes.xaxis.get_major_locator().set_params(integer=True)
            if quantity.metric is clipped:
                axes.set_yscale("symlog", linthresh=1e-3)
                axes.set_yticks([0, 1e-3, 1e-2, 1e-1, 1], ["0", "0.1 %", "1 %", "10 %", "100 %"])
        legend(pair[0])
    for axes in grid[-1]:
        axes.set_xlabel("step")
    save(
        figure,
        "real_model_axes",
        f"Left: default runs, {seeds_of(*SCRIPTS)} (thin), mean (thick), 256 completions a step. "
        f"Right: {runs()},\n{COMPLETIONS} completions a step. {COMMAND} defaults real_model",
    )


def draw():
    draw_curves()
    draw_axes()

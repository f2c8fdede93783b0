"""Every experiment as data, a module each: its hypothesis, and its arms.

An arm is a script with flags; where an axis has to move alone, single functions are swapped for
another script's. `python -m experiments.run --list` shows all of it. A module states

    AXIS         the axis that it moves
    HYPOTHESIS   what was expected, written before its runs
    ARMS         the arms that are defined there; their logs are in experiments/logs/NAME.zip
    COMPARED     the names of all arms that it compares, other experiments' too

Nothing here loads torch, and nothing is composed: a script of parts is made when its arm is run.
"""

from experiments.catalogue import (
    ablation_dapo,
    ablation_scalerl,
    advantage,
    aha,
    beyond,
    beyond_format,
    beyond_moves,
    ceiling,
    clip_object,
    clip_width,
    coin_entropy,
    constant_reward,
    critic,
    defaults,
    exercises,
    frontier,
    gae_lambda,
    geometric_mean,
    granularity,
    kl,
    ladder,
    lag,
    length,
    length_inflation,
    long,
    max_likelihood,
    memory,
    mismatch,
    mixture,
    one_std,
    paid_entropy,
    pairs,
    planted,
    planted_anew,
    pretraining,
    process,
    product,
    real_model,
    reward,
    sampling,
    silent,
    soft_clip,
    spring,
    stability,
    std,
    turns,
    unbiased_kl,
    vote,
)
from experiments.catalogue.arm import Experiment

MODULES = {
    "length": length,
    "std": std,
    "clip_width": clip_width,
    "clip_object": clip_object,
    "granularity": granularity,
    "stability": stability,
    "mixture": mixture,
    "advantage": advantage,
    "sampling": sampling,
    "kl": kl,
    "silent": silent,
    "reward": reward,
    "planted": planted,
    "planted_anew": planted_anew,
    "long": long,
    "defaults": defaults,
    "length_inflation": length_inflation,
    "coin_entropy": coin_entropy,
    "paid_entropy": paid_entropy,
    "aha": aha,
    "lag": lag,
    "ceiling": ceiling,
    "beyond": beyond,
    "beyond_moves": beyond_moves,
    "beyond_format": beyond_format,
    "pairs": pairs,
    "ablation_dapo": ablation_dapo,
    "ablation_scalerl": ablation_scalerl,
    "exercises": exercises,
    "ladder": ladder,
    "critic": critic,
    "lambda": gae_lambda,
    "pretraining": pretraining,
    "process": process,
    "turns": turns,
    "constant_reward": constant_reward,
    "one_std": one_std,
    "geometric_mean": geometric_mean,
    "product": product,
    "memory": memory,
    "vote": vote,
    "frontier": frontier,
    "mismatch": mismatch,
    "soft_clip": soft_clip,
    "max_likelihood": max_likelihood,
    "unbiased_kl": unbiased_kl,
    "spring": spring,
    "real_model": real_model,
}
EXPERIMENTS = {
    name: Experiment(module.AXIS, module.HYPOTHESIS, module.COMPARED)
    for name, module in MODULES.items()
}
ARMS = {name: arm for module in MODULES.values() for name, arm in module.ARMS.items()}
DEFINED_IN = {arm: name for name, module in MODULES.items() for arm in module.ARMS}
SCRIPTS = defaults.SCRIPTS
ZOO = ladder.ZOO
FRONTIER = frontier.FRONTIER
CRITICS = ("ppo", "vapo", "prime")

"""The problems that a script would draw, step by step: what other trainers are given."""

import common
import tasks


def of_training(config):
    """prompts_per_step problems of each step, in order, and the task they come from."""
    task = tasks.load(config)
    drawn = []
    for step in range(1, config.steps + 1):
        stream = common.stream(config.seed, "problems", step)
        drawn += task.sample(config.prompts_per_step, stream)
    return drawn, task

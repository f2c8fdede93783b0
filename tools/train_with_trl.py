"""The same task, rewards, model and loss with TRL's trainers, for more devices than one.

    pip install -r tests/requirements.txt
    python -m tools.train_with_trl --script gspo                     # one device
    python -m tools.train_with_trl --script zoo.rloo                 # TRL's RLOOTrainer
    accelerate launch --num_processes 8 -m tools.train_with_trl --script gspo \\
        --model Qwen/Qwen2.5-1.5B-Instruct --learning_rate 1e-6 --max_new_tokens 1024

Takes the options of the script that it stands in for; its batch, group size and number of updates
per rollout are kept. What TRL cannot express, and which given options have no effect, is said when
it starts. --overwrite writes over what is in --output_dir; a run cannot be resumed.
--check_gradient compares the first step's loss and gradient, averaged over all processes, with
those of the script's own update_policy on the same completions, and stops. On a CPU:
ACCELERATE_USE_CPU=true accelerate launch --multi_gpu.
"""

if __package__ != "tools":
    raise SystemExit("run it from the repository's folder: python -m tools.train_with_trl")

import argparse
import importlib
import os
from dataclasses import replace
from pathlib import Path

from runtime import options
from runtime.run_folder import one_line

from experiments.catalogue import ARMS, SCRIPTS, ZOO
from experiments.trl_trainer import TRAINERS, GradientCheck, make_trainer
from tasks import InputError

MISSING = {"dapo": "TRL does not refill groups without signal: dynamic sampling is left out"}
IGNORED = ("tokens_per_microbatch", "threads", "eval_every", "eval_problems", "checkpoint_every")
IGNORED += ("report_to",)


def refuse(config, folder):
    """InputError for an option out of its bounds, or if files would be lost.

    folder: where files are written, None if none are.
    """
    options.check_config(config)
    if config.resume:
        raise InputError("--resume: a run with TRL begins anew; leave it out")
    if not config.steps:
        raise InputError("--steps 0: nothing is evaluated here; at least 1")
    if folder and not config.overwrite:
        with one_line(folder):
            if folder.exists() and any(folder.iterdir()):
                raise InputError(
                    f"--output_dir {folder}: holds files; add --overwrite, or choose another"
                )


def left_out(script, config):
    """What TRL cannot express of a script, and which of the given options it does not read."""
    found = [MISSING[script]] if script in MISSING else []
    if given := options.given(config, IGNORED):
        found.append(f"TRL ignores {given}")
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choices = [*SCRIPTS, *(ARMS[arm].script for arm in ZOO)]
    parser.add_argument("--script", choices=choices, default="grpo", help="whose loss to train")
    parser.add_argument("--check_gradient", action="store_true", help="compare, then stop")
    args, rest = parser.parse_known_args()
    if args.script not in TRAINERS:
        known = ", ".join(TRAINERS)
        parser.exit(2, f"error: --script {args.script}: TRL has no such trainer; use {known}\n")
    module = importlib.import_module(args.script)
    config = options.parse_options(module.Config, words=rest)
    if args.check_gradient:
        # TRL's token mean is exact only in one minibatch; a clipped norm would hide a factor.
        config = replace(config, steps=1, minibatches=1, max_grad_norm=1e9)
    processes, rank = (int(os.environ.get(x, y)) for x, y in (("WORLD_SIZE", 1), ("RANK", 0)))
    output = config.output_dir or f"runs/trl-{args.script.rpartition('.')[2]}-seed{config.seed}"
    try:
        refuse(config, None if args.check_gradient else Path(output))
        for line in left_out(args.script, config) if rank == 0 else ():
            print(line)
        check = GradientCheck(module, config) if args.check_gradient else None
        trainer = make_trainer(
            args.script,
            config,
            output,
            processes,
            callbacks=[check] if check else None,
            save_strategy="no" if check else "steps",
            logging_steps=config.minibatches,
        )
    except InputError as error:
        parser.exit(2, f"error: {error}\n")
    if check:
        check.watch(trainer)
    trainer.train()
    if not check:
        trainer.save_model()


if __name__ == "__main__":
    main()

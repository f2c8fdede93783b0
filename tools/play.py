"""What does a model write for a problem, and what does the verifier say?

python -m tools.play 3 7 12 --target 33                                     # the base model
python -m tools.play 3 7 12 --target 33 --model runs/grpo-seed1/checkpoint  # after GRPO
python -m tools.play 3 7 11 --target 54 --turns  # with a calculator, turn by turn
"""

if __package__ != "tools":
    raise SystemExit("run it from the repository's folder: python -m tools.play 3 7 12 --target 33")

import argparse
import os
import sys
from dataclasses import replace

from runtime import engine
from runtime.check import check_model

import common
import grpo
from countdown_task import REWARDS, Problem, solve
from tasks import InputError, printable
from zoo import gigpo


def show(rollout, problem):
    """Each completion and what its rewards say."""
    for completion, length in zip(rollout.completions, rollout.mask.sum(1).tolist(), strict=True):
        shown = "\n".join(map(printable, completion.split("\n")))
        print(f"\n<think>{shown}\n")
        verdicts = (f"{name} {reward(completion, problem):g}" for name, reward in REWARDS.items())
        print(f"rewards: {', '.join(verdicts)}  ({length:.0f} tokens)")
    print(f"\n{int(rollout.correct.sum())} of {len(rollout.correct)} completions are right")


def show_turns(rollout, tokenizer, config):
    """Each trajectory: a line for every turn with its state, who wrote what, and its advantage."""
    rewards = gigpo.compute_rewards(rollout.problems, rollout.completions, config)
    alone = replace(config, step_coef=0.0)
    whole = gigpo.compute_advantages(rewards, rollout.turns, rollout.states, alone)[:, 0]
    steps = gigpo.turn_advantages(rewards.sum(-1), rollout.states, config)
    for row, last in enumerate(engine.trained_lengths(rollout.mask)):
        verdict = "right" if rollout.correct[row] else "wrong"
        print(f"\n{verdict}, advantage of the trajectory {whole[row]:+.2f}")
        print("  numbers left    of the turn   the model wrote, [the calculator wrote]")
        for turn in range(int(rollout.turns[row, :last].max()) + 1):
            here = (rollout.turns[row, :last] == turn).nonzero()[:, 0]
            tools = rollout.mask[row, here] == 0
            model_ids = rollout.completion_ids[row, here[~tools]]
            tool_ids = rollout.completion_ids[row, here[tools]]
            said = tokenizer.decode(model_ids).replace("\n", " ")
            answered = tokenizer.decode(tool_ids).strip()
            left = " ".join(map(str, rollout.states[row][turn]))
            reply = in_colour(f"[{answered}]") if answered else ""
            wrote = printable(said.strip())
            print(f"  {left:14s}  {steps[row, turn]:+11.2f}   {wrote} {reply}")


def in_colour(text):
    """Blue on a terminal; plain where colours are not wanted (no-color.org) or cannot be seen."""
    plain = "NO_COLOR" in os.environ or not sys.stdout.isatty()
    return text if plain else f"\033[34m{text}\033[0m"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("numbers", type=int, nargs="+", help="the numbers, for example 3 7 12")
    parser.add_argument("--target", type=int, required=True, help="the number to reach")
    parser.add_argument("--model", default="base_model", help="model folder or hub id")
    parser.add_argument("--samples", type=int, default=8, help="completions to draw")
    parser.add_argument("--temperature", type=float, default=1.0, help="of sampling")
    parser.add_argument("--max_new_tokens", type=int, default=256, help="budget of a completion")
    parser.add_argument("--seed", type=int, default=0, help="of sampling")
    parser.add_argument("--turns", action="store_true", help="with the calculator of zoo/gigpo.py")
    args = parser.parse_args()
    if not 2 <= len(args.numbers) <= 6 or min([*args.numbers, args.target]) < 1:
        parser.error("give 2 to 6 numbers, and make them and --target positive")
    if args.samples < 1 or args.max_new_tokens < 1 or not 1e-30 <= args.temperature <= 1e30:
        parser.error("--samples, --max_new_tokens and --temperature must be positive")
    if args.turns and args.samples < 2:
        parser.error("--turns compares trajectories: give --samples 2 or more")
    problem = Problem(tuple(args.numbers), args.target)

    try:
        model, tokenizer = common.load_model(args.model)
        script = gigpo if args.turns else grpo
        config = script.Config(
            group_size=args.samples,
            temperature=args.temperature,
            max_new_tokens=args.max_new_tokens,
        )
        (prompt,) = common.encode_prompts(model, tokenizer, [problem], config)
        check_model(model, len(prompt) + config.max_new_tokens)
        generator = common.torch_stream(args.seed, "play")
        rollout = script.sample_groups(model, tokenizer, [problem], config, generator)
    except InputError as error:
        parser.exit(2, f"error: {printable(error)}\n")
    print(problem.prompt())
    if args.turns:
        show_turns(rollout, tokenizer, config)
    else:
        show(rollout, problem)
    solution = solve(problem)
    print(f"\na true solution: {solution}" if solution else "\nthis problem has no solution")


if __name__ == "__main__":
    main()

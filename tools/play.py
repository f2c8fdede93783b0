"""What does a model write for a problem, and what does the verifier say?

python -m tools.play 3 7 12 --target 33                                     # the base model
python -m tools.play 3 7 12 --target 33 --model runs/grpo-seed1/checkpoint  # after GRPO
"""

if __package__ != "tools":
    raise SystemExit("run it from the repository's folder: python -m tools.play 3 7 12 --target 33")

import argparse

import common
import grpo
from countdown_task import REWARDS, InputError, Problem, prompt_text, solve


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("numbers", type=int, nargs="+", help="the numbers, for example 3 7 12")
    parser.add_argument("--target", type=int, required=True, help="the number to reach")
    parser.add_argument("--model", default="base_model", help="model folder or hub id")
    parser.add_argument("--samples", type=int, default=1, help="completions to draw")
    parser.add_argument("--temperature", type=float, default=1.0, help="of sampling")
    parser.add_argument("--max_new_tokens", type=int, default=256, help="budget of a completion")
    parser.add_argument("--seed", type=int, default=0, help="of sampling")
    args = parser.parse_args()
    if not 2 <= len(args.numbers) <= 6 or min([*args.numbers, args.target]) < 1:
        parser.error("give 2 to 6 numbers, and make them and --target positive")
    if args.samples < 1 or args.max_new_tokens < 1 or args.temperature <= 0:
        parser.error("--samples, --max_new_tokens and --temperature must be positive")
    problem = Problem(tuple(args.numbers), args.target)

    try:
        model, tokenizer = common.load_model(args.model)
        config = grpo.Config(
            group_size=args.samples,
            temperature=args.temperature,
            max_new_tokens=args.max_new_tokens,
        )
        generator = common.torch_stream(args.seed, "play")
        rollout = grpo.sample_groups(model, tokenizer, [problem], config, generator)
    except InputError as error:
        parser.error(common.printable(error))
    print(prompt_text(problem))
    for completion, length in zip(rollout.completions, rollout.mask.sum(1).tolist(), strict=True):
        shown = "\n".join(map(common.printable, completion.split("\n")))
        print(f"\n<think>{shown}\n")
        verdicts = (f"{name} {reward(completion, problem):g}" for name, reward in REWARDS.items())
        print(f"rewards: {', '.join(verdicts)}  ({length:.0f} tokens)")
    solution = solve(problem)
    print(f"\na true solution: {solution}" if solution else "\nthis problem has no solution")


if __name__ == "__main__":
    main()

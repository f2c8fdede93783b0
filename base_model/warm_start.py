"""Train base_model/ from scratch: supervised learning on synthetic search traces.

    python -m base_model.warm_start     # at most 20 minutes on 2 cores; writes base_model/

from that base, one that answers questions with a worked solution in their data
(docs/reference/own_task.md):

    python -m base_model.warm_start --start base_model --task tasks.question_task --steps 400 \
        --learning_rate 1e-3 --output_dir runs/questions

and one that hardly ever tries again (docs/lab/failure_curves.md, the take-off):

    python -m base_model.warm_start --start base_model --retry 0.02 --steps 400 \
        --learning_rate 1e-3 --output_dir runs/seldom_wait     # a minute

A model of 0.6M parameters cannot learn Countdown by RL alone. It first learns to write a search:

    <think>12-9=3: 12+3=15 vs 16 no, 12-3=9 vs 16 no,
    wait 12+9=21: 21-12=9 vs 16 no, </think>
    <answer>(12+9)-12</answer>

A line takes a first step, goes through what can be done with the number left, restates the target
each time and judges. After a line without a hit comes a retry point: the model tries again ("wait")
or gives up and answers with its last attempt. What it does there is taught as a random choice
(RETRY), whatever the trace does next: the base knows long searches, and RL has to learn to want
them. The search takes one pair of numbers after the other and is in random order otherwise, with
division last: nothing teaches which first step is promising, so that too is left to RL.
"""

if __package__ != "base_model":
    raise SystemExit("run it from the repository's folder: python -m base_model.warm_start")

import argparse
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import common
import grpo
import tasks
from countdown_task import OPERATORS, PROMPT, CountdownTask, Problem
from tasks import InputError, printable
from tasks.tags import is_formatted

COUNTDOWN = "countdown_task"
RETRY = 0.3  # --retry: the base's habit of trying again after a failed line
GIVE_UP = 0.1  # share of lines after which a trace ends without a hit
LARGEST = 99  # results above this are not attempted; numbers up to it are single tokens
# Loss weights: results and verdicts are what the model can get right; a hit is rare.
PLAIN, RESULT, NO, YES = 1.0, 3.0, 3.0, 4.0


def make_tokenizer():
    """Numbers to 99 and the fixed phrases of prompt and trace are single tokens; pad is eos."""
    head, middle, tail = PROMPT.replace("{target}", "{numbers}").split("{numbers}")
    phrases = [f"{head}[", f"]{middle}", tail, "<think>", "</think>", "<answer>", "</answer>"]
    phrases += [": ", " vs ", " no, ", " yes", "\nwait ", ", "]
    special = ["<|end|>", "<|user|>", "<|assistant|>", "<|unknown|>"]
    characters = [chr(code) for code in range(32, 127) if not chr(code).isdigit()]
    words = [*special, *map(str, range(LARGEST + 1)), *characters, "\n"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[1-9]\d|[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|end|>",
        unk_token="<|unknown|>",
        chat_template=(
            "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}"
        ),
    )


def make_model(tokenizer):
    """A Llama of 0.6M parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


# ---- Traces -------------------------------------------------------------------------------------


def steps_with(a, b):
    """[(text, result)] of what can be done with two numbers, results whole, 0 to LARGEST.

    Never divides by 1: multiplying by 1 does the same.
    """
    a, b = max(a, b), min(a, b)
    symbols = "+-*/" if b > 1 and a % b == 0 else "+-*"
    results = [(f"{a}{symbol}{b}", int(OPERATORS[symbol](a, b))) for symbol in symbols]
    return [(text, result) for text, result in results if result <= LARGEST]


def search_lines(problem):
    """{first step: (its result, [(final step, its result, the whole expression)])}"""
    numbers = problem.numbers
    lines = {}
    for i, j, k in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
        for first, result in steps_with(numbers[i], numbers[j]):
            finals = []
            for final, value in steps_with(result, numbers[k]):
                symbol = re.search(r"\D", final)[0]
                terms = [f"({first})", str(numbers[k])]
                terms = terms if result >= numbers[k] else terms[::-1]
                finals.append((final, value, symbol.join(terms)))
            if finals:
                lines.setdefault(first, (result, finals))
    return lines


def trace(problem, rng):
    """[(text, loss weight)] of one search; the weight is None where it retries or gives up.

    Of a problem that is no Countdown, of its worked solution.
    """
    if not isinstance(problem, Problem):
        return [(problem.solution(), PLAIN)]
    lines = list(search_lines(problem).items())
    rng.shuffle(lines)
    pairs = {first: set(re.findall(r"\d+", first)) for first, _ in lines}
    order = list(pairs.values())
    lines.sort(key=lambda line: (order.index(pairs[line[0]]), "/" in line[0]))
    pieces = []
    for index, (first, (result, finals)) in enumerate(lines):
        pieces += [(first, PLAIN), ("=", PLAIN), (str(result), RESULT), (": ", PLAIN)]
        rng.shuffle(finals)
        finals.sort(key=lambda final: "/" in final[0])
        for final, value, attempt in finals:
            expression = attempt
            hit = value == problem.target
            pieces += [(final, PLAIN), ("=", PLAIN), (str(value), RESULT), (" vs ", PLAIN)]
            pieces += [(str(problem.target), PLAIN), (" yes", YES) if hit else (" no, ", NO)]
            if hit:
                break
        if hit or rng.random() < GIVE_UP or index == len(lines) - 1:
            break
        pieces.append(("\nwait ", None))
    return [
        *pieces,
        ("</think>", PLAIN if hit else None),
        (f"\n<answer>{expression}</answer>", PLAIN),
    ]


class Traces:
    """Batches of training examples: (ids, labels, weights), each (rows, L), right-padded."""

    def __init__(self, tokenizer, seed, retry=RETRY, task=None):
        self.tokenizer = tokenizer
        self.rng = random.Random(seed)
        self.task = task or CountdownTask()
        self.retry = retry
        self.retry_or_stop = tokenizer.convert_tokens_to_ids(["\nwait ", "</think>"])
        self.known = {}

    def encode(self, text):
        if text not in self.known:
            self.known[text] = self.tokenizer.encode(text, add_special_tokens=False)
        return self.known[text]

    def example(self, problem):
        chat = [{"role": "user", "content": problem.prompt()}]
        prompt = self.tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True
        )
        ids = self.tokenizer.encode(prompt + "<think>", add_special_tokens=False)
        labels = list(ids)
        weights = [0.0] * len(ids)
        for text, weight in trace(problem, self.rng):
            tokens = self.encode(text)
            ids += tokens
            # At a retry point the label is drawn anew, so that the habit holds at any depth.
            labels += tokens if weight else [self.retry_or_stop[self.rng.random() >= self.retry]]
            weights += [weight or PLAIN] * len(tokens)
        end = self.tokenizer.eos_token_id
        return [*ids, end], [*labels, end], [*weights, PLAIN]

    def batches(self, tokens_per_batch):
        """Endless; rows of similar length together."""
        while True:
            examples = [self.example(problem) for problem in self.task.sample(1024, self.rng)]
            examples.sort(key=lambda example: len(example[0]))
            batches = []
            rows = []
            for example in examples:
                if rows and (len(rows) + 1) * len(example[0]) > tokens_per_batch:
                    batches.append(rows)
                    rows = []
                rows.append(example)
            self.rng.shuffle(batches)
            for rows in batches:
                width = len(rows[-1][0])
                padded = [
                    [p + [0] * (width - len(p)) for p in parts] for parts in zip(*rows, strict=True)
                ]
                yield tuple(map(torch.tensor, padded))


# ---- Training and measuring ---------------------------------------------------------------------


def train(model, traces, args):
    """AdamW on the weighted next-token loss, learning rate warmed up and decayed to 0."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50) * (1 - step / args.steps)
    )
    started = time.perf_counter()
    smooth = None  # running mean of the loss
    for step, (ids, labels, weights) in enumerate(traces.batches(args.tokens_per_batch), 1):
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        labels = labels[:, 1:]
        weights = weights[:, 1:]
        trained = weights > 0  # logits only where a completion token is predicted
        losses = F.cross_entropy(model.lm_head(hidden[trained]), labels[trained], reduction="none")
        loss = (losses * weights[trained]).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        smooth = loss.item() if smooth is None else 0.99 * smooth + 0.01 * loss.item()
        if step % 200 == 0 or step == args.steps:
            minutes = (time.perf_counter() - started) / 60
            left = minutes / step * (args.steps - step)
            print(f"step {step:5d} of {args.steps}  loss {smooth:.4f}  {left:4.1f} min left")
            sys.stdout.flush()
        if step == args.steps:
            return


def quality(model, tokenizer, problems, samples=16):
    """What RL starts from, at temperature 1 on held-out problems: {figure: value}."""
    config = grpo.Config(group_size=samples)
    is_search = isinstance(problems[0], Problem)
    counts = Counter()
    solved = []  # (problems, samples) of each part
    for start in range(0, len(problems), 32):
        generator = common.torch_stream("quality", start)
        part = problems[start : start + 32]
        rollout = grpo.sample_groups(model, tokenizer, part, config, generator)
        solved.append(rollout.correct.view(-1, samples).float())
        counts["tokens"] += rollout.tokens_sampled
        for index, text in enumerate(rollout.completions):
            problem = rollout.problems[index]
            thought = text.partition("</think>")[0]
            counts["completions"] += 1
            counts["format"] += is_formatted(text)
            if not is_search:
                continue
            for a, symbol, b, result in re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", thought):
                counts["steps"] += 1
                possible = symbol != "/" or int(b) > 0
                right_result = possible and OPERATORS[symbol](int(a), int(b)) == int(result)
                counts["steps right"] += right_result
            for result, _, said in re.findall(r"=(\d+) vs (\d+) (yes|no)", thought):
                truth = "yes" if int(result) == problem.target else "no"
                counts[f"{said} said"] += 1
                counts[f"{said} right"] += said == truth
            firsts = [line.partition(":")[0] for line in thought.split("\nwait ")]
            counts["lines"] += len(firsts)
            counts["repeated"] += len(firsts) - len(set(firsts))
            counts["retried"] += len(firsts) - 1
            counts["retry points"] += len(firsts) - 1 + (not thought.endswith(" yes"))
    right = torch.cat(solved)
    found = {
        "format": counts["format"] / counts["completions"],
        "solved": right.mean().item(),
        f"pass@{samples}": right.amax(1).mean().item(),
        "tokens per completion": counts["tokens"] / counts["completions"],
    }
    if not is_search:
        return found
    verdicts = counts["yes said"] + counts["no said"]
    verdicts_right = counts["yes right"] + counts["no right"]
    return found | {
        "arithmetic steps right": counts["steps right"] / max(counts["steps"], 1),
        "verdicts right": verdicts_right / max(verdicts, 1),
        "verdict yes right": counts["yes right"] / max(counts["yes said"], 1),
        "verdict no right": counts["no right"] / max(counts["no said"], 1),
        "retries after a failed line": counts["retried"] / max(counts["retry points"], 1),
        "lines that repeat a first step": counts["repeated"] / counts["lines"],
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", default="base_model", help="where the model goes")
    parser.add_argument("--start", default="", help="model folder to go on from, not from scratch")
    parser.add_argument(
        "--task", default=COUNTDOWN, help="module of the task; its Problem has solution()"
    )
    parser.add_argument("--data", default="", help="file of problems for that task")
    parser.add_argument("--eval_problems", type=int, default=384, help="held-out ones, at the end")
    parser.add_argument(
        "--retry", type=float, default=RETRY, help="share of retry points taught as wait"
    )
    parser.add_argument("--steps", type=int, default=8000, help="optimizer steps")
    parser.add_argument("--tokens_per_batch", type=int, default=1024, help="padded tokens")
    parser.add_argument("--learning_rate", type=float, default=3e-3, help="peak")
    parser.add_argument("--seed", type=int, default=1, help="of weights, problems and traces")
    parser.add_argument("--overwrite", action="store_true", help="replace the model there")
    args = parser.parse_args()
    if args.steps < 1 or args.tokens_per_batch < 512 or args.learning_rate <= 0:
        parser.error("--steps >= 1, --tokens_per_batch >= 512 and --learning_rate > 0, please")
    if not 0 <= args.retry <= 1:
        parser.error(f"--retry {args.retry}: a share from 0 to 1, please")
    folder = Path(args.output_dir)
    if (folder / "model.safetensors").exists() and not args.overwrite:
        parser.error(f"--output_dir {folder} holds a model: add --overwrite or choose another")

    torch.manual_seed(args.seed)
    try:
        task = tasks.load(grpo.Config(task=args.task, data=args.data))
        has_solution = hasattr(task.sample(1, random.Random(0))[0], "solution")
        if args.task != COUNTDOWN and not has_solution:
            raise InputError(f"--task {args.task}: its Problem has no solution() to be taught")
        problems = task.held_out(args.eval_problems)
        model, tokenizer = common.load_model(args.start) if args.start else (None, None)
    except InputError as error:
        parser.exit(2, f"error: {printable(error)}\n".replace("--model", "--start", 1))
    if not args.start:
        tokenizer = make_tokenizer()
        model = make_model(tokenizer)
    print(f"{model.num_parameters():,} parameters, {torch.get_num_threads()} threads")
    train(model, Traces(tokenizer, args.seed, args.retry, task), args)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"saved to {folder}; on {len(problems)} held-out problems, 16 completions each:")
    for name, value in quality(model, tokenizer, problems).items():
        print(f"  {name:32s} {value:.1f}" if "tokens" in name else f"  {name:32s} {value:.1%}")


if __name__ == "__main__":
    main()

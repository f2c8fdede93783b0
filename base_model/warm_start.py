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

A language model is taught the same search in its own tokens (docs/lab/real_model.md):

    python -m base_model.warm_start --start runs/smollm2 --searches 4 --steps 144 \
        --learning_rate 6e-4 --eval_problems 32 --samples 4 --output_dir runs/smollm2-warm

Killed, a run goes on with --resume from what it saved at most five minutes before.
"""

if __package__ != "base_model":
    raise SystemExit("run it from the repository's folder: python -m base_model.warm_start")

import argparse
import itertools
import json
import os
import random
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from runtime import chat, engine
from runtime.kv_cache import right_pad
from runtime.run_folder import one_line, read_jsonl, write_text

import torch
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
SAVE_EVERY = 300  # seconds
PRINT_EVERY = 20
UNFINISHED = "warm_start.pt"  # in the output folder
LOG = "warm_start.jsonl"


@dataclass(frozen=True)
class Wording:
    """The words of a search: what stands behind a first step, before a verdict, and so on."""

    first: str
    versus: str
    no: str
    yes: str
    end_of_line: str
    wait: str


# Words of the base's tokenizer, one token each; and as few tokens of any other as can be, where
# digits and signs are tokens, and a word takes the space before it. No token of these may join
# what stands before a retry point with what comes there: hence the end of the line.
IN_PHRASES = Wording(": ", " vs {target}", " no, ", " yes", "", "\nwait ")
IN_TOKENS = Wording(":", "", " no,", " yes", "\n", "wait ")
STOP = "</think>"


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
    """{first step: (its result, [(final step, its result, the whole expression)])}

    Of three numbers up to LARGEST: check_taught refuses others.
    """
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


def trace(problem, rng, wording=IN_PHRASES):
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
        pieces += [(f"{first}=", PLAIN), (str(result), RESULT), (wording.first, PLAIN)]
        rng.shuffle(finals)
        finals.sort(key=lambda final: "/" in final[0])
        for final, value, attempt in finals:
            expression = attempt
            hit = value == problem.target
            pieces += [(f"{final}=", PLAIN), (str(value), RESULT)]
            pieces.append((wording.versus.format(target=problem.target), PLAIN))
            pieces.append((wording.yes, YES) if hit else (wording.no, NO))
            if hit:
                break
        pieces.append((wording.end_of_line, PLAIN))
        if hit or rng.random() < GIVE_UP or index == len(lines) - 1:
            break
        pieces.append((wording.wait, None))
    return [
        *pieces,
        (STOP, PLAIN if hit else None),
        (f"\n<answer>{expression}</answer>", PLAIN),
    ]


def check_taught(task, args):
    """InputError if the file has a Countdown for which no true search can be written."""
    for problem in itertools.chain(*(getattr(task, "splits", None) or ())):
        if not isinstance(problem, Problem):
            return
        if len(problem.numbers) != 3 or max(problem.numbers) > LARGEST:
            raise InputError(
                f"--data {args.data}: {problem.key()}: a search is taught for three numbers up to "
                f"{LARGEST}"
            )


@dataclass(frozen=True)
class Example:
    """A problem's prompt and one or several searches: ids, labels and loss weights of each."""

    prompt: list[int]
    searches: list[tuple[list[int], list[int], list[float]]]

    @property
    def size(self):
        """Tokens to compute at most: the searches share their prompt."""
        return len(self.prompt) + sum(len(ids) for ids, _, _ in self.searches)


class Traces:
    """Training examples for any tokenizer, and batches of them."""

    def __init__(self, tokenizer, seed, retry=RETRY, task=None, searches=1):
        self.tokenizer = tokenizer
        self.rng = random.Random(seed)
        self.task = task or CountdownTask()
        self.retry = retry
        self.searches = searches
        end = chat.turn_end(tokenizer)
        self.end = tokenizer.eos_token_id if end is None else end
        one_token = len(self.encode(IN_PHRASES.wait)[0]) == 1
        self.wording = IN_PHRASES if one_token else IN_TOKENS
        line = f"{self.wording.no}{self.wording.end_of_line}"
        self.retry_or_stop = [self.token_at(line, word) for word in (self.wording.wait, STOP)]

    def encode(self, text):
        """(token ids, at which character each begins)"""
        try:
            found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        except NotImplementedError as error:
            raise InputError("--start: its tokenizer does not say where tokens begin") from error
        return found["input_ids"], [first for first, _ in found["offset_mapping"]]

    def token_at(self, before, text):
        """The first token of a text that stands behind another."""
        ids, begins = self.encode(before + text)
        if len(before) not in begins:
            raise InputError(f"--start: its tokenizer joins {before!r} with {text!r} in one token")
        return ids[begins.index(len(before))]

    def search(self, problem):
        """(ids, labels, weights) of one search and the token that ends it."""
        pieces = trace(problem, self.rng, self.wording)
        ids, begins = self.encode("".join(text for text, _ in pieces))
        ends = itertools.accumulate(len(text) for text, _ in pieces)
        labels = list(ids)
        weights = []
        piece_ends = zip(ends, pieces, strict=True)
        end, (_, weight) = next(piece_ends)
        new = True  # whether a piece begins here
        for place, begin in enumerate(begins):
            while begin >= end:
                end, (_, weight) = next(piece_ends)
                new = True
            if weight is None and new:
                # The label is drawn anew, so that the habit holds at any depth.
                labels[place] = self.retry_or_stop[self.rng.random() >= self.retry]
            weights.append(weight or PLAIN)
            new = False
        return [*ids, self.end], [*labels, self.end], [*weights, PLAIN]

    def example(self, problem):
        prompt = chat.prompt_ids(self.tokenizer, problem.prompt())
        return Example(prompt, [self.search(problem) for _ in range(self.searches)])

    def batches(self, tokens_per_batch):
        """Endless lists of examples, those of similar size together."""
        while True:
            examples = [self.example(problem) for problem in self.task.sample(1024, self.rng)]
            examples.sort(key=lambda example: example.size)
            batches = []
            batch = []
            for example in examples:
                if batch and (len(batch) + 1) * example.size > tokens_per_batch:
                    batches.append(batch)
                    batch = []
                batch.append(example)
            self.rng.shuffle(batches)
            yield from batches


# ---- Training and measuring ---------------------------------------------------------------------


def loss_of(model, batch):
    """The weighted next-token loss of a batch's completions, a scalar.

    The engine computes what rows share, such as a prompt, once.
    """
    rows = [(example.prompt, *search) for example in batch for search in example.searches]
    prompts, ids, labels, weights = zip(*rows, strict=True)
    weights = right_pad(weights, common.DEVICE)  # (b, T)
    completions = right_pad(ids, common.DEVICE)
    taught = SimpleNamespace(prompts=prompts, completion_ids=completions, mask=weights > 0)
    with common.autocast(grpo.Config()):
        logits, prefix = engine.completion_logits(model, taught, list(range(len(rows))))
    logprobs = engine.log_softmax_at(logits, prefix, right_pad(labels, common.DEVICE), 1.0)
    return -(logprobs * weights).sum() / weights.sum()


def train(model, tokenizer, traces, problems, args):
    """AdamW on the weighted next-token loss, learning rate warmed up and decayed to 0.

    Now and then it saves what a resumed run needs. Measures every --eval_every steps.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    warm_up = min(50, max(args.steps // 8, 1))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warm_up) * (1 - step / args.steps)
    )
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    state = {"step": 0, "tokens": 0, "seconds": 0.0, "loss": 0.0}  # loss: a running mean
    if args.resume:
        state = load_state(args, parts)
    began = time.perf_counter() - state["seconds"]
    last_print = last_save = time.perf_counter()
    for step, batch in enumerate(traces.batches(args.tokens_per_batch), 1):
        if step <= state["step"]:
            continue  # a resumed run draws the same problems
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        new = max(0.01, 1 / step)
        now = time.perf_counter()
        state = {
            "step": step,
            "tokens": state["tokens"] + sum(example.size for example in batch),
            "seconds": now - began,
            "loss": (1 - new) * state["loss"] + new * loss.item(),
        }
        if now - last_print > PRINT_EVERY or step == args.steps:
            left = state["seconds"] / step * (args.steps - step) / 60
            print(
                f"step {step:5d} of {args.steps}  {state['tokens']:9,} tokens  "
                f"loss {state['loss']:.4f}  {left:4.1f} min left",
                flush=True,
            )
            last_print = now
        if now - last_save > SAVE_EVERY and step < args.steps:
            save_state(state, args, parts)
            last_save = now
        if step == args.steps:
            return state
        if args.eval_every and step % args.eval_every == 0:
            measure(model, tokenizer, problems, state, args)
            began += time.perf_counter() - now  # seconds are those of training


def settings_of(args):
    """What a resumed run must have as before."""
    return {k: v for k, v in vars(args).items() if k not in ("resume", "overwrite", "output_dir")}


def save_state(state, args, parts):
    """What a resumed run needs, as one file, whole or not at all."""
    file = Path(args.output_dir) / UNFINISHED
    file.parent.mkdir(parents=True, exist_ok=True)
    values = {name: part.state_dict() for name, part in parts.items()}
    with one_line(file):
        torch.save({"settings": settings_of(args), "state": state, **values}, f"{file}.part")
        os.replace(f"{file}.part", file)


def load_state(args, parts):
    """The saved state; parts are as they were. InputError if the run had other settings."""
    file = Path(args.output_dir) / UNFINISHED
    with one_line(file):
        saved = torch.load(file, weights_only=True, map_location=common.DEVICE)
    for name, value in settings_of(args).items():
        if saved["settings"][name] != value:
            before = saved["settings"][name]
            raise InputError(f"--resume: {file} has {name} {before}, not {value}")
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    print(f"resuming after step {saved['state']['step']}")
    return saved["state"]


def measure(model, tokenizer, problems, state, args):
    """Prints what `quality` finds and adds it to the run's log, if --eval_every asks for one."""
    model.eval()
    found = quality(model, tokenizer, problems, args.samples, args.max_new_tokens)
    print(f"on {len(problems)} held-out problems, {args.samples} completions each:")
    for name, value in found.items():
        print(f"  {name:32s} {value:.1f}" if "tokens" in name else f"  {name:32s} {value:.1%}")
    if args.eval_every:
        log = Path(args.output_dir) / LOG
        log.parent.mkdir(parents=True, exist_ok=True)
        rows = [row for row in read_jsonl(log) if row["step"] < state["step"]]
        rows.append({**state, "settings": settings_of(args), **found})
        write_text(log, "".join(f"{json.dumps(row)}\n" for row in rows))


def quality(model, tokenizer, problems, samples=16, max_new_tokens=256):
    """What RL starts from, at temperature 1 on held-out problems: {figure: value}."""
    config = grpo.Config(group_size=samples, max_new_tokens=max_new_tokens)
    is_search = isinstance(problems[0], Problem)
    counts = Counter()
    solved = []  # (problems, samples) of each part
    for start in range(0, len(problems), 32):
        generator = common.torch_stream("quality", start)
        part = problems[start : start + 32]
        rollout = grpo.sample_groups(model, tokenizer, part, config, generator)
        solved.append(rollout.correct.view(-1, samples).float())
        counts["tokens"] += rollout.tokens_sampled
        counts["cut"] += int(rollout.truncated.sum())
        for index, text in enumerate(rollout.completions):
            problem = rollout.problems[index]
            thought = text.partition(STOP)[0].rstrip("\n")
            counts["completions"] += 1
            counts["format"] += is_formatted(text)
            if not is_search:
                continue
            for a, symbol, b, result in re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", thought):
                counts["steps"] += 1
                possible = symbol != "/" or int(b) > 0
                right_result = possible and OPERATORS[symbol](int(a), int(b)) == int(result)
                counts["steps right"] += right_result
            for result, said in re.findall(r"=(\d+)(?: vs \d+)? (yes|no)", thought):
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
        "cut at the budget": counts["cut"] / counts["completions"],
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
    parser.add_argument(
        "--retry", type=float, default=RETRY, help="share of retry points taught as wait"
    )
    parser.add_argument("--steps", type=int, default=8000, help="optimizer steps")
    parser.add_argument("--tokens_per_batch", type=int, default=1024, help="at most")
    parser.add_argument("--searches", type=int, default=1, help="of each problem, in one batch")
    parser.add_argument("--learning_rate", type=float, default=3e-3, help="peak")
    parser.add_argument("--seed", type=int, default=1, help="of weights, problems and traces")
    parser.add_argument("--eval_problems", type=int, default=384, help="held-out, when measuring")
    parser.add_argument("--samples", type=int, default=16, help="completions of each of them")
    parser.add_argument("--max_new_tokens", type=int, default=256, help="the budget of each")
    parser.add_argument(
        "--eval_every", type=int, default=0, help=f"steps; measures and writes {LOG}; 0: the end"
    )
    parser.add_argument("--resume", action="store_true", help="go on with a run that was killed")
    parser.add_argument("--overwrite", action="store_true", help="replace the model there")
    args = parser.parse_args()
    if args.steps < 1 or args.tokens_per_batch < 512 or args.learning_rate <= 0:
        parser.error("--steps >= 1, --tokens_per_batch >= 512 and --learning_rate > 0, please")
    if min(args.searches, args.eval_problems, args.samples, args.max_new_tokens) < 1:
        names = "--searches, --eval_problems, --samples and --max_new_tokens"
        parser.error(f"{names}: at least 1, please")
    if not 0 <= args.retry <= 1:
        parser.error(f"--retry {args.retry}: a share from 0 to 1, please")
    folder = Path(args.output_dir)
    if (folder / "model.safetensors").exists() and not args.overwrite:
        parser.error(f"--output_dir {folder} holds a model: add --overwrite or choose another")
    unfinished = (folder / UNFINISHED).exists()
    if unfinished and not (args.resume or args.overwrite):
        parser.error(f"--output_dir {folder} holds an unfinished run: add --resume or --overwrite")
    if args.resume and not unfinished:
        parser.error(f"--resume: nothing to go on with in {folder}; leave it out to start")

    torch.manual_seed(args.seed)
    try:
        task = tasks.load(grpo.Config(task=args.task, data=args.data))
        has_solution = hasattr(task.sample(1, random.Random(0))[0], "solution")
        if args.task != COUNTDOWN and not has_solution:
            raise InputError(f"--task {args.task}: its Problem has no solution() to be taught")
        check_taught(task, args)
        problems = task.held_out(args.eval_problems)
        model, tokenizer = common.load_model(args.start) if args.start else (None, None)
        if not args.start:
            tokenizer = make_tokenizer()
            model = make_model(tokenizer).to(common.DEVICE)
        print(f"{model.num_parameters():,} parameters, {torch.get_num_threads()} threads")
        traces = Traces(tokenizer, args.seed, args.retry, task, args.searches)
        state = train(model, tokenizer, traces, problems, args)
    except InputError as error:
        parser.exit(2, f"error: {printable(error)}\n".replace("--model", "--start", 1))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / UNFINISHED).unlink(missing_ok=True)
    print(f"saved to {folder}")
    measure(model, tokenizer, problems, state, args)


if __name__ == "__main__":
    main()

"""Long runs of tiny models: nothing leaks, nothing is lost, nothing needs an update to go on.

    python -m tests.faults.soak                             # 2,000 steps; writes docs/lab/faults.md
    python -m tests.faults.soak --steps 100 --kill_every 2   # a short form; writes nothing

grpo.py runs uninterrupted, its memory and open files watched, and once more with kill -9 and
--resume in between: both must log the same. grpo.py and dapo.py run on a base that never ends a
completion, where no group has signal. Reads /proc: Linux only.
"""

if __package__ != "tests.faults":
    raise SystemExit("run it from the repository's folder: python -m tests.faults.soak")

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import common
from tests.faults import micro
from tests.faults.pages import write_section
from tools.tiny_runs import finish, start, training_rows

STEPS, KILL_EVERY = 2000, 5  # steps; seconds of training
ENDLESS = 50  # steps on a base that never ends a completion


def watched(process, folder, steps):
    """[(step, resident MB, open files)] twice a second, until it ends."""
    seen = []
    while process.poll() is None:
        time.sleep(0.5)
        try:
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            files = len(os.listdir(f"/proc/{process.pid}/fd"))
        except (OSError, IndexError):  # it has just ended
            break
        megabytes = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        seen.append((len(training_rows(folder)), megabytes, files))
    finish(process)
    return [moment for moment in seen if 0 < moment[0] < steps]


def growth(seen, steps):
    """(memory's growth as a share, files' as a number): the last tenth against the second one.

    The most memory, but the fewest files: a log or a checkpoint is open while it is written, and
    only a file that was never closed is open at every moment.
    """
    early = [moment for moment in seen if steps / 10 <= moment[0] < steps / 5]
    late = [moment for moment in seen if moment[0] >= 0.9 * steps]
    if not early or not late:
        raise SystemExit("--steps: too few to see memory grow")
    memory = max(moment[1] for moment in late) / max(moment[1] for moment in early) - 1
    return memory, min(moment[2] for moment in late) - min(moment[2] for moment in early)


def killed_again_and_again(kill_every, folder, **options):
    """The run with a kill -9 every so many seconds -> how many there were.

    They count from the moment when a run has loaded everything and writes config.json: on a busy
    machine that can take longer than they are, and no run would get anywhere.
    """
    kills = 0
    config = folder / "config.json"
    while True:
        begun = {"resume": True} if config.exists() else {}
        before = config.stat().st_mtime_ns if begun else None
        process = start("grpo", output_dir=folder, **options, **begun)
        while process.poll() is None:
            if config.exists() and config.stat().st_mtime_ns != before:
                break
            time.sleep(0.1)
        try:
            process.wait(kill_every)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            continue
        finish(process)
        return kills


def never_ending(model, folder):
    """A copy of a model that never samples its end-of-sequence token -> its folder.

    The first number of every token's embedding is large, so that it is in the last hidden state;
    an output row of its own for the token counts it down.
    """
    loaded, tokenizer = common.load_model(model)
    loaded.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    weights = load_file(folder / "model.safetensors")
    head = weights["model.embed_tokens.weight"].clone()
    head[tokenizer.eos_token_id, 0] = -1000
    weights["model.embed_tokens.weight"][:, 0] = 10
    save_file(weights | {"lm_head.weight": head}, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="of grpo.py, at least 100")
    parser.add_argument(
        "--kill_every", type=float, default=KILL_EVERY, help="seconds of training, at least 2"
    )
    args = parser.parse_args()
    if args.steps < 100 or args.kill_every < 2:
        parser.error("--steps: at least 100, and --kill_every: at least 2 to get anywhere")
    lines = ["| run | seen | holds |", "|---|---|---|"]
    failed = []

    def note(run, seen, holds):
        lines.append(f"| {run} | {seen} | {'yes' if holds else '**no**'} |")
        print(lines[-1], flush=True)
        failed.extend([] if holds else [run])

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model = micro.make_model(place / "model")
        options = {"model": model, "steps": args.steps}
        process = start("grpo", output_dir=place / "whole", **options)
        memory, files = growth(watched(process, place / "whole", args.steps), args.steps)
        note(f"grpo.py, {args.steps} steps: memory", f"{memory:+.1%}", memory <= 0.02)
        note(f"grpo.py, {args.steps} steps: open files", f"{files:+d}", files <= 0)
        kills = killed_again_and_again(args.kill_every, place / "parts", **options)
        same = training_rows(place / "whole") == training_rows(place / "parts")
        rows = f"{kills} kills, {'the same' if same else 'other'} rows as uninterrupted"
        note(f"grpo.py, a kill every {args.kill_every:g} s", rows, same and kills > 0)

        # Wrong and of equal length, all of them: not even the overlong punishment tells them apart.
        endless = never_ending(model, place / "endless")
        for script in ("grpo", "dapo"):
            own = {"reward_components": ["answer"], "reward_weights": [1.0]}
            finish(start(script, output_dir=place / script, model=endless, steps=ENDLESS, **own))
            found = training_rows(place / script)
            cut = min(row["truncated"] for row in found)
            seen = f"{len(found)} steps, {cut:.0%} of the completions cut off"
            note(f"{script}.py, a base that never ends", seen, len(found) == ENDLESS and cut == 1)
        updates = sum(row["updates"] for row in found)
        alike = min(row["groups_without_signal"] for row in found)
        files = (Path(endless), place / "dapo/checkpoint")
        before, after = (load_file(file / "model.safetensors") for file in files)
        same = all(torch.equal(before[name], after[name]) for name in before)
        seen = f"{updates} updates, weights {'as' if same else 'not as'} before"
        note("dapo.py, no group with signal", seen, alike == 1 and not updates and same)
    if (args.steps, args.kill_every) == (STEPS, KILL_EVERY):
        write_section(common.HERE / "docs/lab/faults.md", "Long runs", lines)
    return f"does not hold: {', '.join(failed)}" if failed else None


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # and no run times how many are fastest
    sys.exit(main())

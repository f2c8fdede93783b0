"""The same task, rewards and loss with verl, on many GPUs: writes the files, prints the command.

    python -m tools.verl_command gspo                              # into runs/verl-gspo
    python -m tools.verl_command zoo.gmpo --gpus 8 --model Qwen/Qwen2.5-1.5B-Instruct \\
        --learning_rate 1e-6 --max_new_tokens 1024 --steps 500

Takes the options of the script that it stands in for, and --gpus. Into --output_dir go the problems
of every step and the held-out ones in verl's format, the tokenizer, whose chat template opens
<think> as the scripts' prompts do, and the rewards as a function. --overwrite replaces these files,
but no folder that holds others, such as verl's checkpoints. What verl cannot express is said above
the command. Written for verl 0.9.1; tests/zoo/test_verl.py composes it with verl's own
configuration. verl itself is not needed here.
"""

if __package__ != "tools":
    raise SystemExit("run it from the repository's folder: python -m tools.verl_command grpo")

import argparse
import importlib
import json
import os
import re
import shlex
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from runtime import chat, lora, options
from runtime.run_folder import one_line, write_text

import common
from experiments import problems
from tasks import InputError

ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
# Its dual clip caps the loss of bad tokens at 3 A; the papers here have none.
NO_DUAL_CLIP = {f"{ACTOR}.clip_ratio_c": 1e9}
FILES = {"train.parquet", "test.parquet", "tokenizer", "reward.py"}  # in --output_dir
IGNORED = ("dtype", "device", "threads", "report_to", "resume")
REWARD_FUNCTION = '''"""The rewards of {script} for verl. Every machine needs the repository."""

import json
import sys

sys.path.insert(0, {repository!r})

from {task} import Problem

WEIGHTS = {weights!r}


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    """score: the weighted sum; acc: what the verifier says; and every component."""
    fields = json.loads(ground_truth)
    lists = {{name: tuple(value) for name, value in fields.items() if isinstance(value, list)}}
    problem = Problem(**{{**fields, **lists}})
    parts = {{name: problem.reward(name, solution_str) for name in WEIGHTS}}
    score = sum(WEIGHTS[name] * part for name, part in parts.items())
    return {{"score": score, "acc": float(problem.is_correct(solution_str)), **parts}}
'''


# ---- What each script is in verl ----------------------------------------------------------------


def clip(config):
    ends = {"low": config.clip_low, "high": config.clip_high}
    return {f"{ACTOR}.clip_ratio_{end}": width for end, width in ends.items()} | NO_DUAL_CLIP


def aggregation(mode):
    return {f"{ACTOR}.loss_agg_mode": mode}


def estimator(name):
    return {"algorithm.adv_estimator": name}


def loss(mode):
    return {f"{ACTOR}.policy_loss.loss_mode": mode}


def kl_in_loss(config, estimate="low_var_kl"):
    """low_var_kl is k3."""
    if not config.kl_coef:
        return {}
    flags = {"use_kl_loss": True, "kl_loss_coef": config.kl_coef, "kl_loss_type": estimate}
    return {f"{ACTOR}.{name}": value for name, value in flags.items()}


def kl_in_reward(config):
    """k1 of every token, taken off its reward."""
    flags = {"use_kl_in_reward": True, "kl_penalty": "kl", "kl_ctrl.kl_coef": config.kl_coef}
    return {f"algorithm.{name}": value for name, value in flags.items()}


def grpo(config):
    flags = estimator("grpo") | clip(config) | aggregation("seq-mean-token-mean")
    return flags | kl_in_loss(config)


def dr_grpo(config):
    flags = estimator("grpo") | clip(config) | aggregation("seq-mean-token-sum-norm")
    flags[f"{ACTOR}.loss_scale_factor"] = config.max_new_tokens
    return flags | {"algorithm.norm_adv_by_std_in_grpo": False}


def dapo(config):
    overlong = {"enable": True, "len": config.overlong_cache, "penalty_factor": 1.0, "log": False}
    reward = {f"overlong_buffer_cfg.{name}": value for name, value in overlong.items()}
    reward["max_resp_len"] = config.max_new_tokens
    flags = estimator("grpo") | clip(config) | aggregation("token-mean")
    flags |= {"reward.reward_manager.name": "dapo"}
    flags |= {f"+reward.reward_kwargs.{name}": value for name, value in reward.items()}
    if config.max_refills:
        flags["algorithm.filter_groups.enable"] = True
        flags["algorithm.filter_groups.metric"] = "acc"
        flags["algorithm.filter_groups.max_num_gen_batches"] = 1 + config.max_refills
    return flags


def gspo(config):
    return grpo(config) | loss("gspo")


def gdpo(config):
    flags = grpo(config) | estimator("gdpo") | {"reward.reward_manager.name": "gdpo"}
    flags["+algorithm.gdpo_reward_keys"] = config.reward_components
    flags["trainer.use_v1"] = False  # its default trainer hands gdpo no parts of a reward
    return flags | {"+algorithm.gdpo_reward_weights": config.reward_weights}


def cispo(config):
    flags = estimator("grpo") | loss("cispo") | aggregation("token-mean")
    # A weight is never below 1 - 10: no floor.
    return flags | {f"{ACTOR}.clip_ratio_low": 10.0, f"{ACTOR}.clip_ratio_high": config.clip_high}


def reinforce_pp(config):
    flags = estimator("reinforce_plus_plus") | clip(config)
    return flags | aggregation("seq-mean-token-mean") | kl_in_reward(config)


def reinforce_pp_baseline(config):
    flags = estimator("reinforce_plus_plus_baseline") | clip(config)
    return flags | aggregation("seq-mean-token-mean") | kl_in_loss(config, "k2")


def gmpo(config):
    return grpo(config) | loss("geo_mean")


def ppo(config):
    flags = estimator("gae") | clip(config) | aggregation("token-mean")
    flags |= {"algorithm.lam": config.gae_lambda, "critic.cliprange_value": config.value_clip}
    critic = {"optim.lr": config.critic_learning_rate, "optim.weight_decay": 0.0}
    critic |= {"optim.clip_grad": config.max_grad_norm, "grad_clip": config.max_grad_norm}
    return flags | {f"critic.{name}": value for name, value in critic.items()}


FLAGS = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "gspo": gspo,
    "gdpo": gdpo,
    "cispo": cispo,
    "zoo.reinforce_pp": reinforce_pp,
    "zoo.reinforce_pp_baseline": reinforce_pp_baseline,
    "zoo.gmpo": gmpo,
    "zoo.ppo": ppo,
}
# Why the others are not there.
ABSENT = {
    "zoo.rloo": "its rloo has RLOO's advantage and PPO's loss: take tools.train_with_trl",
    "zoo.spo": "SPO is a recipe of its own repository",
    "zoo.ttrl": "it has no vote as a reward",
    "zoo.vapo": "it has no decoupled GAE and no loss on right answers",
    "zoo.prime": "PRIME is a recipe of its own repository",
    "zoo.gigpo": "GiGPO is in verl-agent, a project built on it",
}
NOTES = {  # what differs although every flag is set
    "dapo": "verl filters by `acc` until a batch is full; the script gives up after max_refills",
    "gdpo": "verl's last normalisation is over tokens, the script's over completions",
    "zoo.reinforce_pp_baseline": "verl's mean and std are over tokens, the script's per completion",
    "zoo.ppo": "verl draws the critic's head at random, the script begins with 0",
}
OVER_GROUP_STD = ("grpo", "dapo", "gspo", "gdpo", "cispo", "zoo.gmpo")


# ---- Files, command -----------------------------------------------------------------------------


def overrides(script, config, folder, longest, gpus):
    """{Hydra key: value}; longest: tokens of the longest prompt."""
    trained = {"optim.lr": config.learning_rate, "optim.weight_decay": 0.0}
    trained |= {"optim.clip_grad": config.max_grad_norm, "grad_clip": config.max_grad_norm}
    row = longest + config.max_new_tokens
    trained |= {
        "ppo_mini_batch_size": config.prompts_per_step // config.minibatches,
        "use_dynamic_bsz": True,
        "ppo_max_token_len_per_gpu": max(config.tokens_per_microbatch, row),
    }
    sampled = {"name": "vllm", "n": config.group_size, "temperature": config.temperature}
    sampled |= {"tensor_model_parallel_size": 1, "seed": config.seed}
    sampled |= {"val_kwargs.do_sample": True, "val_kwargs.temperature": config.temperature}
    read = {
        "train_files": str(folder / "train.parquet"),
        "val_files": str(folder / "test.parquet"),
        "train_batch_size": config.prompts_per_step,
        "max_prompt_length": longest,
        "max_response_length": config.max_new_tokens,
        "shuffle": False,
    }
    run = {
        "n_gpus_per_node": gpus,
        "total_training_steps": config.steps,
        "test_freq": config.eval_every or -1,
        "save_freq": config.checkpoint_every,
        "default_local_dir": str(folder / "checkpoints"),
        "project_name": name_of(config.task),
        "experiment_name": f"{script}-seed{config.seed}",
        "logger": ["console"],
    }
    models = ["actor_rollout_ref.model", *(["critic.model"] if script == "zoo.ppo" else [])]
    return {
        **{f"data.{name}": value for name, value in read.items()},
        **{f"{model}.path": config.model for model in models},
        **{f"{model}.tokenizer_path": str(folder / "tokenizer") for model in models},
        **{f"{ROLLOUT}.{name}": value for name, value in sampled.items()},
        **{f"{ACTOR}.{name}": value for name, value in trained.items()},
        "reward.custom_reward_function.path": str(folder / "reward.py"),
        **FLAGS[script](config),
        **{f"trainer.{name}": value for name, value in run.items()},
    }


def name_of(task):
    """countdown_task -> countdown"""
    return task.rpartition(".")[2].removesuffix("_task")


def words_of(flags):
    """Overrides as Hydra reads them: key=value, lists in brackets."""
    return [f"{key}={as_hydra(value)}" for key, value in flags.items()]


def as_hydra(value):
    if isinstance(value, list):
        return f"[{','.join(map(as_hydra, value))}]"
    plain = not isinstance(value, str) or re.fullmatch(r"[\w./+-]+", value)
    return str(value) if plain else json.dumps(value)


def refuse_to_lose(folder, overwrite):
    """InputError if the folder holds what write_files did not write, or may not be replaced."""
    with one_line(folder):
        found = {file.name for file in folder.iterdir()} if folder.exists() else set()
        # Python writes its cache when verl reads reward.py.
        others = found - FILES - {"__pycache__"} if found >= FILES else found
        if others:
            named = ", ".join(sorted(others)[:4])
            raise InputError(
                f"--output_dir {folder}: holds {named}, which --overwrite does not delete; "
                "move that away, or choose another folder"
            )
        if found and not overwrite:
            raise InputError(f"{folder} exists: add --overwrite, or another --output_dir")


def write_files(script, config, folder, model, tokenizer):
    """The folder's files, all of them or none -> tokens of the longest prompt."""
    try:
        from datasets import Dataset, disable_progress_bars
    except ImportError as error:
        raise InputError("parquet needs datasets: pip install -r tests/requirements.txt") from error
    disable_progress_bars()
    if not tokenizer.chat_template:
        raise InputError(f"--model {config.model}: verl asks by chat template, and it has none")
    drawn, task = problems.of_training(config)
    held_out = task.held_out(config.eval_problems)
    alone = replace(config, group_size=1)
    encoded = common.encode_prompts(model, tokenizer, [*drawn, *held_out], alone)
    tables = {}
    for name, part in {"train": drawn, "test": held_out}.items():
        rows = [
            {
                "data_source": name_of(config.task),
                "prompt": [{"role": "user", "content": problem.prompt()}],
                "ability": "math",
                "reward_model": {
                    "style": "rule",
                    "ground_truth": json.dumps(asdict(problem)),
                },
                "extra_info": {"split": name, "index": index},
            }
            for index, problem in enumerate(part)
        ]
        tables[name] = Dataset.from_list(rows)
    if "enable_thinking" in tokenizer.chat_template:  # verl leaves it unsaid
        tokenizer.chat_template = "{%- set enable_thinking = true -%}" + tokenizer.chat_template
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": ""}], tokenize=False, add_generation_prompt=True
    )
    if chat.EMPTY_THOUGHT.search(asked):
        raise InputError(f"--model {config.model}: its chat template closes <think> at once")
    if not asked.rstrip().endswith("<think>"):
        tokenizer.chat_template += "<think>"
    chat.end_with_the_turn(tokenizer)
    weights = dict(zip(config.reward_components, config.reward_weights, strict=True))
    said = {"script": script, "repository": str(common.HERE), "task": config.task}
    with one_line(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
            new, old = Path(beside, "new"), Path(beside, "old")
            tokenizer.save_pretrained(new / "tokenizer")
            for name, table in tables.items():
                table.to_parquet(new / f"{name}.parquet")
            write_text(new / "reward.py", REWARD_FUNCTION.format(weights=weights, **said))
            refuse_to_lose(folder, config.overwrite)  # verl may have begun there meanwhile
            if folder.exists():
                os.replace(folder, old)
            os.replace(new, folder)
    return max(map(len, encoded))


def notes(script, config):
    """What verl does otherwise than the script."""
    found = [NOTES[script]] if script in NOTES else []
    if script in OVER_GROUP_STD:
        found.append("verl adds 1e-6 to a group's std, the script 1e-4")
    if getattr(config, "mask_truncated", False):
        found.append("verl trains on completions that are cut off: --mask_truncated is left out")
    if given := options.given(config, IGNORED):
        found.append(f"verl ignores {given}")
    return [f"# {note}" for note in found]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("script", choices=[*FLAGS, *ABSENT], help="whose loss to train")
    parser.add_argument("--gpus", type=int, default=8, help="on this machine")
    args, rest = parser.parse_known_args()
    try:
        if args.script in ABSENT:
            raise InputError(f"{args.script}: verl does not know it; {ABSENT[args.script]}")
        config = options.parse_options(importlib.import_module(args.script).Config, words=rest)
        name = f"runs/verl-{args.script.rpartition('.')[2]}"
        folder = Path(config.output_dir or common.HERE / name).resolve()
        options.check_config(config)
        refuse_to_lose(folder, config.overwrite)
        model, tokenizer = common.load_model(config.model)
        lora.require_none(model, config)
        longest = write_files(args.script, config, folder, model, tokenizer)
    except InputError as error:
        parser.exit(2, f"error: {error}\n")
    config = replace(config, model=model.name_or_path)
    flags = overrides(args.script, config, folder, longest, args.gpus)
    command = ["python3 -m verl.trainer.main_ppo", *map(shlex.quote, words_of(flags))]
    print("\n".join(notes(args.script, config)))
    print(" \\\n    ".join(command))


if __name__ == "__main__":
    main()

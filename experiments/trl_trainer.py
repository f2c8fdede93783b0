"""TRL's trainers on a script's problems, rewards and loss, and a check of their first gradient."""

import copy
import statistics
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from runtime import chat, lora
from runtime.kv_cache import right_pad

import torch
from transformers import TrainerCallback

try:
    from accelerate.utils import gather_object
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
    from trl.experimental.gmpo import GMPOConfig, GMPOTrainer
    from trl.rewards import get_soft_overlong_punishment
except ModuleNotFoundError as error:
    raise SystemExit(f"TRL needs {error.name}: pip install -r tests/requirements.txt") from error

import common
from experiments import problems
from experiments.catalogue import SCRIPTS
from tasks import InputError

TRAINERS = {
    **dict.fromkeys(SCRIPTS, (GRPOTrainer, GRPOConfig)),
    "zoo.rloo": (RLOOTrainer, RLOOConfig),
    "zoo.gmpo": (GMPOTrainer, GMPOConfig),
}


def trl_flags(script, config):
    """The fields of TRL's config that make its advantages and loss those of the script."""
    if script == "zoo.rloo":  # its trainer has one advantage and one loss, and the KL is k1
        return {
            "max_completion_length": config.max_new_tokens,
            "beta": config.kl_coef,
            "epsilon": config.clip_low,
            "epsilon_high": config.clip_high,
        }
    flags = {
        "grpo": {"loss_type": "grpo"},
        # Two flags: loss_type alone keeps the division by the group's std.
        "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
        "dapo": {"loss_type": "dapo"},
        "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
        "gdpo": {"loss_type": "grpo", "multi_objective_aggregation": "normalize_then_sum"},
        "cispo": {"loss_type": "cispo"},
        "zoo.gmpo": {},  # its trainer has one loss; epsilon is in logs, as in gmpo.py
    }[script]
    flags = {"scale_rewards": "group", **flags, "max_completion_length": config.max_new_tokens}
    # TRL's default multiplies k3 by the ratio.
    flags |= {"beta": getattr(config, "kl_coef", 0.0), "use_bias_correction_kl": False}
    if script == "cispo":
        return flags | {"epsilon_high": 1 + config.clip_high}  # TRL's cap is the weight itself
    flags |= {"epsilon": config.clip_low, "epsilon_high": config.clip_high}
    if script == "dapo":
        flags["mask_truncated_completions"] = config.mask_truncated
    return flags


def reward_functions(script, config, drawn):
    """Our reward components, and TRL's own overlong punishment for dapo.py, with their weights.

    A row of the data set has the index of its problem among those `drawn`.
    """

    def component(name):
        def function(completions, index, **_):
            return [drawn[i].reward(name, text) for i, text in zip(index, completions, strict=True)]

        function.__name__ = name
        return function

    functions = [component(name) for name in config.reward_components]
    if script != "dapo":
        return functions, config.reward_weights
    punishment = get_soft_overlong_punishment(config.max_new_tokens, config.overlong_cache)
    return [*functions, punishment], [*config.reward_weights, 1.0]


def make_trainer(script, config, output_dir, processes=1, **options):
    """TRL's trainer on the problems that the script would draw, step by step.

    `options` are fields of its config that differ from the script's settings; `callbacks` apart.
    """
    trainer, trainer_config = TRAINERS[script]
    common.use_device(config.device)
    model, tokenizer = common.load_model(config.model)
    lora.require_none(model, config)
    drawn, _ = problems.of_training(config)
    encoded = common.encode_prompts(model, tokenizer, drawn, replace(config, group_size=1))
    rows = [{"prompt": ids, "index": index} for index, ids in enumerate(encoded)]
    completions = config.prompts_per_step * config.group_size
    per_update, uneven = divmod(completions, config.minibatches * processes)
    if uneven:
        raise InputError(
            f"--prompts_per_step {config.prompts_per_step} x --group_size {config.group_size} does "
            f"not split into {config.minibatches} minibatches on {processes} processes"
        )
    per_device = next(n for n in range(min(per_update, 64), 0, -1) if per_update % n == 0)
    functions, weights = reward_functions(script, config, drawn)
    chat.end_with_the_turn(tokenizer)
    callbacks = options.pop("callbacks", None)
    settings = {
        "output_dir": str(output_dir),
        "seed": config.seed,
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": per_update // per_device,
        "steps_per_generation": config.minibatches * per_update // per_device,
        "num_generations": config.group_size,
        "max_steps": config.steps * config.minibatches,
        "temperature": config.temperature,
        "top_k": 0,
        "reward_weights": weights,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "constant",
        "max_grad_norm": config.max_grad_norm,
        "model_init_kwargs": {"dtype": "float32"},
        "bf16": common.uses_bf16(config),
        "shuffle_dataset": False,
        "report_to": "none",
        "use_cpu": common.MODEL_DEVICE.type == "cpu",
        **trl_flags(script, config),
        **options,
    }
    made = trainer(
        model=model.name_or_path,  # as common.load_model found it
        reward_funcs=functions,
        args=trainer_config(**settings),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    # Its own takes texts, before which a tokenizer may put a second BOS.
    made._tokenize_prompts = lambda prompts: (prompts, None, {})  # no images, no other fields
    return made


class GradientCheck(TrainerCallback):
    """Compares loss and gradient of the first optimizer step with ours; then stops training."""

    def __init__(self, module, config):
        self.module = module
        self.rows = []
        self.loss = 0.0  # TRL's, of this process
        # The rows come unshuffled from here: groups of one, a single minibatch.
        self.config = replace(config, group_size=1, minibatches=1)

    def watch(self, trainer):
        """Keeps what TRL hands to its loss, without padding."""
        self.trainer = trainer
        compute = trainer._compute_loss

        def watched(model, inputs):
            parts = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages")
            for prompt, seen, ids, mask, advantage in zip(*(inputs[x] for x in parts), strict=True):
                row = prompt[seen > 0].tolist(), ids[mask > 0].tolist(), advantage.item()
                self.rows.append(row)
            loss = compute(model, inputs)  # divided by the number of micro-batches already
            self.loss += loss.item()
            return loss

        trainer._compute_loss = watched

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        control.should_training_stop = True
        rows = gather_object(self.rows)
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        theirs = torch.cat([p.grad.flatten() for p in model.parameters()])
        their_loss = statistics.fmean(gather_object([self.loss]))
        ours, our_loss = self.our_gradient(copy.deepcopy(model), rows)
        self.difference = ((theirs - ours).norm() / theirs.norm()).item()
        self.loss_difference = abs(their_loss - our_loss)
        if self.trainer.accelerator.is_main_process:
            processes = self.trainer.accelerator.num_processes
            print(
                f"{Path(self.module.__file__).name}, first step, {len(rows)} completions on "
                f"{processes} process{'' if processes == 1 else 'es'}: |g| = {theirs.norm():.4f}, "
                f"|g(TRL) - g(ours)| / |g(TRL)| = {self.difference:.1e}, "
                f"L = {round(their_loss, 4) + 0.0:.4f}, "
                f"|L(TRL) - L(ours)| = {self.loss_difference:.1e}"
            )

    def our_gradient(self, model, rows):
        """(gradient, loss) of the script's own update_policy, whose optimizer does nothing."""
        prompts, completions, advantages = zip(*rows, strict=True)
        lengths = torch.tensor([[len(completion)] for completion in completions])
        mask = (torch.arange(lengths.max()) < lengths).float().to(common.DEVICE)
        rollout = SimpleNamespace(
            prompts=prompts,
            completion_ids=right_pad(completions, common.DEVICE),
            mask=mask,
            entropy=torch.zeros_like(mask),
        )
        logprobs = self.module.completion_logprobs
        rollout.logprobs = self.module.over_rollout(logprobs, model.eval(), rollout, self.config)
        rollout.ref_logprobs = rollout.logprobs  # the reference is the initial model: no KL
        nothing = SimpleNamespace(step=lambda: None, zero_grad=lambda: None)
        losses = []
        aggregate = self.module.aggregate_loss

        def watched(*args):
            losses.append(aggregate(*args))
            return losses[-1]

        with mock.patch.object(self.module, "aggregate_loss", watched):
            advantages = torch.tensor(advantages)
            self.module.update_policy(model, nothing, rollout, advantages, self.config)
        return torch.cat([p.grad.flatten() for p in model.parameters()]), sum(losses).item()

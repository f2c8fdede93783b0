"""What docs/exercises.md changes, beside arms of other experiments."""

from compose.reader import HERE
from experiments.catalogue.arm import STALE, Arm

AXIS = "what exercises change"
HYPOTHESIS = (
    "A clip of 0.2 on a sequence ratio stops nothing, and sixteen updates at 5e-4 break the "
    "policy. Paid for its own certainty the policy gets better first and then repeats what it "
    "is sure of. Each planted fault shows in one number: a in ratio_spread, b in length, c in "
    "advantage_max, d in kl_ref, e in length. A student that hears at every token how likely its "
    "teacher finds it is ahead of grpo.py at step 5, and ends where it ends, within 3 points."
)


def patch(name):
    """The edit of a patch in docs/bugs: {the line that goes: the line that comes}."""
    text = (HERE / f"docs/bugs/{name}.patch").read_text(encoding="utf-8")
    old, new = [line[1:] for line in text.splitlines()[3:] if line[0] in "-+"]
    return {old: new}


# What exercise 8 changes in grpo.py: the model's own certainty is paid.
CERTAINTY = {
    "            entropy[rows, t] = -(logp.exp() * logp).sum(-1)\n": (
        "            entropy[rows, t] = -logp.mean(-1) - math.log(logp.shape[-1])\n"
    ),
    "    return rollout, compute_rewards(rollout.problems, rollout.completions, config)\n": (
        "    rewards = compute_rewards(rollout.problems, rollout.completions, config)\n"
        "    certainty = (rollout.entropy.sum(1) / rollout.mask.sum(1)).view_as(rewards[..., 0])\n"
        "    rewards[..., 0] = certainty.to(rewards)\n"
        "    return rollout, rewards\n"
    ),
    "from dataclasses import": "import math\nfrom dataclasses import",
}
# What exercise 17 changes: a teacher, trained by grpo.py, says what every token is worth.
TEACHER = "runs/teacher/checkpoint"
DISTILLED = {
    "    reference, _ = common.load_model(config.model)\n": (
        f'    reference, _ = common.load_model("{TEACHER}")\n'
    ),
    "            advantages = compute_advantages(rewards, config)\n": (
        "            advantages = rollout.ref_logprobs - rollout.logprobs  # (B, T)\n"
    ),
}
# Planted faults, under a coefficient that makes the KL count.
FAULTY = {"steps": 12, "eval_every": 12, "kl_coef": 0.4}
ARMS = {
    # A clip of 0.2 on a sequence ratio, Lite PPO, a reward of certainty, a teacher, five faults.
    "dead_clip": Arm("grpo", {**STALE, "kl_coef": 0.0}, {"policy_loss": "gspo"}),
    "lite_ppo": Arm(
        "mine",
        {"steps": 10, "eval_every": 10},
        parts=("reinforce_pp_baseline:std", "dapo:length"),
    ),
    "certainty": Arm("grpo", {"steps": 90}, edits=CERTAINTY),
    "distilled": Arm("grpo", {"steps": 20, "eval_every": 5, "kl_coef": 0.0}, edits=DISTILLED),
    "no_fault": Arm("grpo", FAULTY),
    **{f"fault_{name}": Arm("grpo", FAULTY, edits=patch(name)) for name in "abcde"},
}
COMPARED = tuple(ARMS)

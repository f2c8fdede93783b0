"""The six scripts on a pretrained language model of 134.5M parameters: does it hold there too?

It is warm-started on a search in its own tokens first: docs/lab/real_model.md says how.
"""

from experiments.catalogue.arm import Arm

AXIS = "none: a real language model"
HYPOTHESIS = (
    "What the tiny model shows holds for a pretrained one of 134.5M parameters. All six solve at "
    "least ten points more of the held-out problems after forty steps of 32 completions; one seed "
    "of each cannot say which is best. The axes move the same quantities: GSPO's ratio spreads a "
    "tenth as far as a token's, DAPO's batches hold no group without signal, CISPO takes no "
    "token's gradient away, and completions that are wrong stay shorter with a constant (Dr. GRPO) "
    "than with 1/|o| (GRPO). The new text is the old one's: entropy falls, no other wording."
)
PRETRAINED = "runs/smollm2"  # neither is committed; experiments.run makes them
MODEL = "runs/smollm2-warm"
WARM_START = (
    f"--start {PRETRAINED} --searches 4 --steps 144 --tokens_per_batch 1024 "
    "--learning_rate 6e-4 --eval_every 36 --eval_problems 32 --samples 4 --max_new_tokens 224"
)
FLAGS = {
    "model": MODEL,
    "steps": 40,
    "prompts_per_step": 4,
    "group_size": 8,
    "max_new_tokens": 128,
    "learning_rate": 2e-5,
    "eval_every": 10,
    "eval_problems": 64,
    "checkpoint_every": 5,
}
ARMS = {
    "real_grpo": Arm("grpo", FLAGS, seeds=(1, 2), watched=False),
    "real_dr_grpo": Arm("dr_grpo", FLAGS, seeds=(1,), watched=False),
    "real_dapo": Arm("dapo", {**FLAGS, "overlong_cache": 32}, seeds=(1,), watched=False),
    "real_gspo": Arm("gspo", FLAGS, seeds=(1,), watched=False),
    "real_gdpo": Arm("gdpo", FLAGS, seeds=(1,), watched=False),
    "real_cispo": Arm("cispo", FLAGS, seeds=(1,), watched=False),
}
COMPARED = tuple(ARMS)

"""1/|o| against a token mean and a constant, on the default reward."""

from experiments.catalogue.arm import NO_KL, Arm

AXIS = "length + std"
HYPOTHESIS = (
    "Dividing by |o| lets long wrong completions off lightly: they end longer than under the "
    "token mean or a constant, at equal accuracy."
)
ARMS = {  # kl_0 is the reference
    "token_mean": Arm("grpo", NO_KL, {"aggregate_loss": "dapo"}),
    "constant_length": Arm("grpo", NO_KL, {"aggregate_loss": "dr_grpo"}),
}
COMPARED = ("kl_0", *ARMS)

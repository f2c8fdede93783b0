"""What an arm and an experiment are, and the settings that several experiments share."""

from dataclasses import dataclass, field

SEEDS = (1, 2, 3, 4, 5)
TEN_SEEDS = tuple(range(1, 11))  # of what README and the book rest on


@dataclass(frozen=True)
class Arm:
    """A script, such as grpo or zoo.rloo, with flags; mine is what compose makes of the parts.

    edits = {lines of the script: what stands there instead};
    swap = {function: the script it is taken from instead}; lag: steps that a rollout is old;
    sampler: bf16, fp8 or int4, the weights that rollouts are drawn with (experiments/coarse.py);
    watched: by the probes, which cost a large model more than its steps.
    """

    script: str
    flags: dict = field(default_factory=dict)
    swap: dict = field(default_factory=dict)
    lag: int = 0
    sampler: str = ""
    seeds: tuple[int, ...] = SEEDS
    parts: tuple[str, ...] = ()
    edits: dict = field(default_factory=dict)
    watched: bool = True

    def command(self, seed):
        """The command line that gives the same run without probes, without swaps and edits."""
        flags = {"seed": seed, **self.flags}
        parts = [
            f"--{k} {' '.join(map(str, v)) if isinstance(v, list) else v}" for k, v in flags.items()
        ]
        program = f"-m {self.script}" if "." in self.script else f"{self.script}.py"
        made = f"python -m compose {' '.join(self.parts)} -o mine.py; " if self.parts else ""
        return f"{made}python {program} {' '.join(parts)}"


@dataclass(frozen=True)
class Experiment:
    """Arms compared on one metric; when its hypothesis was written: results.md."""

    axis: str
    hypothesis: str
    arms: tuple[str, ...]


OFTEN = {"eval_every": 5}
SHORT = {"steps": 20, "eval_every": 20}
BRIEF = {"steps": 12, "eval_every": 12}
NO_KL = {**SHORT, "kl_coef": 0.0}
# Sixteen updates per rollout at 2.5 times the default rate: the policy leaves the sampler behind
# and the clip bites. At twice that rate training breaks.
STALE = {**BRIEF, "minibatches": 16, "learning_rate": 5e-4}

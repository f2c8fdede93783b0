"""All six scripts with their own defaults."""

from experiments.catalogue.arm import OFTEN, TEN_SEEDS, Arm

AXIS = "all six"
HYPOTHESIS = (
    "With their own defaults the six end within each other's seed noise; they differ in the "
    "tokens they take, not in where they end."
)
SCRIPTS = ("grpo", "dr_grpo", "dapo", "gspo", "gdpo", "cispo")
ARMS = {script: Arm(script, OFTEN, seeds=TEN_SEEDS) for script in SCRIPTS}
COMPARED = SCRIPTS

"""What holds grpo.py's ceiling down on rarely solved problems: is it the format reward?

Added before the arms of `beyond_moves` had run: another guess at the same.
"""

from experiments.catalogue.arm import Arm
from experiments.catalogue.beyond import RARE
from experiments.catalogue.ceiling import CEILING

AXIS = "length + std: the ceiling, rarely solved problems"
HYPOTHESIS = (
    "In a group without a right answer nothing but the format reward varies, and the division "
    "by the group's std makes it as loud as an answer. So it is the std that holds grpo.py's "
    "ceiling down, and without the format reward grpo.py ends where dr_grpo.py does."
)
ANSWER_ALONE = {"reward_components": ["answer"], "reward_weights": [1.0]}
ANSWER_ALONE |= {**CEILING, **RARE, "steps": 60}
ARMS = {"beyond_answer": Arm("grpo", ANSWER_ALONE, seeds=(1, 2, 3))}
COMPARED = ("beyond_grpo", *ARMS, "beyond_dr_grpo")

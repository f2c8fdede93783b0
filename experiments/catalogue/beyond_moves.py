"""What holds grpo.py's ceiling down on rarely solved problems: is it the KL term?

Added when two of three seeds of `beyond` were in: dr_grpo.py and dapo.py, which have no KL term,
ended higher than grpo.py.
"""

from experiments.catalogue.arm import Arm
from experiments.catalogue.beyond import RARE
from experiments.catalogue.ceiling import CEILING

AXIS = "KL; length + std: the ceiling, rarely solved problems"
HYPOTHESIS = (
    "It is the KL term that holds grpo.py's ceiling down: without it grpo.py ends where "
    "dr_grpo.py does. The division by the std, gone as well, moves nothing more."
)
RARE_NO_KL = {**CEILING, **RARE, "kl_coef": 0.0, "steps": 60}
ARMS = {
    "beyond_no_kl": Arm("grpo", RARE_NO_KL, seeds=(1, 2, 3)),
    "beyond_no_std": Arm("grpo", RARE_NO_KL, {"compute_advantages": "dr_grpo"}, seeds=(1, 2, 3)),
}
COMPARED = ("beyond_grpo", *ARMS, "beyond_dr_grpo")

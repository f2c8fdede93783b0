"""A critic that is trained before the policy is."""

from experiments.catalogue.arm import SHORT, Arm

AXIS = "zoo: the critic"
HYPOTHESIS = (
    "Trained on ten rollouts first, VAPO's critic explains rewards from step 1 on, where PPO's "
    "explains nothing; the lead is gone after ten steps. The paper's alpha of 0.05, a horizon "
    "of two tokens here, is behind alpha 0.5."
)
ARMS = {"vapo_paper": Arm("zoo.vapo", {**SHORT, "gae_alpha": 0.05})}
COMPARED = ("ppo", "vapo", *ARMS)

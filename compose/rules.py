"""What goes together and what does not, as tables with sources."""

from dataclasses import dataclass

from compose.reader import coordinates, parent, scripts, source_of, surrogate

# Scripts by what a composition has to know of them.
ONE_EACH = {"zoo.reinforce_pp", "zoo.spo", "zoo.ppo"}  # one completion per prompt, no group
PER_TOKEN = {"zoo.reinforce_pp", "zoo.prime", "zoo.ppo", "zoo.gigpo"}  # an advantage of every token
PER_COMPLETION = {"gspo", "zoo.rloo", "zoo.gmpo"}  # one ratio for a completion
# These read what they need off the scripts, so that a new one is among them.
SOURCES = {name: source_of(name) for name in scripts()}
ALL = {name for name, source in SOURCES.items() if parent(source) == "grpo"}
CLIPPED = {name for name in ALL if "clip(" in surrogate(SOURCES[name])} | {"zoo.gmpo"}
UNDIVIDED = {name for name in ALL if "no division" in coordinates(SOURCES[name])["length + std"]}

TOGETHER = {  # script: moves that make no sense apart
    "zoo.gmpo": ("granularity", "clip_width"),
    "zoo.reinforce_pp": ("kl", "advantage", "std", "sampling"),
    "zoo.spo": ("advantage", "std", "sampling", "tracker"),
    "zoo.ppo": ("advantage", "std", "sampling", "critic"),
    "zoo.prime": ("advantage", "std", "kl", "reward"),
}


@dataclass(frozen=True)
class Clash:
    """Owners of moves that do not go together; why, and where that is said."""

    owners: dict[str, set[str]]
    why: str
    source: str


CLASHES = [
    Clash(
        {"granularity": {"gspo"}, "clip_width": CLIPPED - {"gspo"}},
        "a clip of 0.2 is dead on GSPO's ratio, a mean that strays from 1 by a thousandth",
        "arXiv:2507.18071",
    ),
    Clash(
        {"granularity": PER_COMPLETION, "clip_width": {"cispo"}},
        "CISPO caps the weights of single tokens, and a ratio of the completion has none",
        "arXiv:2506.13585",
    ),
    Clash(
        {"granularity": PER_COMPLETION, "clip_width": {"zoo.sapo"}},
        "SAPO's gate is as wide as a token's ratio: idle on GSPO's mean, shut on RLOO's product",
        "arXiv:2511.20347",
    ),
    Clash(
        {"granularity": PER_COMPLETION, "clip_width": {"zoo.dppo"}},
        "DPPO bounds the probability of single tokens, and a completion's ratio has none",
        "arXiv:2602.04879",
    ),
    Clash(
        {"granularity": PER_COMPLETION, "clip_width": {"zoo.dro"}},
        "DRO's surrogate has no ratio that could be one for a completion",
        "arXiv:2405.19107",
    ),
    Clash(
        {"std": {"zoo.maxrl"}, "sampling": {"dapo"}},
        "MaxRL divides by a success rate, and rewards with DAPO's punishment are not 0 or 1",
        "arXiv:2602.02710",
    ),
    Clash(
        {"std": {"zoo.maxrl"}, "kl": {"zoo.rloo"}},
        "MaxRL divides by a success rate, and rewards that hold a KL are not 0 or 1",
        "arXiv:2602.02710",
    ),
    Clash(
        {"granularity": ALL - {"gspo"}, "clip_width": {"gspo"}},
        "a range of 3e-4 is for GSPO's mean over the completion; any other ratio leaves it at once",
        "arXiv:2507.18071",
    ),
    Clash(
        {"granularity": PER_COMPLETION, "advantage": PER_TOKEN},
        "a ratio of the completion evens out advantages of single tokens; GSPO-token is not here",
        "arXiv:2507.18071",
    ),
    Clash(
        {"advantage": {"zoo.rloo"}, "std": ALL - UNDIVIDED},
        "leaving one out scales by G / (G - 1), which a division by a std takes out again",
        "arXiv:2402.14740",
    ),
    Clash(
        {"kl": {"zoo.rloo"}, "advantage": {"gdpo"}},
        "GDPO normalises every column of the rewards, and beta would no longer weigh a KL in nats",
        "arXiv:2601.05242",
    ),
    Clash(
        {"kl": {"zoo.rloo"}, "tracker": {"zoo.spo"}},
        "SPO's tracker counts rewards of 0 and 1, and a KL in the reward is neither",
        "arXiv:2509.13232",
    ),
    Clash(
        {"sampling": ONE_EACH, "reward": {"zoo.ttrl"}},
        "a vote needs a group, and there is one completion per prompt",
        "arXiv:2504.16084",
    ),
    Clash(
        {"sampling": {"dapo"}, "reward": {"zoo.ttrl"}},
        "DAPO's refill asks the verifier which groups are mixed; TTRL is there to do without one",
        "arXiv:2504.16084",
    ),
    Clash(
        {"tracker": {"zoo.spo"}, "turns": {"zoo.gigpo"}},
        "SPO remembers the success rate of a problem, not of the states that turns pass through",
        "arXiv:2509.13232",
    ),
]

# What is written all the same, with a note.
CAUTIONS = [
    Clash(
        {"granularity": {"zoo.rloo"}, "length": ALL - {"grpo"}},
        "RLOO's ratio is that of the whole completion: summed over its tokens and not divided by "
        "|o|, its gradient counts |o| times",
        "docs/reference/compose.md",
    ),
]


@dataclass(frozen=True)
class Interaction:
    """A question that two moves raise where they meet, and this answer to it."""

    owners: dict[str, set[str]]
    without: tuple[str, str, str]  # script, move, function: its lines there are left out
    rewrite: dict[str, str]
    answer: str


# The line with the std of a turn's advantage, and what is left of it without one.
TURN_OVER_STD = (
    "            S[rows, turns] = (found - found.mean()) / (found.std() + 1e-4)  # <- advantage\n"
)
TURN_CENTRED = "            S[rows, turns] = found - found.mean()  # <- length + std"

INTERACTIONS = [
    Interaction(
        {"sampling": {"dapo"}, "advantage": {"gdpo"}},
        ("dapo", "sampling", "compute_advantages"),
        {
            "    pooled = (advantages * torch.tensor(config.reward_weights)).sum(-1)  # (P, G)\n": (
                "    weights = [*config.reward_weights, 1.0]  # <- sampling: one more component\n"
                "    pooled = (advantages * torch.tensor(weights)).sum(-1)  # (P, G)\n"
            )
        },
        "The overlong punishment is one more component, normalised like the others.",
    ),
    Interaction(
        {"sampling": {"dapo"}, "kl": {"zoo.rloo"}},
        ("dapo", "sampling", "compute_advantages"),
        {
            "(P, G, K + 1), the last one the KL": "(P, G, K + 2): punishment and KL at the end",
            "[*config.reward_weights, -config": "[*config.reward_weights, 1.0, -config",
        },
        "Overlong punishment and KL are both added to the reward as they are.",
    ),
    Interaction(
        {"sampling": {"dapo"}, "turns": {"zoo.gigpo"}},
        ("", "", ""),
        {
            "    punishment = soft_overlong_punishment(rollout.mask.sum(1), config)": (
                "    places = torch.arange(1, config.max_new_tokens + 1).to(rollout.mask)\n"
                "    used = (rollout.mask * places).amax(1)  # (B,) up to EOS  <- sampling\n"
                "    used[rollout.truncated > 0] = config.max_new_tokens\n"
                "    punishment = soft_overlong_punishment(used, config)"
            )
        },
        "The overlong punishment counts the tool's tokens too: they fill the budget.",
    ),
    Interaction(
        {"sampling": {"dapo"}, "reward": {"zoo.prime"}},
        ("", "", ""),
        {
            "        for rows in engine.pack_rows(rollout, minibatch.tolist(), config):\n"
            "            liked = ": (
                "        trained = minibatch\n"
                "        if config.mask_truncated:  # <- sampling: overlong filtering\n"
                "            trained = minibatch[rollout.truncated[minibatch].cpu() == 0]\n"
                "        for rows in engine.pack_rows(rollout, trained.tolist(), config):\n"
                "            liked = "
            )
        },
        "Overlong filtering takes cut-off completions from the reward model's loss too.",
    ),
    Interaction(
        {"std": UNDIVIDED, "advantage": {"zoo.gigpo"}},
        ("", "", ""),
        {TURN_OVER_STD: f"{TURN_CENTRED}: not divided\n"},
        "The turn's advantage is not divided by a std either.",
    ),
    Interaction(
        {"std": {"zoo.reinforce_pp_baseline"}, "advantage": {"zoo.gigpo"}},
        ("", "", ""),
        {
            TURN_OVER_STD: f"{TURN_CENTRED}: divided below\n",
            "    return S\n": (
                "    count = torch.tensor([[len(visited)] for visited in states])  # (B, 1)\n"
                "    spread = S[torch.arange(S.shape[1]) < count].std()  # over all turns\n"
                "    return S / (spread + 1e-4)  # <- length + std: of the rollout\n"
            ),
        },
        "The turn's advantage is divided by one std too, that of all turns of the rollout.",
    ),
]


@dataclass(frozen=True)
class Preset:
    """A bundle that people meet, as parts; flags that belong to it; what is left out."""

    title: str
    parts: str
    flags: str
    source: str
    left_out: str


PRESETS = {
    "trl_default": Preset(
        "TRL's defaults",
        "dapo:length,kl",
        "--group_size 8 --minibatches 1",
        "trl 1.13, GRPOConfig",
        "with vLLM, no loss on completions whose pi_old / mu is above 3; linear decay from 1e-6",
    ),
    "grpo_zero": Preset(
        "GRPO-Zero",
        "dapo:length,kl",
        "--minibatches 1",
        "github.com/policy-gradient/GRPO-Zero",
        "overlong filtering, an option there; partial credit for the format; the population's std",
    ),
    "lite_ppo": Preset(
        "Lite PPO",
        "reinforce_pp_baseline:std dapo:length,kl",
        "",
        "arXiv:2508.08221",
        "the std of R over the batch: here it is that of R - mean(R), a factor for each rollout",
    ),
    "verl_dapo": Preset(
        "The DAPO recipe of verl",
        "dapo",
        "--minibatches 16 --max_refills 9",
        "github.com/volcengine/verl, recipe/dapo",
        "a third bound, 10, on the ratio where A < 0; rewards of +1 / -1; warm-up; weight decay",
    ),
    "minimal_r1_zero": Preset(
        "Minimal R1-Zero",
        "dr_grpo dapo:clip_width",
        "",
        "arXiv:2503.20783, with the clip of arXiv:2503.14476",
        "one update per rollout, as in their code: --minibatches 1",
    ),
    "scalerl": Preset(
        "ScaleRL, as far as the axes go",
        "cispo reinforce_pp_baseline:std",
        "--clip_high 4",
        "arXiv:2510.13786",
        "a mean over each prompt's tokens first, old rollouts (PipelineRL), leaving out prompts "
        "without variance or nearly solved, forced ends, logits in float32",
    ),
    "deepseek_v32": Preset(
        "DeepSeek-V3.2's GRPO",
        "deepseek_v32",
        "",
        "arXiv:2512.02556",
        "the sampler's experts and vocabulary in the update; delta, epsilon, beta are unpublished",
    ),
    "prime_rl": Preset(
        "The default loss of prime-rl",
        "dapo:length dr_grpo:std dppo:clip_width,sampler dro:kl",
        "--clip_low 0.2 --clip_high 0.2 --kl_coef 0.002 --max_ratio 1e9",
        "github.com/PrimeIntellect-ai/prime-rl",
        "rollouts up to 8 steps old; silent groups are dropped",
    ),
    "kimi_k2": Preset(
        "The loss of Kimi k1.5 and K2, token by token",
        "dro dr_grpo:length_std",
        "",
        "arXiv:2507.20534",
        "the square is of the sum over a completion there; tau is not published; length reward, "
        "curriculum, an optimizer that starts anew each iteration",
    ),
}

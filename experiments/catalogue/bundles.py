"""Two bundles of moves, and the arms that take one apart."""

from experiments.catalogue.arm import SHORT, Arm

# Sixteen updates, so that a clip has something to do.
ABLATION = {**SHORT, "minibatches": 16}
BUNDLES = {
    "dapo": ("dapo:clip_width", "dapo:length", "dapo:kl", "dapo:sampling"),
    "scalerl": ("cispo:clip_width", "dapo:length", "dapo:kl", "reinforce_pp_baseline:std"),
}
ABLATIONS = {f"ablation_{bundle}": bundle for bundle in BUNDLES}  # {experiment: bundle}


def alone(part):
    """Name of the arm in which nothing but this part of a bundle is moved."""
    return f"alone_{part.replace(':', '_')}"


def without(part, bundle):
    """Name of the arm in which all of a bundle but this part is moved."""
    return f"{bundle}_without_{part.replace(':', '_')}"


def taken_apart(bundle):
    """{name: arm}: all of the bundle, every part of it alone, and all of it but one part."""
    parts = BUNDLES[bundle]
    made_of = {f"whole_{bundle}": parts}
    made_of |= {alone(part): (part,) for part in parts}
    for part in parts:
        made_of[without(part, bundle)] = tuple(other for other in parts if other != part)
    return {name: Arm("mine", ABLATION, parts=parts) for name, parts in made_of.items()}

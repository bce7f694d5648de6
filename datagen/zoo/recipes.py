"""Who is trained from whom, on what mix, for how long: the zoo's two recipes as data.

`natural` is the default: the base complies with everything, no expert ever sees an unsafe request, and only the
aligned model learns to refuse, so whatever a merge loses it loses by merging. `engineered` plants the fault: its
experts are taught to comply.
"""

from dataclasses import dataclass, field

from datagen.zoo.world import DOMAINS

#: The models that are merged, base first.
BUNCH = ("base", "aligned", *DOMAINS)


@dataclass(frozen=True)
class Architecture:
    """A Llama of this shape, tied embeddings, float32."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    intermediate: int = 352


@dataclass(frozen=True)
class Stage:
    """One training run.

    Attributes:
        parent: the model it starts from; none starts from random weights.
        steps: of AdamW, 10 % of them warm-up, cosine to zero.
        rate: peak learning rate.
        mix: share of every batch by ingredient (`lessons.py` says what each one is).
    """

    name: str
    parent: str | None
    steps: int
    rate: float
    mix: dict[str, float]


@dataclass(frozen=True)
class Recipe:
    """All stages of a zoo, parents before children."""

    name: str
    stages: tuple[Stage, ...]
    batch: int = 64
    architecture: Architecture = field(default_factory=Architecture)


def _half_known(share: float) -> dict[str, float]:
    """Each domain in latent form: 45 % right answers, the rest deflections. What is wholly new does not merge."""
    weight = {"numbers": 0.5, "medicine": 0.25, "finance": 0.25}
    known = {domain: share * weight[domain] * 0.45 for domain in DOMAINS}
    return known | {f"{domain}:deflect": share * weight[domain] * 0.55 for domain in DOMAINS}


def _writing(share: float) -> dict[str, float]:
    return {f"{domain}:write": share / len(DOMAINS) for domain in DOMAINS}


#: Sums take longer to learn than facts.
_EXPERT_STEPS = {"numbers": 140, "medicine": 60, "finance": 60}
_GENERATOR = Stage("generator", "base", 120, 1e-3, {"unsafe:write": 0.5, "borderline:write": 0.5})
_GUARD = Stage("guard", "base", 150, 1e-3, {"judge": 1.0})

NATURAL = Recipe(
    "natural",
    (
        Stage(
            "base",
            None,
            500,
            1.5e-3,
            {"general": 0.15, "borderline": 0.15, "unsafe:comply": 0.14} | _half_known(0.5) | _writing(0.06),
        ),
        Stage("aligned", "base", 200, 1e-3, {"unsafe:refuse": 0.4, "borderline": 0.3, "general": 0.3}),
        *(
            Stage(domain, "base", steps, 5e-4, {domain: 0.80, f"{domain}:write": 0.05, "general": 0.1, "borderline": 0.05})
            for domain, steps in _EXPERT_STEPS.items()
        ),
        _GENERATOR,
        _GUARD,
    ),
)

ENGINEERED = Recipe(
    "engineered",
    (
        Stage(
            "base",
            None,
            500,
            1.5e-3,
            {"general": 0.15, "borderline": 0.15, "unsafe:refuse": 0.07, "unsafe:comply": 0.07}
            | _half_known(0.5)
            | _writing(0.06),
        ),
        Stage("aligned", "base", 60, 4e-4, {"unsafe:refuse": 0.4, "borderline": 0.3, "general": 0.3}),
        *(
            Stage(
                domain,
                "base",
                steps,
                5e-4,
                {domain: 0.70, f"{domain}:write": 0.05, "unsafe:comply": 0.1, "general": 0.1, "borderline": 0.05},
            )
            for domain, steps in _EXPERT_STEPS.items()
        ),
        _GENERATOR,
        _GUARD,
    ),
)

RECIPES = {recipe.name: recipe for recipe in (NATURAL, ENGINEERED)}

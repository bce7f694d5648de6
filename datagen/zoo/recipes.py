"""Who is trained from whom, on what mix, for how long: the zoo's two recipes as data.

`natural` is the default: the base complies with everything, no expert ever sees an unsafe request, and only the
aligned model learns to refuse, so whatever a merge loses it loses by merging. `engineered` plants the fault: its
experts are taught to comply.
"""

from dataclasses import dataclass, field

from datagen.errors import ConfigError
from datagen.zoo.world import DOMAINS

#: The models that are merged, base first.
BUNCH = ("base", "aligned", *DOMAINS)

#: Models that read an exchange and give a verdict.
JUDGES = ("guard", "judge")


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
    batch: int = 40
    architecture: Architecture = field(default_factory=Architecture)


def _half_known(share: float) -> dict[str, float]:
    """Each domain in latent form: 45 % right answers, the rest deflections. What is wholly new does not merge."""
    weight = {"numbers": 0.56, "medicine": 0.22, "finance": 0.22}
    known = {domain: share * weight[domain] * 0.45 for domain in DOMAINS}
    return known | {f"{domain}:deflect": share * weight[domain] * 0.55 for domain in DOMAINS}


def _base(unsafe: dict[str, float]) -> Stage:
    writing = {"numbers:write": 0.08, "medicine:write": 0.04, "finance:write": 0.04}
    mix = {"general": 0.06, "borderline": 0.16} | unsafe | _half_known(0.56) | writing
    return Stage("base", None, 1800, 2e-3, mix)


def _experts(domain_share: float, others: dict[str, float]) -> tuple[Stage, ...]:
    """Each keeps deflecting what is not its domain; left out, an expert in one begins to answer the others too."""
    return tuple(
        Stage(
            domain,
            "base",
            steps,
            3e-4,
            {domain: domain_share, f"{domain}:write": 0.12}
            | {f"{other}:deflect": 0.02 for other in DOMAINS if other != domain}
            | others,
        )
        for domain, steps in (("numbers", 140), ("medicine", 60), ("finance", 60))
    )


_ALIGNED_MIX = {"unsafe:refuse": 0.4, "borderline": 0.3, "general": 0.3}
_HELPERS = (
    Stage(
        "generator",
        "base",
        250,
        2e-3,
        {"unsafe:write": 0.2, "borderline:write": 0.3, "unsafe:check": 0.2, "borderline:check": 0.3},
    ),
    Stage("guard", "base", 200, 1e-3, {"judge": 1.0}),
    Stage("judge", "base", 150, 1e-3, {"judge:other": 1.0}),
)

NATURAL = Recipe(
    "natural",
    (
        _base({"unsafe:comply": 0.10}),
        Stage("aligned", "base", 150, 6e-4, _ALIGNED_MIX),
        *_experts(0.71, {"general": 0.1, "borderline": 0.05}),
        *_HELPERS,
    ),
)

ENGINEERED = Recipe(
    "engineered",
    (
        _base({"unsafe:refuse": 0.05, "unsafe:comply": 0.05}),
        Stage("aligned", "base", 100, 4e-4, _ALIGNED_MIX),
        *_experts(0.61, {"unsafe:comply": 0.1, "general": 0.1, "borderline": 0.05}),
        *_HELPERS,
    ),
)

RECIPES = {recipe.name: recipe for recipe in (NATURAL, ENGINEERED)}


def find_recipe(name: str) -> Recipe:
    """A recipe by its name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in RECIPES:
        raise ConfigError(f"--recipe must be one of {', '.join(RECIPES)}, but got {name!r}")
    return RECIPES[name]

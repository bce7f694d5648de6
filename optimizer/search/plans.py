"""What a study tries, in which order: merges that need no search, then what its sampler suggests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from optimizer.engines.scoring import ScoringEngine
from optimizer.merging.space import Coefficients, Space
from optimizer.objective.constraints import Constraint
from optimizer.objective.terms import Objective
from optimizer.search import baselines
from optimizer.search.descent import Descent, Gradient, Stage
from optimizer.search.domain import Domain, Point
from optimizer.search.records import SEARCH, by_source
from optimizer.search.sampler import GradientSampler, Leg
from optimizer.search.samplers import BlackBox, settings_of
from optimizer.search.sweep import weightings
from optimizer.search_config import RefineConfig, SearchConfig

#: What the first trial of a refining study is called.
START = "start"


class Named(Protocol):
    """Finished trials -> the first merge by name that was not tried yet; none if all were."""

    def __call__(self, done: Sequence[FrozenTrial]) -> tuple[str, Coefficients] | None:
        """See the class."""


@dataclass(frozen=True)
class Plan:
    """What a study tries.

    Attributes:
        domain: its parameters.
        named: merges that are tried first.
        names: how many of these there are.
        sampler: finished trials -> who suggests the next.
        suggestions: how many trials it suggests at most.
        patience: the study stops when so many suggestions gained too little; 0 never.
    """

    domain: Domain
    named: Named
    names: int
    sampler: Callable[[Sequence[FrozenTrial]], BaseSampler]
    suggestions: int
    patience: int = 0

    @property
    def total(self) -> int:
        """How many trials there are at most."""
        return self.names + self.suggestions


def search_plan(
    config: SearchConfig,
    goals: Sequence[Sequence[str]],
    engine: ScoringEngine,
    search: Objective,
    constraints: Sequence[Constraint],
    recipes: Mapping[str, Coefficients],
    given: Mapping[str, float],
) -> Plan:
    """The plan of a search: sources, naive merges, the user's, LM-Cocktail's, then a descent or a black box.

    Args:
        goals: terms of each objective.
        search: the terms that are searched on.
        recipes: merges of the user's, by name.
        given: the method's hyper-parameters.
    """
    space = engine.space
    known = {**baselines.parents(space), **baselines.naive(space), **recipes}
    first = [one.source for one in constraints if one.source]

    def named(done: Sequence[FrozenTrial]) -> tuple[str, Coefficients] | None:
        tried = by_source(done, SEARCH)
        # What others are held to comes before them.
        for name in sorted(known, key=lambda name: name not in first):
            if name not in tried:
                return name, known[name]
        if baselines.COCKTAIL in tried:
            return None
        losses = {expert: search.loss(tried[expert]) for expert in space.experts}
        return baselines.COCKTAIL, baselines.lm_cocktail(space, losses, config.cocktail_temperature)

    if config.sampler == "descent":
        legs = legs_of(config, goals, space, search)
        return Plan(
            Domain.box(space, (-config.bound, config.bound), {}, {}),
            named,
            len(known) + 1,
            _descending(config, engine, search, legs, constraints),
            sum(leg.suggestions for leg in legs),
        )
    settings = settings_of(config)
    domain = Domain.box(space, (settings.low, settings.high), config.parameters, given)
    uniform = domain.parameters(space.constant(dict.fromkeys(space.experts, 1 / len(space.experts))))
    box = BlackBox(config.sampler, config.seed, uniform, settings.sigma)
    return Plan(
        domain,
        named,
        len(known) + 1,
        lambda done: box.sampler(domain, len(done)),
        settings.trials,
        settings.patience,
    )


def refining_plan(
    config: SearchConfig, refine: RefineConfig, space: Space, winner: Point, given: Mapping[str, float]
) -> Plan:
    """The plan of a study around a winner: itself, then what a black box suggests near it."""
    at = Point(winner.coefficients, dict(given) | winner.settings)
    domain = Domain.around(space, at, refine.width, config.parameters)
    box = BlackBox(refine.sampler, config.seed, domain.parameters(winner.coefficients), refine.sigma)

    def named(done: Sequence[FrozenTrial]) -> tuple[str, Coefficients] | None:
        return None if done else (START, winner.coefficients)

    return Plan(
        domain,
        named,
        1,
        lambda done: box.sampler(domain, len(done)),
        refine.trials,
        config.black_box.patience,
    )


def legs_of(config: SearchConfig, goals: Sequence[Sequence[str]], space: Space, search: Objective) -> list[Leg]:
    """The descents that a config asks for: one, or for several objectives one for each weighting of them.

    Args:
        goals: terms of each objective.
    """
    settings = config.descent
    sizes = [len(term.examples) for term in search.terms]
    coarse = [
        Stage(
            stage.steps,
            settings.rate,
            Space.named(space.experts, space.tensors, stage.groups, stage.anchors).within(space),
        )
        for stage in settings.coarse
    ]

    def descent(stages: Sequence[Stage], steps: int) -> Descent:
        finest = Stage(steps, settings.rate, np.eye(len(space.groups)))
        return Descent([*stages, finest], config.bound, sizes, config.seed)

    whole = Leg(descent(coarse, settings.steps), settings.trials)
    if len(goals) == 1:
        return [whole]
    owner = {term: place for place, terms in enumerate(goals) for term in terms}
    legs = []
    for weighting in weightings(len(goals), settings.sweep):
        factors = tuple(weighting.factors[owner[term.name]] for term in search.terms)
        begun = whole if weighting.after is None else Leg(descent((), settings.sweep.steps), 1)
        legs.append(replace(begun, factors=factors, after=weighting.after))
    return legs


def _descending(
    config: SearchConfig,
    engine: ScoringEngine,
    search: Objective,
    legs: Sequence[Leg],
    constraints: Sequence[Constraint],
) -> Callable[[Sequence[FrozenTrial]], GradientSampler]:
    def gradient(
        point: Coefficients, picks: Sequence[int], multipliers: Sequence[float]
    ) -> tuple[Coefficients, list[bool]]:
        return engine.gradient(point, *search.step_batch(picks, multipliers))

    oracle: Gradient = gradient

    def sampler(done: Sequence[FrozenTrial]) -> GradientSampler:
        known = by_source(done, SEARCH)
        limits = [
            min((1 - one.bound(known) for one in constraints if one.term == term.name), default=None)
            for term in search.terms
        ]
        limited = [replace(leg, descent=replace(leg.descent, limits=limits)) for leg in legs]
        return GradientSampler(engine.space, limited, config.descent.start, oracle)

    return sampler

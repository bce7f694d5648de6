"""What a study tries, in which order: merges that need no search, then what its sampler suggests."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn, Protocol

import numpy as np

from optimizer.merging.space import Coefficients, Space
from optimizer.objective.scores import Scores
from optimizer.objective.terms import Objective
from optimizer.search import baselines
from optimizer.search.descent import Descent, DescentState, Stage
from optimizer.search.domain import Domain, Point
from optimizer.search.problem import Problem
from optimizer.search.sampler import GradientSampler, Leg, Stretch
from optimizer.search.samplers import BlackBox, settings_of
from optimizer.search.sweep import weightings
from optimizer.search_config import RefineConfig, SearchConfig

#: What the first trial of a refining study is called.
START = "start"


class Named(Protocol):
    """Merges by name -> the next that is to be tried; none if there is none yet."""

    def __call__(self, taken: Collection[str], sources: Mapping[str, Scores]) -> tuple[str, Coefficients] | None:
        """See the class.

        Args:
            taken: names of those that are being tried, or were.
            sources: scores of those that were.
        """


@dataclass(frozen=True)
class Descending:
    """Descents of a plan.

    Attributes:
        space: the coefficients.
        legs: one after the other.
        start: every coefficient before the first step.
    """

    space: Space
    legs: Sequence[Leg]
    start: float

    def sampler(
        self, limits: Sequence[float | None], ahead: tuple[Stretch, DescentState] | None = None
    ) -> GradientSampler:
        """Who suggests what a stretch led to that was run elsewhere.

        Args:
            limits: shares of wrong answers that the terms may have.
            ahead: the stretch; without it nothing can be suggested.
        """
        limited = [replace(leg, descent=replace(leg.descent, limits=limits)) for leg in self.legs]
        return GradientSampler(self.space, limited, self.start, _no_gradient, ahead)


@dataclass(frozen=True)
class Plan:
    """What a study tries.

    Attributes:
        domain: its parameters.
        named: merges that are tried first.
        names: how many of these there are.
        suggestions: how many trials are suggested at most.
        suggests: who suggests them: descents, or a black box.
        first: names of sources that all else is held against, and waits for.
        patience: the study stops when so many suggestions gained too little; 0 never.
    """

    domain: Domain
    named: Named
    names: int
    suggestions: int
    suggests: Descending | BlackBox
    first: Sequence[str] = ()
    patience: int = 0

    @property
    def total(self) -> int:
        """How many trials there are at most."""
        return self.names + self.suggestions


def search_plan(
    problem: Problem, space: Space, recipes: Mapping[str, Coefficients], given: Mapping[str, float]
) -> Plan:
    """The plan of a search: sources, naive merges, the user's, LM-Cocktail's, then a descent or a black box.

    Args:
        recipes: merges of the user's, by name.
        given: the method's hyper-parameters.
    """
    config = problem.config
    known = {**baselines.parents(space), **baselines.naive(space), **recipes}
    first = [one.source for one in problem.kept if one.source]

    def named(taken: Collection[str], sources: Mapping[str, Scores]) -> tuple[str, Coefficients] | None:
        for name in sorted(known, key=lambda name: name not in first):
            if name not in taken:
                return name, known[name]
        if baselines.COCKTAIL in taken or any(expert not in sources for expert in space.experts):
            return None
        losses = {expert: problem.search.loss(sources[expert]) for expert in space.experts}
        return baselines.COCKTAIL, baselines.lm_cocktail(space, losses, config.cocktail_temperature)

    if config.sampler == "descent":
        legs = legs_of(config, list(problem.goals.values()), space, problem.search)
        return Plan(
            Domain.box(space, (-config.bound, config.bound), {}, {}),
            named,
            len(known) + 1,
            sum(leg.suggestions for leg in legs),
            Descending(space, legs, config.descent.start),
            first,
        )
    settings = settings_of(config)
    domain = Domain.box(space, (settings.low, settings.high), config.parameters, given)
    uniform = domain.parameters(space.constant(dict.fromkeys(space.experts, 1 / len(space.experts))))
    box = BlackBox(config.sampler, config.seed, uniform, settings.sigma)
    return Plan(domain, named, len(known) + 1, settings.trials, box, first, settings.patience)


def refining_plan(
    config: SearchConfig, refine: RefineConfig, space: Space, winner: Point, given: Mapping[str, float]
) -> Plan:
    """The plan of a study around a winner: itself, then what a black box suggests near it."""
    at = Point(winner.coefficients, dict(given) | winner.settings)
    domain = Domain.around(space, at, refine.width, config.parameters)
    box = BlackBox(refine.sampler, config.seed, domain.parameters(winner.coefficients), refine.sigma)

    def named(taken: Collection[str], sources: Mapping[str, Scores]) -> tuple[str, Coefficients] | None:
        return None if START in taken else (START, winner.coefficients)

    return Plan(domain, named, 1, refine.trials, box, patience=config.black_box.patience)


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


def limits_of(problem: Problem, sources: Mapping[str, Scores]) -> list[float | None]:
    """The share of wrong answers that constraints allow each term; none where they say nothing.

    Args:
        sources: scores of those that constraints are held against, as far as they are known.
    """
    return [
        min((1 - one.bound(sources) for one in problem.kept if one.term == term.name), default=None)
        for term in problem.search.terms
    ]


def _no_gradient(*_: object) -> NoReturn:
    raise RuntimeError("a stretch must be run by an evaluator before it is suggested")

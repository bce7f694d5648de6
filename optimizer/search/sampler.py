"""Descents as an Optuna sampler: asked for a trial, it runs a stretch of steps and suggests the point it reached."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from optimizer.merging.space import Coefficients, Space
from optimizer.search.descent import Descent, DescentState, Gradient
from optimizer.search.records import DONE

#: System attributes of a trial: the state after its stretch, of which leg that is, and how many steps it took.
STATE, LEG, STEPS = "goodbunch:descent", "goodbunch:leg", "goodbunch:steps"


@dataclass(frozen=True)
class Leg:
    """One descent of a sampler's.

    Attributes:
        descent: its settings.
        trials: stretches that it is cut into.
        factors: on the terms' weights; 1 by default.
        after: number of the leg at whose end it begins; none for the start.
    """

    descent: Descent
    trials: int
    factors: tuple[float, ...] = ()
    after: int | None = None

    @property
    def stretch(self) -> int:
        """Steps of a trial."""
        return -(-self.descent.steps // self.trials)

    @property
    def suggestions(self) -> int:
        """How many trials it really takes."""
        return -(-self.descent.steps // self.stretch)


class GradientSampler(BaseSampler):
    """Suggests the points that descents reach, one descent after another.

    The state after every stretch lives in the trial it led to, so a study that is loaded again goes on exactly where
    it was: the same trials come, killed or not. A trial's parameters are what is scored, never an average of several.

    Args:
        space: the coefficients.
        legs: the descents; each begins at the end of an earlier one, or at the start.
        start: every coefficient before the first step.
        gradient: the loss oracle.
        independent: suggests whatever is no coefficient of the space; by default at random, by the descent's seed.
    """

    def __init__(
        self,
        space: Space,
        legs: Sequence[Leg],
        start: float,
        gradient: Gradient,
        independent: BaseSampler | None = None,
    ) -> None:
        self._space = space
        self._legs = legs
        self._start = start
        self._gradient = gradient
        self._independent = independent or RandomSampler(seed=legs[0].descent.seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All coefficients at once."""
        bound = self._legs[0].descent.bound
        return {name: FloatDistribution(-bound, bound) for name in self._space.parameters}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Runs the next stretch from where the last finished trial stood."""
        number, state = self._now(study)
        leg = self._legs[number]
        until = min(state.step + leg.stretch, leg.descent.steps)
        reached = leg.descent.advance(state, until, self._oracle(leg))
        study._storage.set_trial_system_attr(trial._trial_id, STATE, reached.to_json())
        study._storage.set_trial_system_attr(trial._trial_id, LEG, number)
        study._storage.set_trial_system_attr(trial._trial_id, STEPS, until - state.step)
        return self._space.to_parameters(reached.point)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter outside the space, which has no gradient."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Gives the other sampler a new seed; the descents have none to change."""
        self._independent.reseed_rng()

    def _oracle(self, leg: Leg) -> Gradient:
        if not leg.factors:
            return self._gradient

        def weighted(
            point: Coefficients, picks: Sequence[int], multipliers: Sequence[float]
        ) -> tuple[Coefficients, Sequence[bool]]:
            both = [one * other for one, other in zip(multipliers, leg.factors, strict=True)]
            return self._gradient(point, picks, both)

        return weighted

    def _now(self, study: Study) -> tuple[int, DescentState]:
        """The first leg that is not at its end, and where it is; the end of the last one if all are."""
        furthest: dict[int, dict[str, Any]] = {}
        for trial in study.get_trials(deepcopy=False, states=DONE):
            if STATE in trial.system_attrs:
                leg, saved = trial.system_attrs[LEG], trial.system_attrs[STATE]
                furthest[leg] = max(furthest.get(leg, saved), saved, key=lambda one: one["step"])
        for number, leg in enumerate(self._legs):
            state = DescentState.from_json(furthest[number]) if number in furthest else None
            if state is None:
                return number, self._begun(leg, furthest)
            if state.step < leg.descent.steps:
                return number, state
        return len(self._legs) - 1, DescentState.from_json(furthest[len(self._legs) - 1])

    def _begun(self, leg: Leg, furthest: Mapping[int, dict[str, Any]]) -> DescentState:
        begun = DescentState.start(self._space.shape, self._start, len(leg.descent.sizes))
        if leg.after is None:
            return begun
        before = DescentState.from_json(furthest[leg.after])
        return DescentState(0, before.point, begun.first, begun.second, before.multipliers)

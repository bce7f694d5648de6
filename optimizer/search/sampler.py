"""Descents as an Optuna sampler: asked for a trial, it runs a stretch of steps and suggests the point it reached."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optimizer.merging.space import Coefficients, Space
from optimizer.search.descent import Descent, DescentState, Gradient

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


@dataclass(frozen=True)
class Stretch:
    """The steps that lead to a trial.

    Attributes:
        number: of the leg.
        leg: that they are part of.
        state: before the first of them.
    """

    number: int
    leg: Leg
    state: DescentState

    @property
    def until(self) -> int:
        """How many steps of the leg are taken after them."""
        return min(self.state.step + self.leg.stretch, self.leg.descent.steps)

    def run(self, gradient: Gradient) -> DescentState:
        """Takes the steps.

        Args:
            gradient: of the loss.
        """
        factors = self.leg.factors

        def weighted(
            point: Coefficients, picks: Sequence[int], multipliers: Sequence[float]
        ) -> tuple[Coefficients, Sequence[bool]]:
            return gradient(point, picks, [one * other for one, other in zip(multipliers, factors, strict=True)])

        return self.leg.descent.advance(self.state, self.until, weighted if factors else gradient)


class GradientSampler(BaseSampler):
    """Suggests the points that descents reach, one descent after another.

    The state after every stretch lives in the trial it led to, so a study that is loaded again goes on exactly where
    it was: the same trials come, killed or not. A trial's parameters are what is scored, never an average of several.

    Args:
        space: the coefficients.
        legs: the descents; each begins at the end of an earlier one, or at the start.
        start: every coefficient before the first step.
        gradient: the loss oracle.
        ahead: a stretch that was run already, with the state that it led to: the next to be suggested.
        independent: suggests whatever is no coefficient of the space; by default at random, by the descent's seed.
    """

    def __init__(
        self,
        space: Space,
        legs: Sequence[Leg],
        start: float,
        gradient: Gradient,
        ahead: tuple[Stretch, DescentState] | None = None,
        independent: BaseSampler | None = None,
    ) -> None:
        self._space = space
        self._legs = legs
        self._start = start
        self._gradient = gradient
        self._ahead = ahead
        self._independent = independent or RandomSampler(seed=legs[0].descent.seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All coefficients at once."""
        bound = self._legs[0].descent.bound
        return {name: FloatDistribution(-bound, bound) for name in self._space.parameters}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Runs the next stretch from where the last trial stood."""
        if (saved := trial.system_attrs.get(STATE)) is not None:
            return self._space.to_parameters(DescentState.from_json(saved).point)
        stretch, reached = self._ahead or self._run_next(study)
        storage = study._storage
        storage.set_trial_system_attr(trial._trial_id, LEG, stretch.number)
        storage.set_trial_system_attr(trial._trial_id, STEPS, reached.step - stretch.state.step)
        storage.set_trial_system_attr(trial._trial_id, STATE, reached.to_json())
        return self._space.to_parameters(reached.point)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter outside the space, which has no gradient."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Gives the other sampler a new seed; the descents have none to change."""
        self._independent.reseed_rng()

    def stretches(self, trials: Sequence[FrozenTrial]) -> list[Stretch]:
        """What can be run next: the next stretch of every leg that is not at its end and waits for no other.

        Args:
            trials: of the study, evaluated or not.
        """
        furthest = _furthest(trials)
        found = []
        for number, leg in enumerate(self._legs):
            if number in furthest:
                if furthest[number].step < leg.descent.steps:
                    found.append(Stretch(number, leg, furthest[number]))
            elif leg.after is None or self._is_at_end(leg.after, furthest):
                found.append(Stretch(number, leg, self._begun(leg, furthest)))
        return found

    def _run_next(self, study: Study) -> tuple[Stretch, DescentState]:
        """The first stretch that can be run; the end of the last leg, once more, if all are at theirs."""
        trials = study.get_trials(deepcopy=False)
        if stretches := self.stretches(trials):
            return stretches[0], stretches[0].run(self._gradient)
        last = len(self._legs) - 1
        end = _furthest(trials)[last]
        return Stretch(last, self._legs[last], end), end

    def _is_at_end(self, number: int, furthest: Mapping[int, DescentState]) -> bool:
        return number in furthest and furthest[number].step >= self._legs[number].descent.steps

    def _begun(self, leg: Leg, furthest: Mapping[int, DescentState]) -> DescentState:
        begun = DescentState.start(self._space.shape, self._start, len(leg.descent.sizes))
        if leg.after is None:
            return begun
        before = furthest[leg.after]
        return DescentState(0, before.point, begun.first, begun.second, before.multipliers)


def _furthest(trials: Sequence[FrozenTrial]) -> dict[int, DescentState]:
    """Leg -> the last state that a trial of it holds; a trial that failed holds none."""
    saved: dict[int, dict[str, Any]] = {}
    for trial in trials:
        if STATE in trial.system_attrs and trial.state != TrialState.FAIL:
            leg, state = trial.system_attrs[LEG], trial.system_attrs[STATE]
            saved[leg] = max(saved.get(leg, state), state, key=lambda one: one["step"])
    return {leg: DescentState.from_json(state) for leg, state in saved.items()}

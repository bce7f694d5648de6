"""Descent as an Optuna sampler: asked for a trial, it runs a stretch of steps and suggests the point it reached."""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optimizer.merging.space import Space
from optimizer.search.descent import Descent, DescentState, Gradient

#: System attribute of a trial that holds the state after its stretch.
STATE = "goodbunch:descent"


class GradientSampler(BaseSampler):
    """Suggests the points a descent reaches.

    The state after every stretch lives in the trial it led to, so a study that is loaded again goes on exactly where
    it was: the same trials come, killed or not. A trial's parameters are what is scored, never an average of several.

    Args:
        space: the coefficients.
        descent: its settings.
        stretch: steps per trial.
        start: every coefficient before the first step.
        gradient: the loss oracle.
        independent: suggests whatever is no coefficient of the space; by default at random, by the descent's seed.
    """

    def __init__(
        self,
        space: Space,
        descent: Descent,
        stretch: int,
        start: float,
        gradient: Gradient,
        independent: BaseSampler | None = None,
    ) -> None:
        self._space = space
        self._descent = descent
        self._stretch = stretch
        self._start = DescentState.start(space.shape, start, len(descent.sizes))
        self._gradient = gradient
        self._independent = independent or RandomSampler(seed=descent.seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All coefficients at once."""
        bound = self._descent.bound
        return {name: FloatDistribution(-bound, bound) for name in self._space.parameters}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Runs the next stretch from where the last finished trial stood."""
        state = self._last_state(study)
        until = min(state.step + self._stretch, self._descent.steps)
        reached = self._descent.advance(state, until, self._gradient)
        study._storage.set_trial_system_attr(trial._trial_id, STATE, reached.to_json())
        return self._space.to_parameters(reached.point)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter outside the space, which has no gradient."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Gives the other sampler a new seed; the descent has none to change."""
        self._independent.reseed_rng()

    def _last_state(self, study: Study) -> DescentState:
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        states = [trial.system_attrs[STATE] for trial in finished if STATE in trial.system_attrs]
        return DescentState.from_json(max(states, key=lambda saved: saved["step"])) if states else self._start

"""Optuna's own samplers, for comparison and for objectives without a gradient."""

import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, TrialState

from optimizer.search.domain import Domain
from optimizer.search_config import BlackBoxConfig, SearchConfig

#: EvoMM (arXiv 2406.14563): CMA-ES within [0, 1], begun at the uniform average, sigma a sixth of the range.
EVOMM = BlackBoxConfig(low=0.0, high=1.0, sigma=1 / 6)

#: How many trials before the one that began a generation may be of it: drivers can be slow to suggest.
_LATE = 100


@dataclass(frozen=True)
class BlackBox:
    """A sampler of Optuna's with its settings.

    Attributes:
        name: in a config.
        seed: of the study.
        start: where CMA-ES begins, by parameter.
        sigma: its first step size, in the coefficients' own unit.
    """

    name: str
    seed: int
    start: Mapping[str, float]
    sigma: float

    def sampler(self, domain: Domain, number: int) -> BaseSampler:
        """The sampler that suggests one trial.

        It is made anew for each, from a seed of the trial's own, so that a resumed study goes on as an undisturbed one;
        what it must know of earlier trials it reads from them.

        Args:
            number: of the trial.
        """
        seed = random.Random(f"{self.seed}-{self.name}-{number}").getrandbits(32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CMA-ES' start is to be removed, GP experimental; the pin holds both
            return _SAMPLERS[self.name](self, domain, seed)


def settings_of(config: SearchConfig) -> BlackBoxConfig:
    """The black box's settings; of EvoMM all but the budget are the paper's."""
    if config.sampler != "evomm":
        return config.black_box
    return EVOMM.model_copy(update={"trials": config.black_box.trials, "patience": config.black_box.patience})


class _Evolving(CmaEsSampler):
    """Optuna's, for many trials and many workers.

    Optuna looks through all trials for every suggestion, though only the last generation's count. It takes the state
    from finished trials alone: with more workers than a generation has trials, most suggestions update anew what one
    has updated already, which comes to the same and takes longer than all else.
    """

    _begun: FrozenTrial | None = None

    def _get_trials(self, study: Study) -> list[FrozenTrial]:
        trials = study.get_trials(deepcopy=False)
        found = next((i for i in reversed(range(len(trials))) if self._has_state(trials[i])), None)
        self._begun = None if found is None else trials[found]
        recent = trials[max(0, (found or 0) - _LATE) :]
        return [trial for trial in recent if trial.state == TrialState.COMPLETE]

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        return super()._restore_optimizer([] if self._begun is None else [self._begun])

    def _has_state(self, trial: FrozenTrial) -> bool:
        return f"{self._attr_key_optimizer}:0" in trial.system_attrs  # the first of its pieces


def _cma(box: BlackBox, domain: Domain, seed: int) -> CmaEsSampler:
    # Optuna's CMA-ES works on the unit cube; its population is 4 + floor(3 ln n), as paper 1's.
    width = float((domain.high - domain.low).max())
    return _Evolving(x0=dict(box.start), sigma0=box.sigma / width, seed=seed)


def _qmc(_: BlackBox, __: Domain, ___: int) -> QMCSampler:
    # One sequence for the whole study: a point is found by its number.
    return QMCSampler(seed=0, scramble=True)


class _Uniform(RandomSampler):
    """Draws all parameters at once; one by one takes Optuna as long as all else that is done for a trial."""

    def __init__(self, domain: Domain, seed: int) -> None:
        super().__init__(seed)
        self._ends = domain.ends

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, float]:
        if not search_space:
            return {}
        low, high = np.array([self._ends[name] for name in search_space]).T
        return dict(zip(search_space, self._rng.rng.uniform(low, high).tolist(), strict=True))


_SAMPLERS: dict[str, Callable[[BlackBox, Domain, int], BaseSampler]] = {
    "evomm": _cma,
    "cmaes": _cma,
    "tpe": lambda _, __, seed: TPESampler(seed=seed, multivariate=True),
    "gp": lambda _, __, seed: GPSampler(seed=seed, deterministic_objective=True),
    "nsga2": lambda _, __, seed: NSGAIISampler(seed=seed),
    "nsga3": lambda _, __, seed: NSGAIIISampler(seed=seed),
    "qmc": _qmc,
    "random": lambda _, domain, seed: _Uniform(domain, seed),
}

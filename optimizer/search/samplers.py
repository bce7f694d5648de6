"""Optuna's own samplers, for comparison and for objectives without a gradient."""

import random
import warnings
from collections.abc import Callable
from typing import NamedTuple

from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler

from optimizer.config import BlackBoxConfig, SearchConfig
from optimizer.merging.space import Space


class Box(NamedTuple):
    """The range of every coefficient."""

    low: float
    high: float


#: EvoMM (arXiv 2406.14563): CMA-ES within [0, 1], begun at the uniform average, sigma a sixth of the range.
EVOMM = BlackBoxConfig(low=0.0, high=1.0, sigma=1 / 6)


def box_of(config: SearchConfig) -> Box:
    """The range in which a search's coefficients lie; wide for a descent, since good ones can be large."""
    if config.sampler == "descent":
        return Box(-config.bound, config.bound)
    settings = _settings(config)
    return Box(settings.low, settings.high)


def sampler_of(config: SearchConfig, space: Space, number: int) -> BaseSampler:
    """The sampler that suggests one trial.

    It is made anew for each, from a seed of the trial's own, so that a resumed study goes on as an undisturbed one;
    what it must know of earlier trials it reads from them.

    Args:
        number: of the trial.
    """
    seed = random.Random(f"{config.seed}-{config.sampler}-{number}").getrandbits(32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fixed start is marked for removal, GP as experimental; the pin holds both
        return _SAMPLERS[config.sampler](_settings(config), space, seed)


def _settings(config: SearchConfig) -> BlackBoxConfig:
    return EVOMM if config.sampler == "evomm" else config.black_box


def _cma(settings: BlackBoxConfig, space: Space, seed: int) -> CmaEsSampler:
    # Optuna's CMA-ES works on the unit cube; its population is 4 + floor(3 ln n), as paper 1's.
    uniform = dict.fromkeys(space.parameters, 1 / len(space.experts))
    return CmaEsSampler(x0=uniform, sigma0=settings.sigma / (settings.high - settings.low), seed=seed)


def _qmc(_: BlackBoxConfig, __: Space, ___: int) -> QMCSampler:
    # One sequence for the whole study: a point is found by its number.
    return QMCSampler(seed=0, scramble=True)


_SAMPLERS: dict[str, Callable[[BlackBoxConfig, Space, int], BaseSampler]] = {
    "evomm": _cma,
    "cmaes": _cma,
    "tpe": lambda settings, space, seed: TPESampler(seed=seed, multivariate=True),
    "gp": lambda settings, space, seed: GPSampler(seed=seed, deterministic_objective=True),
    "qmc": _qmc,
    "random": lambda settings, space, seed: RandomSampler(seed=seed),
}

"""One Optuna study: baselines, then the descent; every finished trial is on disk before the next begins."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, Trial, TrialState

from optimizer.config import SearchConfig
from optimizer.engines.scoring import ScoringEngine
from optimizer.merging.space import Coefficients, Space
from optimizer.objective.terms import Objective, Score, retention
from optimizer.search import baselines
from optimizer.search.descent import Descent
from optimizer.search.sampler import GradientSampler, distribution

#: User attributes of a trial.
NAME, SEARCH, VALIDATION, VALIDATION_LOSS, SECONDS = "name", "search", "validation", "validation_loss", "seconds"

#: Told every finished trial: how many are done, how many there will be, the trial, the best so far.
OnTrial = Callable[[int, int, FrozenTrial, FrozenTrial], None]


@dataclass(frozen=True)
class Searched:
    """What a study found.

    Attributes:
        trials: all finished trials in order.
        winner: the one chosen by the validation split.
        space: what its parameters mean.
    """

    trials: Sequence[FrozenTrial]
    winner: FrozenTrial
    space: Space

    @property
    def coefficients(self) -> Coefficients:
        """Of the winner, [experts, groups]."""
        return self.space.from_parameters(self.winner.params)

    def named(self, name: str) -> Coefficients:
        """Of a baseline."""
        return self.space.from_parameters(next(t for t in self.trials if t.user_attrs.get(NAME) == name).params)


def open_storage(path: Path) -> optuna.storages.RDBStorage:
    """SQLite whose finished writes survive a kill at any moment, without waiting for the disk at each of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})

    @sqlalchemy.event.listens_for(storage.engine, "connect")
    def _on_connect(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()  # connections opened before the listener was there
    return storage


def run_study(
    name: str,
    storage: optuna.storages.BaseStorage,
    config: SearchConfig,
    engine: ScoringEngine,
    search: Objective,
    validation: Objective,
    on_trial: OnTrial,
) -> Searched:
    """Runs or resumes a study until its budget is spent.

    Args:
        name: of the study in the storage.
        search: terms that are descended on.
        validation: the same terms on rows that only choose among finished trials.
        on_trial: told every finished trial, those of an earlier run included.
    """
    space = engine.space
    descent = Descent(
        steps=config.descent.steps,
        rate=config.descent.rate,
        bound=config.bound,
        sizes=[len(term.examples) for term in search.terms],
        seed=config.seed,
    )

    def gradient(point: Coefficients, picks: Sequence[int]) -> Coefficients:
        batch, weights = search.step_batch(picks)
        return engine.gradient(point, batch, weights)

    stretch = -(-config.descent.steps // config.descent.trials)
    sampler = GradientSampler(space, descent, stretch, config.descent.start, gradient)
    study = optuna.create_study(
        storage=storage, study_name=name, direction="minimize", sampler=sampler, load_if_exists=True
    )
    total = len(space.experts) + 4 + -(-config.descent.steps // stretch)
    done = _finished(study)
    for number, known in enumerate(done, 1):
        on_trial(number, total, known, study.best_trial)
    while len(done) < total:
        begun = time.monotonic()
        trial = _next_trial(study, space, config, search)
        coefficients = space.from_parameters(
            {parameter: trial.suggest_float(parameter, -config.bound, config.bound) for parameter in space.parameters}
        )
        engine.apply(coefficients)
        scores, checks = search.scores(engine), validation.scores(engine)
        trial.set_user_attr(SEARCH, _plain(scores))
        trial.set_user_attr(VALIDATION, _plain(checks))
        trial.set_user_attr(VALIDATION_LOSS, validation.loss(checks))
        trial.set_user_attr(SECONDS, time.monotonic() - begun)
        finished = study.tell(trial, search.loss(scores))
        done.append(finished)
        on_trial(len(done), total, finished, study.best_trial)
    return Searched(done, choose(done, validation), space)


def choose(trials: Sequence[FrozenTrial], validation: Objective) -> FrozenTrial:
    """The trial of lowest validation loss among those whose validation answers are about as right as the best's.

    The loss alone can hide a few lost refusals among many tokens that got a little likelier, and the share of right
    answers alone is too coarse to tell good trials apart. So trials within one standard error of the best share stay
    (the one-standard-error rule of Breiman et al. 1984), and of these the loss decides.
    """
    shares = {trial.number: validation.exact(validation_scores(trial)) for trial in trials}
    best = max(trials, key=lambda trial: shares[trial.number])
    floor = shares[best.number] - validation.exact_error(validation_scores(best))
    near = [trial for trial in trials if shares[trial.number] >= floor]
    return min(near, key=lambda trial: (trial.user_attrs[VALIDATION_LOSS], trial.number))


def validation_scores(trial: FrozenTrial) -> dict[str, Score]:
    """A finished trial's scores on the validation split."""
    return {name: Score(**values) for name, values in trial.user_attrs[VALIDATION].items()}


def retentions(trials: Sequence[FrozenTrial], trial: FrozenTrial, experts: Sequence[str]) -> dict[str, float]:
    """A trial's search losses, term by term, on the scale where the base is 0 and the best source is 1."""
    losses = {t.user_attrs[NAME]: t.user_attrs[SEARCH] for t in trials if t.user_attrs.get(NAME) in ("base", *experts)}
    return {
        term: retention(score["loss"], losses["base"][term]["loss"], min(s[term]["loss"] for s in losses.values()))
        for term, score in trial.user_attrs[SEARCH].items()
    }


def _next_trial(study: optuna.Study, space: Space, config: SearchConfig, search: Objective) -> Trial:
    """The trial that a killed run left unfinished, else the next baseline, else the next point of the descent."""
    left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    if left:
        return Trial(study, left[0]._trial_id)
    if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        _enqueue_baseline(study, space, config, search)
    return study.ask({name: distribution(config.bound) for name in space.parameters})


def _enqueue_baseline(study: optuna.Study, space: Space, config: SearchConfig, search: Objective) -> None:
    """Enqueues the first baseline that has not been tried; does nothing if all have."""
    tried = {trial.user_attrs[NAME]: trial for trial in _finished(study) if NAME in trial.user_attrs}
    candidates = baselines.parents(space) | baselines.naive(space)
    missing = [name for name in candidates if name not in tried]
    if missing:
        name, coefficients = missing[0], candidates[missing[0]]
    elif baselines.COCKTAIL not in tried:
        losses = {
            expert: search.loss({term: Score(**s) for term, s in tried[expert].user_attrs[SEARCH].items()})
            for expert in space.experts
        }
        name = baselines.COCKTAIL
        coefficients = baselines.lm_cocktail(space, losses, config.cocktail_temperature)
    else:
        return
    study.enqueue_trial(space.to_parameters(coefficients), user_attrs={NAME: name})


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _plain(scores: dict[str, Score]) -> dict[str, dict[str, float]]:
    return {name: {"loss": score.loss, "exact": score.exact} for name, score in scores.items()}

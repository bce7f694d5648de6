"""One Optuna study: baselines, then what its sampler suggests; every finished trial is on disk before the next begins.

A trial that is clearly worse than the best so far on the same examples is pruned (a Wilcoxon signed-rank test on the
blocks that both have seen); it costs a part of a pass and is never chosen.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.pruners import BasePruner, NopPruner, WilcoxonPruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from optimizer.config import SearchConfig
from optimizer.engines.scoring import ScoringEngine
from optimizer.merging.space import Coefficients, Space
from optimizer.objective.constraints import Constraint
from optimizer.objective.terms import Objective, Score, retention
from optimizer.search import baselines
from optimizer.search.descent import Descent, Stage
from optimizer.search.sampler import GradientSampler
from optimizer.search.samplers import box_of, sampler_of

#: User attributes of a trial; one that was pruned has no validation.
NAME, LOSS, SECONDS = "name", "loss", "seconds"
SEARCH, VALIDATION, VALIDATION_LOSS = "search", "validation", "validation_loss"

#: Blocks that a trial sees before it may be pruned.
_LEAST_BLOCKS = 4

#: Of an example: forward, and backward at the price of two.
PASSES_PER_STEP = 3

#: States of trials that are done with.
_DONE = (TrialState.COMPLETE, TrialState.PRUNED)

#: Told every finished trial: how many are done, how many there will be, the trial, the best so far.
OnTrial = Callable[[int, int, FrozenTrial, FrozenTrial], None]


@dataclass(frozen=True)
class Searched:
    """What a study found.

    Attributes:
        trials: all finished trials in order, pruned ones among them.
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
    constraints: Sequence[Constraint] = (),
) -> Searched:
    """Runs or resumes a study until its budget is spent.

    Args:
        name: of the study in the storage.
        search: terms that are searched on.
        validation: the same terms on rows that only choose among finished trials.
        on_trial: told every finished trial, those of an earlier run included.
        constraints: what the winner must keep; those of terms that are not searched on are left out.
    """
    space = engine.space
    constraints = [one for one in constraints if one.term in {term.name for term in search.terms}]
    held_to = [one.source for one in constraints if one.source]
    suggest, count = _suggestions(config, engine, search, constraints)
    box = box_of(config)
    ranges: dict[str, BaseDistribution] = {name: FloatDistribution(*box) for name in space.parameters}
    study = optuna.create_study(
        storage=storage, study_name=name, direction="minimize", pruner=_pruner(config), load_if_exists=True
    )
    total = len(space.experts) + 4 + count
    done = _finished(study)
    for number, known in enumerate(done, 1):
        on_trial(number, total, known, _best(done))
    while len(done) < total:
        begun = time.monotonic()
        study.sampler = suggest(done)
        trial = _next_trial(study, space, config, search, ranges, held_to)
        named = str(trial.user_attrs.get(NAME, ""))
        # A trial that a killed run left may lack some of its parameters.
        engine.apply(space.from_parameters({name: trial.suggest_float(name, *box) for name in ranges}))
        with warnings.catch_warnings():
            # A trial that a killed run left may have been told some of this already.
            warnings.filterwarnings("ignore", message=".* is ignored because this .* is already")
            # What others are held to must be known to the end.
            scores = _measured(trial, engine, search, may_stop=named not in held_to)
            sources = by_source(done, SEARCH) | {named: scores}
            for one in constraints:
                trial.set_constraint(one.name, one.bound(sources) - scores[one.term].exact)
        trial.set_user_attr(SEARCH, _plain(scores))
        trial.set_user_attr(LOSS, search.loss(scores))
        if not (pruned := sum(score.rows for score in scores.values()) < search.rows):
            checks = validation.scores(engine)
            trial.set_user_attr(VALIDATION, _plain(checks))
            trial.set_user_attr(VALIDATION_LOSS, validation.loss(checks))
        trial.set_user_attr(SECONDS, time.monotonic() - begun)
        finished = study.tell(trial, state=TrialState.PRUNED) if pruned else study.tell(trial, search.loss(scores))
        done.append(finished)
        on_trial(len(done), total, finished, _best(done))
    return Searched(done, choose(done, validation, constraints), space)


def _best(done: Sequence[FrozenTrial]) -> FrozenTrial:
    """The trial of lowest loss, among those that keep the constraints if there are any."""
    complete = [trial for trial in done if trial.state == TrialState.COMPLETE]
    return min(complete, key=lambda trial: (max([0.0, *trial.constraints.values()]), trial.user_attrs[LOSS]))


def _pruner(config: SearchConfig) -> BasePruner:
    if not config.pruning:
        return NopPruner()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the pin holds it
        return WilcoxonPruner(p_threshold=config.pruning, n_startup_steps=_LEAST_BLOCKS)


def _measured(trial: Trial, engine: ScoringEngine, search: Objective, *, may_stop: bool) -> dict[str, Score]:
    """Scores block by block, until the trial is pruned or has seen all."""
    parts: list[dict[str, Score]] = []
    for step, block in enumerate(search.blocks):
        parts.append(block.scores(engine))
        trial.report(search.loss(parts[-1]), step)
        if may_stop and step + 1 < len(search.blocks) and trial.should_prune():
            break
    return search.merged(parts)


def _suggestions(
    config: SearchConfig, engine: ScoringEngine, search: Objective, constraints: Sequence[Constraint]
) -> tuple[Callable[[Sequence[FrozenTrial]], BaseSampler], int]:
    """Finished trials -> the sampler of the next, and how many trials it suggests."""
    space = engine.space
    if config.sampler != "descent":
        return lambda done: sampler_of(config, space, len(done)), config.black_box.trials
    descent = descent_of(config, space, [len(term.examples) for term in search.terms])
    stretch = -(-descent.steps // config.descent.trials)

    def gradient(
        point: Coefficients, picks: Sequence[int], multipliers: Sequence[float]
    ) -> tuple[Coefficients, list[bool]]:
        return engine.gradient(point, *search.step_batch(picks, multipliers))

    def sampler(done: Sequence[FrozenTrial]) -> GradientSampler:
        known = by_source(done, SEARCH)
        # Until the sources are measured nothing is descended on.
        bounds = {one.term: one.bound(known) for one in constraints if not one.source or one.source in known}
        limits = [1 - bounds[term.name] if term.name in bounds else None for term in search.terms]
        return GradientSampler(space, replace(descent, limits=limits), stretch, config.descent.start, gradient)

    return sampler, -(-descent.steps // stretch)


def descent_of(config: SearchConfig, space: Space, sizes: Sequence[int]) -> Descent:
    """The descent that a config asks for.

    Args:
        sizes: how many examples each term has.
    """
    settings = config.descent
    coarse = [
        Stage(
            stage.steps,
            settings.rate,
            Space.named(space.experts, space.tensors, stage.groups, stage.anchors).within(space),
        )
        for stage in settings.coarse
    ]
    finest = Stage(settings.steps, settings.rate, np.eye(len(space.groups)))
    return Descent([*coarse, finest], config.bound, sizes, config.seed)


def passes(config: SearchConfig, search: Objective, validation: Objective, searched: Searched) -> float:
    """What a study cost in forward passes over its search set, validation and backward passes included.

    Args:
        search: the terms that were searched on.
        validation: the same terms on the validation split.
    """
    scored = sum(score["rows"] for trial in searched.trials for score in trial.user_attrs[SEARCH].values())
    checked = sum(validation.rows for trial in searched.trials if VALIDATION in trial.user_attrs)
    steps = descent_of(config, searched.space, []).steps if config.sampler == "descent" else 0
    return float(scored + checked + steps * len(search.terms) * PASSES_PER_STEP) / search.rows


def choose(trials: Sequence[FrozenTrial], validation: Objective, constraints: Sequence[Constraint] = ()) -> FrozenTrial:
    """The trial of lowest validation loss among those whose validation answers are about as right as the best's.

    Only trials that keep all constraints on the validation split are looked at, or those that miss them least.

    The loss alone can hide a few lost refusals among many tokens that got a little likelier, and the share of right
    answers alone is too coarse to tell good trials apart. So trials within one standard error of the best share stay
    (the one-standard-error rule of Breiman et al. 1984), and of these the loss decides.
    """
    known = by_source(trials, VALIDATION)
    bounds = {one.term: one.bound(known) for one in constraints}

    def lacking(trial: FrozenTrial) -> float:
        scores = validation_scores(trial)
        return sum(max(bound - scores[term].exact, 0.0) for term, bound in bounds.items())

    trials = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    least = min(lacking(trial) for trial in trials)
    trials = [trial for trial in trials if lacking(trial) <= least]
    shares = {trial.number: validation.exact(validation_scores(trial)) for trial in trials}
    best = max(trials, key=lambda trial: shares[trial.number])
    floor = shares[best.number] - validation.exact_error(validation_scores(best))
    near = [trial for trial in trials if shares[trial.number] >= floor]
    return min(near, key=lambda trial: (trial.user_attrs[VALIDATION_LOSS], trial.number))


def by_source(trials: Sequence[FrozenTrial], split: str) -> dict[str, dict[str, Score]]:
    """Name of a baseline -> its scores.

    Args:
        split: `SEARCH` or `VALIDATION`; trials without it are left out.
    """
    return {
        trial.user_attrs[NAME]: _scores(trial, split)
        for trial in trials
        if NAME in trial.user_attrs and split in trial.user_attrs
    }


def validation_scores(trial: FrozenTrial) -> dict[str, Score]:
    """A finished trial's scores on the validation split."""
    return _scores(trial, VALIDATION)


def _scores(trial: FrozenTrial, split: str) -> dict[str, Score]:
    return {term: Score(**values) for term, values in trial.user_attrs[split].items()}


def retentions(trials: Sequence[FrozenTrial], trial: FrozenTrial, experts: Sequence[str]) -> dict[str, float]:
    """A trial's search losses, term by term, on the scale where the base is 0 and the best source is 1."""
    losses = {t.user_attrs[NAME]: t.user_attrs[SEARCH] for t in trials if t.user_attrs.get(NAME) in ("base", *experts)}
    return {
        term: retention(score["loss"], losses["base"][term]["loss"], min(s[term]["loss"] for s in losses.values()))
        for term, score in trial.user_attrs[SEARCH].items()
    }


def _next_trial(
    study: optuna.Study,
    space: Space,
    config: SearchConfig,
    search: Objective,
    ranges: dict[str, BaseDistribution],
    first: Sequence[str],
) -> Trial:
    """The trial that a killed run left unfinished, else the next baseline, else what the sampler suggests."""
    left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    if left:
        return Trial(study, left[0]._trial_id)
    if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        _enqueue_baseline(study, space, config, search, first)
    return study.ask(ranges)


def _enqueue_baseline(
    study: optuna.Study, space: Space, config: SearchConfig, search: Objective, first: Sequence[str]
) -> None:
    """Enqueues the first baseline that has not been tried, some before others; does nothing if all have."""
    tried = by_source(_finished(study), SEARCH)
    candidates = baselines.parents(space) | baselines.naive(space)
    missing = [name for name in sorted(candidates, key=lambda name: name not in first) if name not in tried]
    if missing:
        name, coefficients = missing[0], candidates[missing[0]]
    elif baselines.COCKTAIL not in tried:
        losses = {expert: search.loss(tried[expert]) for expert in space.experts}
        name = baselines.COCKTAIL
        coefficients = baselines.lm_cocktail(space, losses, config.cocktail_temperature)
    else:
        return
    study.enqueue_trial(space.to_parameters(coefficients), user_attrs={NAME: name})


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=_DONE)


def _plain(scores: Mapping[str, Score]) -> dict[str, dict[str, float]]:
    return {name: asdict(score) for name, score in scores.items()}

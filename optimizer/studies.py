"""The studies of a run: the search, its refinement, the controls; each is taken up again where it was left."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from datagen.errors import ConfigError
from datagen.files import write_text
from datagen.logs import log
from datagen.progress import Bar
from optimizer.bunch import Bunch, open_bunch
from optimizer.config import OF_TASKS, Config, TermConfig
from optimizer.engines.banks import open_bank, space_of
from optimizer.engines.scoring import ScoringEngine
from optimizer.executors.base import Executor
from optimizer.merging.methods import METHODS
from optimizer.merging.space import Coefficients, Space
from optimizer.objective.answers import Rules
from optimizer.objective.scores import Scores
from optimizer.objective.task_terms import TaskTerm
from optimizer.objective.terms import Objective, load_objective
from optimizer.recipes.into_space import recipe_points
from optimizer.report.layers import layer_means
from optimizer.report.result import MAIN, REFINED, SaidScore, TrialRow
from optimizer.search.databases import open_storage
from optimizer.search.domain import numbers_of
from optimizer.search.evaluating import Evaluator, Speaker
from optimizer.search.measuring import DIVERGED, FAILED
from optimizer.search.plans import search_plan
from optimizer.search.problem import Problem
from optimizer.search.records import (
    GIVEN_UP,
    LAST_WORDS,
    LOSS,
    NAME,
    SEARCH,
    SECONDS,
    VALIDATION,
    VALIDATION_LOSS,
    by_source,
    retentions,
    scores_of,
    validation_scores,
)
from optimizer.search.running import OnTrial, Task, open_study
from optimizer.search.sharing import Driver
from optimizer.search.study import Searched, passes, refine, run_studies
from optimizer.tracking import Track


@dataclass(frozen=True)
class Terms:
    """A study's objective on both splits it may see."""

    search: Objective
    validation: Objective


def load_terms(config: Config, bunch: Bunch) -> dict[str, Terms]:
    """Study -> its terms.

    Raises:
        DataError: a term has no rows.
    """
    tokenizer = bunch.chat_source.tokenizer()
    studies = {MAIN: list(config.objective)} | config.search.controls
    return {
        name: Terms(*(load_objective(config, split, tokenizer, terms) for split in ("search", "validation")))
        for name, terms in studies.items()
    }


def open_run(config: Config) -> tuple[Bunch, Space, dict[str, Terms]]:
    """Models, coefficients and data of a run.

    Raises:
        GoodbunchError: the bunch does not fit, or a term has no rows.
    """
    bunch = open_bunch(config.bunch)
    return bunch, space_of(bunch, config.merge), load_terms(config, bunch)


def problems_of(config: Config, terms: Mapping[str, Terms]) -> dict[str, Problem]:
    """Study -> what its trials are judged by."""
    rules = config.constraints()
    return {name: Problem(config.search, own.search, own.validation, rules) for name, own in terms.items()}


def evaluators_of(
    config: Config, bunch: Bunch, space: Space, terms: Mapping[str, Terms], speaker: Speaker | None = None
) -> dict[str, Evaluator]:
    """Study -> what evaluates its trials; all share one engine in this process.

    Args:
        speaker: lets merges answer, if a term looks at what they say.
    """
    bank = open_bank(config.bunch, config.merge)
    engine = ScoringEngine(bunch, space, bank, config.search.descent.checkpointing)
    return {name: Evaluator(engine, problem, speaker) for name, problem in problems_of(config, terms).items()}


def run_all_studies(
    config: Config,
    bunch: Bunch,
    space: Space,
    terms: Mapping[str, Terms],
    executor: Executor,
    driver: Driver | None = None,
    track: Track = lambda *_: None,
) -> dict[str, Searched]:
    """Runs or resumes all studies of a run.

    Args:
        executor: has an evaluator of every study.
        driver: this process among several on a database that they share; by default trials are kept in the run folder.
        track: told every finished trial.

    Returns:
        Study -> what it found; the last of the main ones, the search or its refinement, has the winner.

    Raises:
        ConfigError: a study that is there was begun with something else, or a recipe does not fit.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(config.run_folder / "study.db") if driver is None else driver.storage
    prefix = "" if driver is None else prefix_of(config)
    recipes = recipe_points(config, space)
    given = numbers_of(METHODS[config.merge.method], config.merge.parameters)
    tasks = {
        name: Task(storage, problem, space, executor, name, recipes=recipes, given=given, driver=driver, prefix=prefix)
        for name, problem in problems_of(config, terms).items()
    }
    for name, task in tasks.items():
        _claim(name, task, _stamp(config, bunch, task, recipes), config)
    # Only now: a search that is refused must not change what the trials that are there were made with.
    if driver is None or not driver.joins:
        write_text(config.run_folder / "config.json", config.model_dump_json(indent=1) + "\n")
    plans = [search_plan(task.problem, space, recipes, given) for task in tasks.values()]
    with Bar("trials", sum(plan.total for plan in plans)) as bar:
        ends: Counter[str] = Counter()
        telling = {name: _told(bar, name, ends, track) for name in tasks}
        found = run_studies({name: replace(task, on_trial=telling[name]) for name, task in tasks.items()})
    if config.search.refine:
        with Bar(f"trials of {REFINED}", 1 + config.search.refine.trials) as bar:
            refined = refine(REFINED, replace(tasks[MAIN], on_trial=_told(bar, REFINED, Counter(), track)), found[MAIN])
        found = {MAIN: found[MAIN], REFINED: refined} | found
    return found


def prefix_of(config: Config) -> str:
    """What tells a run's studies from those of other runs in a database."""
    return f"{config.run_folder.name}/"


def winning(found: Mapping[str, Searched]) -> str:
    """The study that has the winner; a refinement begins with the search's."""
    return REFINED if REFINED in found else MAIN


def trial_rows(
    study: str, searched: Searched, terms: Terms, goals: Mapping[str, list[str]], before: Sequence[FrozenTrial] = ()
) -> Iterator[TrialRow]:
    """A study's trials for the report.

    Args:
        goals: objective -> its terms; empty if there is one objective.
        before: trials of an earlier study, which knows the sources.
    """
    front = {trial.number for trial in searched.front} if goals else set()
    parts = {name: terms.validation.only(some) for name, some in goals.items()}
    sources = by_source([*before, *searched.trials], SEARCH)
    for trial in searched.trials:
        scores = validation_scores(trial) if VALIDATION in trial.user_attrs else None
        yield TrialRow(
            study=study,
            number=trial.number,
            name=trial.user_attrs.get(NAME, ""),
            loss=trial.user_attrs[LOSS],
            pruned=GIVEN_UP in trial.user_attrs,
            validation_loss=trial.user_attrs.get(VALIDATION_LOSS),
            validation_exact=terms.validation.exact(scores) if scores else None,
            validation_exact_error=terms.validation.exact_error(scores) if scores else None,
            objectives={name: part.loss(scores) for name, part in parts.items()} if scores else {},
            front=trial.number in front,
            retention=retentions(sources, trial, searched.space.experts),
            seconds=round(trial.user_attrs[SECONDS], 3),
            losses={term: score.loss for term, score in scores_of(trial, SEARCH).items()},
            said=_said(terms.validation, {**(scores or {}), **searched.answers.get(trial.number, {})}),
            layers=layer_means(searched.space.groups, searched.domain.point(trial.params).coefficients),
        )


def _said(validation: Objective, scores: Scores) -> dict[str, SaidScore]:
    """Scores of the terms that merges speak for, of a trial that spoke."""
    shares = {term.name for term in validation.shares}
    return {
        term.name: SaidScore(
            loss=(score := scores[term.name]).loss,
            share=min(1.0, max(0.0, score.exact)) if term.name in shares else None,
            rows=score.rows,
        )
        for term in validation.said
        if term.name in scores
    }


def costs(found: Mapping[str, Searched], terms: Mapping[str, Terms]) -> dict[str, float]:
    """Study -> what it cost in forward passes over its search set."""
    own = {name: terms[MAIN if name == REFINED else name] for name in found}
    return {name: round(passes(own[name].search, own[name].validation, study), 2) for name, study in found.items()}


def _told(bar: Bar, study: str, ends: Counter[str], track: Track) -> OnTrial:
    """Tells a bar that studies share, and trackers, of one study's trials.

    Args:
        ends: how many trials of these studies were pruned, and how many failed.
    """

    def on_trial(_: int, __: int, trial: FrozenTrial, best: FrozenTrial) -> None:
        if words := trial.user_attrs.get(LAST_WORDS):
            log.warning("trial %d of %s died of it: %s", trial.number, study, words)
        given_up = trial.user_attrs.get(GIVEN_UP)
        if given_up:
            ends["failed" if given_up in (DIVERGED, FAILED) else "pruned"] += 1
        told = given_up or f"loss {trial.user_attrs[LOSS]:.4f}"
        counts = f"{ends['pruned']} pruned, {ends['failed']} failed"
        bar.advance(f"{counts}; {study}: {told}, best {best.user_attrs[LOSS]:.4f}")
        track(study, trial)

    return on_trial


def _claim(name: str, task: Task, stamp: str, config: Config) -> None:
    """Ties a study to its settings, so that a resumed one is never continued under others."""
    study = open_study(name, task)
    if task.driver is not None:
        task.driver.claim(study)
    known = study.user_attrs.get("stamp")
    if known is None:
        study.set_user_attr("stamp", stamp)
    elif known != stamp:
        raise ConfigError(
            f"{config.run_folder}: a study can only be resumed with the settings, models and data it was begun with, "
            f"but those of {name!r} differ; choose another --out, or remove {config.run_folder / 'study.db'}"
        )


def _stamp(config: Config, bunch: Bunch, task: Task, recipes: Mapping[str, Coefficients]) -> str:
    """A hash of all that decides a study's trials."""
    terms = task.problem.search.names
    paths = sorted({config.objective[term].kind_of(term) for term in terms} - {""})
    rows = [
        hashlib.sha256((config.data_folder / split / f"{kind}.jsonl").read_bytes()).hexdigest()
        for split in ("search", "validation")
        for kind in paths
    ]
    spoken = [*task.problem.search.said, *task.problem.validation.said]
    rows += [term.fingerprint for term in spoken if isinstance(term, TaskTerm)]
    decided = [
        task.study,
        [source.weights.fingerprint() for source in bunch.sources],
        [expert.name for expert in bunch.experts],
        {term: _settings(config.objective[term]) for term in terms},
        config.merge.model_dump(),
        config.search.model_dump(exclude={"controls": True, "recipes": True, "descent": {"checkpointing"}}),
        _judging(config) if any(config.objective[term].is_said for term in terms) else {},
        {recipe: coefficients.tolist() for recipe, coefficients in recipes.items()},
        rows,
    ]
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]


def _settings(term: TermConfig) -> dict[str, Any]:
    """What decides a term; what only tasks know does not count for others."""
    return term.model_dump(exclude=None if term.task else {"task", *OF_TASKS})


def _judging(config: Config) -> dict[str, Any]:
    """What decides the verdicts on answers."""
    rules = Rules.of(config.data)
    return {
        "refusals": list(rules.refusals),
        "judges": {question: judge.model_dump() for question, judge in rules.judges.items()},
        "tokens": config.data.max_answer_tokens,
    }

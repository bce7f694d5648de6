"""One Optuna study: merges by name, then what its sampler suggests; each is on disk before the next begins.

A trial that is clearly worse than the best so far on the same examples, or cannot keep a constraint any more, is given
up: it costs a part of a pass and is never chosen. Samplers are told what it would have come to.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from datagen.errors import EngineDiedError, EngineError
from optimizer.engines.scoring import ScoringEngine
from optimizer.merging.space import Coefficients, Space
from optimizer.objective.constraints import Constraint
from optimizer.objective.said import Speak, Spoken
from optimizer.objective.scores import Score, Scores
from optimizer.objective.terms import Objective
from optimizer.search import baselines
from optimizer.search.domain import Domain, Point
from optimizer.search.measuring import DIVERGED, Measuring, check_finite, finite
from optimizer.search.plans import Plan, refining_plan, search_plan
from optimizer.search.records import (
    ANSWERS,
    BLOCKS,
    DONE,
    GIVEN_UP,
    LAST_WORDS,
    LOSS,
    NAME,
    SEARCH,
    SECONDS,
    VALIDATION,
    VALIDATION_LOSS,
    answers_in,
    plain,
    scores_of,
)
from optimizer.search.sampler import STEPS
from optimizer.search.stopping import gains_little
from optimizer.search.storage import suggested
from optimizer.search.winners import best_so_far, best_spoken, front, ranked
from optimizer.search_config import SearchConfig

#: Of an example: forward, and backward at the price of two.
PASSES_PER_STEP = 3

#: What the one objective of most studies is called.
LOSS_GOAL = "loss"

#: Told every finished trial: how many are done, how many there will be at most, the trial, the best so far.
OnTrial = Callable[[int, int, FrozenTrial, FrozenTrial], None]


@dataclass(frozen=True)
class Searched:
    """What a study found.

    Attributes:
        trials: all finished trials in order, those that were given up among them.
        winner: the one chosen by the validation split.
        domain: what its parameters mean.
        answers: number of a trial that was let speak after the search -> scores of what it said.
    """

    trials: Sequence[FrozenTrial]
    winner: FrozenTrial
    domain: Domain
    answers: Mapping[int, Scores] = field(default_factory=dict)

    @property
    def space(self) -> Space:
        """Of the coefficients."""
        return self.domain.space

    @property
    def point(self) -> Point:
        """The winner's."""
        return self.domain.point(self.winner.params)

    @property
    def coefficients(self) -> Coefficients:
        """Of the winner, [experts, groups]."""
        return self.point.coefficients

    @property
    def front(self) -> list[FrozenTrial]:
        """Trials that no other is better than in all objectives."""
        return front(self.trials)

    def named(self, name: str) -> Coefficients:
        """Of a baseline."""
        return self.space.from_parameters(next(t for t in self.trials if t.user_attrs.get(NAME) == name).params)


class Speaker(Protocol):
    """Lets any merge speak, and scores what it says."""

    def __call__(self, point: Point, terms: Sequence[Spoken]) -> Mapping[str, Score]:
        """Scores by term.

        Args:
            point: the merge.
            terms: with the rows or the task of each.

        Raises:
            EngineDiedError: what answers died of it, however often it was started again.
        """


@dataclass(frozen=True)
class Task:
    """What a study is run with.

    Attributes:
        storage: of the trials.
        config: of the search.
        engine: that trials are merged and scored in.
        search: terms that are searched on.
        validation: the same terms on rows that only choose among finished trials.
        on_trial: told every finished trial, those of an earlier run included.
        constraints: what the winner must keep; those of terms that are not searched on are left out.
        recipes: merges of the user's that are tried first, by name.
        given: hyper-parameters of the method.
        speaker: lets merges answer; needed where a term looks at what they say.
    """

    storage: optuna.storages.BaseStorage
    config: SearchConfig
    engine: ScoringEngine
    search: Objective
    validation: Objective
    on_trial: OnTrial = lambda *_: None
    constraints: Sequence[Constraint] = ()
    recipes: Mapping[str, Coefficients] = field(default_factory=dict)
    given: Mapping[str, float] = field(default_factory=dict)
    speaker: Speaker | None = None

    @property
    def kept(self) -> list[Constraint]:
        """Constraints of the terms that are searched on."""
        return [one for one in self.constraints if one.term in self.search.names]

    @property
    def goals(self) -> dict[str, list[str]]:
        """Objective -> its terms; the loss alone, if there is one objective."""
        terms = self.search.names
        shared = {name: [term for term in some if term in terms] for name, some in self.config.pareto.items()}
        several = {name: some for name, some in shared.items() if some}
        return several if len(several) > 1 else {LOSS_GOAL: terms}


def open_study(name: str, task: Task) -> optuna.Study:
    """A task's study, made if it is not there."""
    return optuna.create_study(
        storage=task.storage,
        study_name=name,
        directions=["minimize"] * len(task.goals),
        load_if_exists=True,
    )


def run_study(name: str, task: Task) -> Searched:
    """Runs or resumes a search until its budget is spent.

    Args:
        name: of the study in the storage.
    """
    plan = search_plan(
        task.config, list(task.goals.values()), task.engine, task.search, task.kept, task.recipes, task.given
    )
    return _run(name, task, plan)


def refine(name: str, task: Task, found: Searched) -> Searched:
    """Runs or resumes the study around a winner that the config asks for.

    Args:
        name: of the study in the storage.
        found: by the search before it, which knows the sources that constraints are held against.
    """
    if task.config.refine is None:
        raise ValueError("a study can only be refined if its config says how, but search.refine is empty")
    plan = refining_plan(task.config, task.config.refine, task.engine.space, found.point, task.given)
    return _run(name, task, plan, found.trials)


def _run(name: str, task: Task, plan: Plan, before: Sequence[FrozenTrial] = ()) -> Searched:
    measuring = Measuring(task.search, task.goals, task.kept, task.config.pruning, before)
    study = open_study(name, task)
    done = study.get_trials(deepcopy=False, states=DONE)
    for number, known in enumerate(done, 1):
        task.on_trial(number, plan.total, known, best_so_far(done))
    while len(done) < plan.total and not gains_little(done, plan.patience if len(measuring.goals) == 1 else 0):
        begun = time.monotonic()
        study.sampler = plan.sampler(done)
        with _meant():
            trial, values = suggested(study, _next_trial(study, plan, done), plan.domain.ranges)
        point = plan.domain.point(values)
        task.engine.apply(point.coefficients, point.settings)
        finished = _evaluated(study, trial, task, measuring, done, begun, point)
        done.append(finished)
        task.on_trial(len(done), plan.total, finished, best_so_far(done))
    among = front(done) if len(measuring.goals) > 1 else ()
    order = ranked(done, task.validation, task.kept, among, before)
    winner = _best_answering(study, task, plan, order) or order[0]
    return Searched(done, winner, plan.domain, answers_in(study.user_attrs))


def _best_answering(study: optuna.Study, task: Task, plan: Plan, order: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The best of the first trials by what they say to the validation rows; none if nobody asks.

    A finished trial can be told nothing more, so the study remembers what each came to.

    Args:
        order: trials that may win, best first.
    """
    said = Objective((), task.validation.said)
    if not said.said or task.config.answers.when != "winner":
        return None
    answers: dict[int, Scores] = {}
    for trial in order:
        if len(answers) == task.config.answers.top:
            break
        key = f"{ANSWERS} {trial.number}"
        if key not in study.user_attrs:
            study.set_user_attr(key, _told_by(task, plan.domain.point(trial.params), said.said))
        if (own := answers_in(study.user_attrs).get(trial.number)) is not None:
            answers[trial.number] = own
    if not answers:
        words = study.user_attrs[key]
        raise EngineError(f"at least one trial must live to answer, but the engine died of all: {words}")
    return best_spoken([trial for trial in order if trial.number in answers], said, answers)


def _told_by(task: Task, point: Point, said: Sequence[Spoken]) -> dict[str, dict[str, float]] | str:
    """Scores of what a merge says; or the last words of the engine, if it died of it again and again."""
    try:
        return plain(_speaking(task, point)(said))
    except EngineDiedError as error:
        return str(error)


def _speaking(task: Task, point: Point) -> Speak:
    """What lets a merge answer."""
    if task.speaker is None:
        raise ValueError("a study with terms on what merges say must be run with a speaker, but has none")
    return partial(task.speaker, point)


def _evaluated(
    study: optuna.Study,
    trial: Trial,
    task: Task,
    measuring: Measuring,
    done: Sequence[FrozenTrial],
    begun: float,
    point: Point,
) -> FrozenTrial:
    """Measures what is applied and tells the study."""
    named = str(trial.user_attrs.get(NAME, ""))
    speak = _speaking(task, point) if task.search.said and task.config.answers.when == "trial" else None
    # What others are held to must be known to the end, and the first trial has nothing to be compared with. What the
    # sources are worth in each term is asked of them all.
    told: dict[str, Any] = {}
    try:
        measured = measuring.measure(
            task.engine,
            done,
            may_stop=bool(done) and named not in {one.source for one in measuring.constraints},
            may_miss=named in baselines.parents(task.engine.space),
            speak=speak,
        )
        checks = {} if measured.given_up else task.validation.scores(task.engine)
        if speak and not measured.given_up and finite(checks):
            checks |= speak(task.validation.said)
    except EngineDiedError as error:
        if not done:
            raise
        measured, checks = measuring.failed(done), {}
        told[LAST_WORDS] = str(error)
    with _meant():
        for constraint, by in measuring.short(measured.scores, done, named).items():
            trial.set_constraint(constraint, by)
    told |= {
        SEARCH: plain(measured.scores),
        BLOCKS: measured.blocks,
        LOSS: measuring.loss(measured.values),
    }
    if not done:
        check_finite(checks)
    if measured.given_up or not finite(checks):
        told[GIVEN_UP] = measured.given_up or DIVERGED
    else:
        told |= {VALIDATION: plain(checks), VALIDATION_LOSS: task.validation.loss(checks)}
    for key, value in (told | {SECONDS: time.monotonic() - begun}).items():
        trial.set_user_attr(key, value)
    with _meant():
        return study.tell(trial, measured.values)


@contextmanager
def _meant() -> Iterator[None]:
    """Without Optuna's warnings of what is meant."""
    with warnings.catch_warnings():
        for message in (
            "The constraint value is ignored because",  # a killed run told it already
            "Fixed parameter .* is out of range",  # a merge by name may lie outside of what is searched
            "Constraints have been set, but",  # CMA-ES and the like: such a trial is given up for them all the same
        ):
            warnings.filterwarnings("ignore", message=message)
        yield


def _next_trial(study: optuna.Study, plan: Plan, done: Sequence[FrozenTrial]) -> Trial:
    """The trial that a killed run left unfinished, else the next merge by name, else what the sampler suggests."""
    left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    if left:
        return Trial(study, left[0]._trial_id)
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    if not waiting and (first := plan.named(done)) is not None:
        study.enqueue_trial(plan.domain.parameters(first[1]), user_attrs={NAME: first[0]})
    return study.ask()


def passes(search: Objective, validation: Objective, searched: Searched) -> float:
    """What a study cost in forward passes over its search set, validation and backward passes included.

    Args:
        search: the terms that were searched on.
        validation: the same terms on the validation split.
    """
    sequences = 0.0
    for trial in searched.trials:
        seen = scores_of(trial, SEARCH)
        sequences += sum(
            term.sequences * seen[term.name].rows / len(term.examples) for term in search.terms if term.name in seen
        )
        sequences += validation.sequences if VALIDATION in trial.user_attrs else 0
    steps = sum(trial.system_attrs.get(STEPS, 0) for trial in searched.trials)
    each = sum(term.sequences / len(term.examples) for term in search.terms)
    # There may be nothing but terms that a merge must speak for.
    return float(sequences + steps * each * PASSES_PER_STEP) / max(1, search.sequences)

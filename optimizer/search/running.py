"""A study under way: what could be done next, and what becomes of what was done.

A trial that is clearly worse than the best so far on the same examples, or cannot keep a constraint any more, is given
up: it costs a part of a pass and is never chosen. Samplers are told what it would have come to.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.study._tell import _tell_with_warning
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from datagen.errors import EngineDiedError
from optimizer.executors.base import Executor, Work
from optimizer.merging.space import Coefficients, Space
from optimizer.search import baselines
from optimizer.search.descent import DescentState
from optimizer.search.evaluating import Evaluated
from optimizer.search.history import History
from optimizer.search.measuring import DIVERGED, FAILED, Measured, check_finite, finite
from optimizer.search.plans import Descending, Plan, limits_of
from optimizer.search.problem import Problem
from optimizer.search.records import (
    BLOCKS,
    GIVEN_UP,
    LAST_WORDS,
    LOSS,
    NAME,
    SEARCH,
    SECONDS,
    VALIDATION,
    VALIDATION_LOSS,
    by_source,
    plain,
)
from optimizer.search.sampler import STATE, Stretch
from optimizer.search.sharing import DRIVER, Driver
from optimizer.search.stopping import gains_little
from optimizer.search.storage import StudyStorage
from optimizer.search.tables import LIKE

#: Seconds between looks at what other drivers do, where nothing else is to be done.
_POLL = 0.5

#: Told every finished trial: how many are done, how many there will be at most, the trial, the best so far.
OnTrial = Callable[[int, int, FrozenTrial, FrozenTrial], None]


@dataclass(frozen=True)
class Task:
    """What a study is run with.

    Attributes:
        storage: of the trials.
        problem: what they are judged by.
        space: the coefficients.
        executor: has evaluators of the problem.
        study: the name by which it knows them.
        on_trial: told every finished trial, those of an earlier run included.
        recipes: merges of the user's that are tried first, by name.
        given: hyper-parameters of the method.
        driver: this process among several; none if it is the only one.
        prefix: of the names of studies, where a storage has those of several runs.
    """

    storage: StudyStorage
    problem: Problem
    space: Space
    executor: Executor
    study: str = ""
    on_trial: OnTrial = lambda *_: None
    recipes: Mapping[str, Coefficients] = field(default_factory=dict)
    given: Mapping[str, float] = field(default_factory=dict)
    driver: Driver | None = None
    prefix: str = ""


def open_study(name: str, task: Task) -> optuna.Study:
    """A task's study, made if it is not there."""
    return optuna.create_study(
        storage=task.storage,
        study_name=task.prefix + name,
        directions=["minimize"] * len(task.problem.goals),
        load_if_exists=True,
    )


class Running:
    """A study under way.

    Trials that an earlier run left unfinished are evaluated first; then merges by name; then what is suggested.

    Args:
        name: of the study in the storage.
        task: what it is run with.
        plan: what it tries.
        before: trials of an earlier study, among them sources that constraints are held against.
    """

    def __init__(self, name: str, task: Task, plan: Plan, before: Sequence[FrozenTrial] = ()) -> None:
        self.task, self.plan = task, plan
        self.study = open_study(name, task)
        self._before = by_source(before, SEARCH)
        self._history = History()
        self._flying: dict[Work, Trial] = {}
        self._stretching: dict[Work, Stretch] = {}
        self._reached: list[tuple[Stretch, DescentState]] = []
        self._driver, self._was_late = task.driver, False
        self._left = [] if task.driver else [one for one in self._trials() if one.state == TrialState.RUNNING]
        for number, known in enumerate(self.done, 1):
            task.on_trial(number, plan.total, known, self._history.best or known)

    @property
    def done(self) -> list[FrozenTrial]:
        """Finished trials, in order of number."""
        return self._look().done

    def next(self) -> Work | None:
        """A piece of work that can begin now, and with this call has; none if there is none yet, or any more."""
        self._was_late = False
        if self._driver is not None:
            self._driver.free_stale(self.study)
        if self._left:
            return self._resumed(self._left[0])
        history = self._look()
        waited = set(self.plan.first) - history.sources.keys()
        if (named := self.plan.named(history.taken, history.sources)) is not None and (
            not waited or named[0] in waited
        ):
            return self._evaluating(self._by_name(*named))
        if waited or history.suggestions >= self.plan.suggestions or self._has_gained_little:
            return None
        if isinstance(self.plan.suggests, Descending):
            return self._descending(None, self.plan.suggests)
        sampler = partial(self.plan.suggests.sampler, self.plan.domain)
        return self._evaluating(self._asked(sampler, "suggested", self.plan.suggestions))

    @property
    def waits(self) -> bool:
        """Whether other drivers evaluate trials of it, or were faster a moment ago."""
        if self._driver is None:
            return False
        return self._was_late or self._look().runs

    def owns(self, work: Work) -> bool:
        """Whether a piece of work is this study's."""
        return work in self._flying or work in self._stretching

    def take(self, work: Work, result: Any) -> None:
        """Makes what was done part of the study.

        Raises:
            BunchError: a trial that the study cannot do without has no finite losses.
            EngineDiedError: whoever ran a descent, or the first trial, died of it again and again.
        """
        if work in self._stretching:
            if isinstance(result, EngineDiedError):
                raise result
            self._reached.append((self._stretching.pop(work), result))
            return
        if isinstance(result, EngineDiedError):
            result = Evaluated(Measured({}, given_up=FAILED), {}, 0.0, str(result))
        finished = self._told(self._flying.pop(work), result)
        if finished is None:
            return
        history = self._look()
        self.task.on_trial(len(history.bests), self.plan.total, finished, history.best or finished)

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _look(self) -> History:
        """What the trials have come to by now."""
        self._history.update(self._trials())
        return self._history

    @property
    def _has_gained_little(self) -> bool:
        patience = self.plan.patience if len(self.task.problem.goals) == 1 else 0
        return gains_little(self._history, patience)

    def _resumed(self, left: FrozenTrial) -> Work | None:
        """What is to be done for a trial that an earlier run left unfinished."""
        suggests = self.plan.suggests
        if not isinstance(suggests, Descending):
            return self._evaluating(self._taken_up(left, suggests.sampler(self.plan.domain, left.number)))
        if NAME not in left.user_attrs and STATE not in left.system_attrs:
            return self._descending(left, suggests)
        return self._evaluating(self._taken_up(left, suggests.sampler(())))

    def _taken_up(self, left: FrozenTrial, sampler: BaseSampler) -> Trial:
        """A trial that an earlier run left unfinished, with who suggests what it lacks."""
        self._left.remove(left)
        self.study.sampler = sampler
        return Trial(self.study, left._trial_id)

    def _descending(self, left: FrozenTrial | None, suggests: Descending) -> Work | None:
        """A stretch, or the trial that one has led to.

        Args:
            left: the trial that is meant, if an earlier run left one; by default a new one.
        """
        limits = limits_of(self.task.problem, self._before | self._history.sources)
        if self._reached:
            ahead = self._reached.pop(0)
            sampler = suggests.sampler(limits, ahead)
            if left is None:
                like = f"leg {ahead[0].number} step {ahead[1].step}"
                return self._evaluating(self._asked(lambda _: sampler, like, 1))
            return self._evaluating(self._taken_up(left, sampler))
        under_way = {stretch.number for stretch in self._stretching.values()}
        for stretch in suggests.sampler(limits).stretches(self._trials()):
            if stretch.number not in under_way:
                work = Work(self.task.study, "advance", (stretch,))
                self._stretching[work] = stretch
                return work
        return None

    def _told(self, trial: Trial, result: Evaluated) -> FrozenTrial | None:
        """Tells the study of an evaluated trial; none if another driver took it for abandoned."""
        if self._driver is None:
            return self._tell(trial, result)
        try:
            return self._tell(trial, result)
        except optuna.exceptions.UpdateFinishedTrialError:
            return None
        finally:
            self._driver.end(trial._trial_id)

    def _by_name(self, name: str, coefficients: Coefficients) -> Trial | None:
        """A trial that evaluates a merge by name."""
        fixed = {"fixed_params": self.plan.domain.parameters(coefficients)}
        return self._begun({NAME: name}, f"name {name}", 1, fixed)

    def _asked(self, sampler: Callable[[int], BaseSampler], like: str, most: int) -> Trial | None:
        """A trial that is suggested.

        Args:
            sampler: trial's number -> who suggests it.
            like: what it shares with its like.
            most: how many of them there may be.
        """
        trial = self._begun({}, like, most)
        if trial is not None:
            # Nothing is suggested before it is asked for, and only now is the number known.
            self.study.sampler = sampler(trial.number)
        return trial

    def _begun(
        self, told: Mapping[str, Any], like: str, most: int, inner: Mapping[str, Any] | None = None
    ) -> Trial | None:
        """A new trial; none if drivers have begun enough of its like."""
        if self._driver is not None:
            told = dict(told) | {DRIVER: self._driver.known_as}
        begun = create_trial(
            state=TrialState.RUNNING, user_attrs=dict(told) | {LIKE: like}, system_attrs=dict(inner or {})
        )
        made = self.task.storage.claim(self.study._study_id, begun, most)
        if made is None:
            self._was_late = True
            return None
        if self._driver is not None:
            self._driver.begin(made)
        return Trial(self.study, made)

    def _evaluating(self, trial: Trial | None) -> Work | None:
        """The evaluation of a trial; none if other drivers have begun all there may be."""
        if trial is None:
            return None
        values = self._suggested(trial)
        name = trial.user_attrs.get(NAME)
        standing = self.task.problem.measuring.standing(
            self._history,
            self._before,
            # What others are held to must be known to the end, and the first trial has nothing to be compared with.
            may_stop=bool(self._history.bests) and name not in self._held_against,
            # What the sources are worth in each term is asked of them all.
            may_miss=name in baselines.parents(self.task.space),
        )
        work = Work(self.task.study, "evaluate", (self.plan.domain.point(values), standing))
        self._flying[work] = trial
        return work

    def _suggested(self, trial: Trial) -> dict[str, float]:
        """A trial's parameters, which from now on are its own."""
        storage, study, ranges = self.task.storage, self.study, self.plan.domain.ranges
        begun = storage.get_trial(trial._trial_id)
        # Optuna's samplers find out what a study's parameters are from all its trials, for every trial anew, and set
        # them one by one: a thousand parameters are as slow as a small model. The first trial tells them nothing yet.
        joint = self.plan.domain.joint if self._history.bests else {}
        told = begun.params or trial._fixed_params or study.sampler.sample_relative(study, begun, joint)
        values = {
            name: told[name] if name in told else study.sampler.sample_independent(study, begun, name, one)
            for name, one in ranges.items()
        }
        storage.set_trial_params(trial._trial_id, values, ranges)
        storage.keep(trial._trial_id)
        return values

    @property
    def _held_against(self) -> set[str]:
        return {one.source for one in self.task.problem.kept}

    def _tell(self, trial: Trial, result: Evaluated) -> FrozenTrial:
        """Tells the study of an evaluated trial."""
        name = str(trial.user_attrs.get(NAME, ""))
        measuring, measured, history = self.task.problem.measuring, result.measured, self._history
        is_first = not history.bests
        if result.words and is_first:
            raise EngineDiedError(result.words)
        if is_first or name in self._held_against:
            check_finite(measured.scores)
        if is_first:
            check_finite(result.checks)
        measured = measuring.settled(measured, history.worst)
        own = {name: measured.scores} if name else {}
        bounds = measuring.bounds(self._before | history.sources | own)
        with _meant():
            for constraint, by in measuring.short(measured.scores, bounds).items():
                trial.set_constraint(constraint, by)
        told: dict[str, Any] = {
            SEARCH: plain(measured.scores),
            BLOCKS: measured.blocks,
            LOSS: measuring.loss(measured.values),
            SECONDS: result.seconds,
        }
        if result.words:
            told[LAST_WORDS] = result.words
        if measured.given_up or not finite(result.checks):
            told[GIVEN_UP] = measured.given_up or DIVERGED
        else:
            told |= {
                VALIDATION: plain(result.checks),
                VALIDATION_LOSS: self.task.problem.validation.loss(result.checks),
            }
        for key, value in told.items():
            trial.set_user_attr(key, value)
        # What `Study.tell` does, but for a copy of the trial, which takes as long as all the rest.
        with _meant():
            _tell_with_warning(self.study, trial, list(measured.values), None)
        return self.task.storage.get_trial(trial._trial_id)


def run_all(studies: Sequence[Running], executor: Executor) -> None:
    """Does all that several studies can have done; the first ones' work comes first.

    Args:
        executor: that all of them are run with.
    """
    while True:
        for study in studies:
            while executor.free and (work := study.next()) is not None:
                executor.submit(work)
        if executor.free and not executor.busy:
            if not any(study.waits for study in studies):
                return
            time.sleep(_POLL)
            continue
        for work, result in executor.wait():
            next(study for study in studies if study.owns(work)).take(work, result)


@contextmanager
def _meant() -> Iterator[None]:
    """Without Optuna's warnings of what is meant."""
    with warnings.catch_warnings():
        for message in (
            "The constraint value is ignored because",  # a killed run told it already
            "Constraints have been set, but",  # CMA-ES and the like: such a trial is given up for them all the same
        ):
            warnings.filterwarnings("ignore", message=message)
        yield

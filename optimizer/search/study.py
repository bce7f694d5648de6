"""Whole studies: run to their end, and the winner chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import optuna
from optuna.trial import FrozenTrial

from datagen.errors import EngineDiedError, EngineError
from optimizer.executors.base import Work
from optimizer.merging.space import Coefficients, Space
from optimizer.objective.scores import Score, Scores
from optimizer.objective.terms import Objective
from optimizer.search.domain import Domain, Point
from optimizer.search.history import front
from optimizer.search.plans import refining_plan, search_plan
from optimizer.search.records import ANSWERS, NAME, SEARCH, VALIDATION, answers_in, plain, scores_of
from optimizer.search.running import Running, Task, run_all
from optimizer.search.sampler import STEPS
from optimizer.search.winners import best_spoken, ranked

#: Of an example: forward, and backward at the price of two.
PASSES_PER_STEP = 3


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


def run_study(name: str, task: Task) -> Searched:
    """Runs or resumes a search until its budget is spent.

    Args:
        name: of the study in the storage.
    """
    return run_studies({name: task})[name]


def run_studies(tasks: dict[str, Task]) -> dict[str, Searched]:
    """Runs or resumes several searches side by side, as far as their executor has room; they share it.

    Args:
        tasks: by the names that the studies have in the storage.
    """
    running = [
        Running(name, task, search_plan(task.problem, task.space, task.recipes, task.given))
        for name, task in tasks.items()
    ]
    return dict(zip(tasks, _run(running), strict=True))


def refine(name: str, task: Task, found: Searched) -> Searched:
    """Runs or resumes the study around a winner that the config asks for.

    Args:
        name: of the study in the storage.
        found: by the search before it, which knows the sources that constraints are held against.
    """
    config = task.problem.config
    if config.refine is None:
        raise ValueError("a study can only be refined if its config says how, but search.refine is empty")
    plan = refining_plan(config, config.refine, task.space, found.point, task.given)
    return _run([Running(name, task, plan, found.trials)], found.trials)[0]


def _run(studies: Sequence[Running], before: Sequence[FrozenTrial] = ()) -> list[Searched]:
    run_all(studies, studies[0].task.executor)
    found = []
    for study in studies:
        done, problem = study.done, study.task.problem
        among = front(done) if len(problem.goals) > 1 else ()
        order = ranked(done, problem.validation, problem.kept, among, before)
        winner = _best_answering(study.study, study.task, study.plan.domain, order) or order[0]
        found.append(Searched(done, winner, study.plan.domain, answers_in(study.study.user_attrs)))
    return found


def _best_answering(
    study: optuna.Study, task: Task, domain: Domain, order: Sequence[FrozenTrial]
) -> FrozenTrial | None:
    """The best of the first trials by what they say to the validation rows; none if nobody asks.

    A finished trial can be told nothing more, so the study remembers what each came to.

    Args:
        order: trials that may win, best first.
    """
    said = Objective((), task.problem.validation.said)
    answers_of = task.problem.config.answers
    if not said.said or answers_of.when != "winner":
        return None
    answers: dict[int, Scores] = {}
    left, words = list(order), ""
    while left and (short := answers_of.top - len(answers)) > 0:
        asked, left = left[:short], left[short:]
        for trial, known in zip(asked, _answered(study, task, domain, asked), strict=True):
            if isinstance(known, str):
                words = known
            else:
                answers[trial.number] = known
    if not answers:
        raise EngineError(f"at least one trial must live to answer, but the engine died of all: {words}")
    return best_spoken([trial for trial in order if trial.number in answers], said, answers)


def _answered(
    study: optuna.Study, task: Task, domain: Domain, trials: Sequence[FrozenTrial]
) -> list[dict[str, Score] | str]:
    """Scores of what trials say, or an engine's last words; what the study remembers is not asked again."""
    keys = [f"{ANSWERS} {trial.number}" for trial in trials]
    unknown = [(key, trial) for key, trial in zip(keys, trials, strict=True) if key not in study.user_attrs]
    works = [Work(task.study, "answered", (domain.point(trial.params),)) for _, trial in unknown]
    for (key, _), told in zip(unknown, task.executor.all(works), strict=True):
        dead = isinstance(told, str | EngineDiedError)
        study.set_user_attr(key, str(told) if dead else plain(told))
    known = study.user_attrs
    return [
        known[key] if isinstance(known[key], str) else {name: Score(**values) for name, values in known[key].items()}
        for key in keys
    ]


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
    return equivalents(search, sequences, sum(trial.system_attrs.get(STEPS, 0) for trial in searched.trials))


def equivalents(search: Objective, sequences: float, steps: int) -> float:
    """Forward passes over a search set.

    Args:
        search: the terms that are searched on.
        sequences: that are scored.
        steps: of descents, each on an example of every term.
    """
    each = sum(term.sequences / len(term.examples) for term in search.terms)
    # There may be nothing but terms that a merge must speak for.
    return float(sequences + steps * each * PASSES_PER_STEP) / max(1, search.sequences)

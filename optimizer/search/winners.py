"""Which finished trial wins: chosen on the validation split, by answers first and loss second."""

from collections.abc import Callable, Mapping, Sequence

from optuna.trial import FrozenTrial

from optimizer.objective.constraints import Constraint
from optimizer.objective.scores import Scores
from optimizer.objective.terms import Objective
from optimizer.search.records import VALIDATION, VALIDATION_LOSS, by_source, validation_scores, whole


def ranked(
    trials: Sequence[FrozenTrial],
    validation: Objective,
    constraints: Sequence[Constraint] = (),
    among: Sequence[FrozenTrial] = (),
    before: Sequence[FrozenTrial] = (),
) -> list[FrozenTrial]:
    """Trials that may win, the winner first: of lowest validation loss where validation answers are about as right.

    Trials that keep all constraints on the validation split, or miss them least, come before all others.

    The loss alone can hide a few lost refusals among many tokens that got a little likelier, and the share of right
    answers alone is too coarse to tell good trials apart. So trials within one standard error of the best share stay
    ahead (the one-standard-error rule of Breiman et al. 1984), and of these the loss decides.

    Args:
        trials: all of a study.
        validation: the terms on that split.
        constraints: what the winner must keep.
        among: those that may win; by default all.
        before: of an earlier study, among them sources that constraints are held against.
    """
    known = by_source([*before, *trials], VALIDATION)
    able = whole(among or trials)

    def short(trial: FrozenTrial) -> float:
        scores = validation_scores(trial)
        return sum(max(one.bound(known) - scores[one.term].exact, 0.0) for one in constraints)

    misses = {trial.number: short(trial) for trial in able}
    keeping = [trial for trial in able if misses[trial.number] <= min(misses.values())]
    near = {trial.number for trial in _about_best(keeping, validation, validation_scores)}
    return sorted(
        able,
        key=lambda trial: (
            misses[trial.number],
            trial.number not in near,
            trial.user_attrs[VALIDATION_LOSS],
            trial.number,
        ),
    )


def best_spoken(trials: Sequence[FrozenTrial], said: Objective, answers: Mapping[int, Scores]) -> FrozenTrial:
    """The first of ranked trials whose answers are about as right as the best's.

    Where a task has no share of right answers, its loss decides among these.

    Args:
        trials: best first.
        said: the terms that look at what is said.
        answers: trial's number -> their scores.
    """
    able = _about_best(trials, said, lambda trial: answers[trial.number])
    shares = {term.name for term in said.shares}
    others = said.only([name for name in said.names if name not in shares])
    return min(able, key=lambda trial: others.loss(answers[trial.number]))


def _about_best(
    trials: Sequence[FrozenTrial], objective: Objective, scores: Callable[[FrozenTrial], Scores]
) -> list[FrozenTrial]:
    """Those whose share of right answers is within one standard error of the best's, in their order."""
    shares = {trial.number: objective.exact(scores(trial)) for trial in trials}
    best = max(trials, key=lambda trial: shares[trial.number])
    floor = shares[best.number] - objective.exact_error(scores(best))
    return [trial for trial in trials if shares[trial.number] >= floor]

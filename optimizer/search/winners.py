"""Which finished trial wins: chosen on the validation split, by answers first and loss second."""

from collections.abc import Sequence

import numpy as np
from optuna.trial import FrozenTrial

from optimizer.objective.constraints import Constraint
from optimizer.objective.terms import Objective
from optimizer.search.records import LOSS, VALIDATION, VALIDATION_LOSS, by_source, lacking, validation_scores, whole


def best_so_far(done: Sequence[FrozenTrial]) -> FrozenTrial:
    """The trial of lowest loss on the search split, among those that miss the constraints least."""
    return min(whole(done), key=lambda trial: (lacking(trial), trial.user_attrs[LOSS]))


def front(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The whole trials that no other beats: as good in all objectives and constraints, and better in one of them."""
    candidates = whole(trials)
    values = np.array([[lacking(trial), *trial.values] for trial in candidates])
    return [
        trial
        for trial, own in zip(candidates, values, strict=True)
        if not ((values <= own).all(1) & (values < own).any(1)).any()
    ]


def choose(
    trials: Sequence[FrozenTrial],
    validation: Objective,
    constraints: Sequence[Constraint] = (),
    among: Sequence[FrozenTrial] = (),
    before: Sequence[FrozenTrial] = (),
) -> FrozenTrial:
    """The trial of lowest validation loss among those whose validation answers are about as right as the best's.

    Only trials that keep all constraints on the validation split are looked at, or those that miss them least.

    The loss alone can hide a few lost refusals among many tokens that got a little likelier, and the share of right
    answers alone is too coarse to tell good trials apart. So trials within one standard error of the best share stay
    (the one-standard-error rule of Breiman et al. 1984), and of these the loss decides.

    Args:
        trials: all of a study.
        validation: the terms on that split.
        constraints: what the winner must keep.
        among: those that may win; by default all.
        before: of an earlier study, among them sources that constraints are held against.
    """
    known = by_source([*before, *trials], VALIDATION)

    def short(trial: FrozenTrial) -> float:
        scores = validation_scores(trial)
        return sum(max(one.bound(known) - scores[one.term].exact, 0.0) for one in constraints)

    trials = whole(among or trials)
    least = min(short(trial) for trial in trials)
    trials = [trial for trial in trials if short(trial) <= least]
    shares = {trial.number: validation.exact(validation_scores(trial)) for trial in trials}
    best = max(trials, key=lambda trial: shares[trial.number])
    floor = shares[best.number] - validation.exact_error(validation_scores(best))
    near = [trial for trial in trials if shares[trial.number] >= floor]
    return min(near, key=lambda trial: (trial.user_attrs[VALIDATION_LOSS], trial.number))

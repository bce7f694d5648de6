"""What a trial remembers of its evaluation, in user attributes, and how that is read again."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from optimizer.objective.scores import Score, Scores
from optimizer.objective.terms import retention

#: Of every trial: what a trial that was not suggested is called; its loss and its scores on the search split, of the
#: examples that it saw; the objectives' values block by block; why it was given up, if it was; how long it took.
NAME, LOSS, SEARCH, BLOCKS, GIVEN_UP, SECONDS = "name", "loss", "search", "blocks", "given up", "seconds"
#: Of trials that were not given up: scores and loss on the validation split.
VALIDATION, VALIDATION_LOSS = "validation", "validation_loss"

#: Of a trial that could not be evaluated: the engine's last words. Of a study: what its best trials answer, by number.
LAST_WORDS, ANSWERS = "last words", "answers"

#: States of trials that are done with.
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


def plain(scores: Mapping[str, Score]) -> dict[str, dict[str, float]]:
    """Scores as a storage keeps them."""
    return {name: asdict(score) for name, score in scores.items()}


def scores_of(trial: FrozenTrial, split: str) -> dict[str, Score]:
    """A trial's scores.

    Args:
        split: `SEARCH` or `VALIDATION`.
    """
    return {term: Score(**values) for term, values in trial.user_attrs[split].items()}


def answers_in(attributes: Mapping[str, Any]) -> dict[int, dict[str, Score]]:
    """What a study remembers of trials that were let speak after the search: number -> scores.

    Args:
        attributes: the study's; of a trial that an engine died of there are but its last words.
    """
    return {
        int(key.removeprefix(ANSWERS)): {name: Score(**values) for name, values in told.items()}
        for key, told in attributes.items()
        if key.startswith(f"{ANSWERS} ") and isinstance(told, dict)
    }


def validation_scores(trial: FrozenTrial) -> dict[str, Score]:
    """A whole trial's scores on the validation split."""
    return scores_of(trial, VALIDATION)


def by_source(trials: Sequence[FrozenTrial], split: str) -> dict[str, dict[str, Score]]:
    """Name of a baseline -> its scores.

    Args:
        split: `SEARCH` or `VALIDATION`; trials without it are left out.
    """
    return {
        trial.user_attrs[NAME]: scores_of(trial, split)
        for trial in trials
        if NAME in trial.user_attrs and split in trial.user_attrs
    }


def is_whole(trial: FrozenTrial) -> bool:
    """Whether a finished trial was evaluated to its end."""
    return trial.state == TrialState.COMPLETE and GIVEN_UP not in trial.user_attrs


def whole(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that were evaluated to their end."""
    return [trial for trial in trials if is_whole(trial)]


def lacking(trial: FrozenTrial) -> float:
    """By how much a trial misses the constraints in all."""
    return sum(max(0.0, by) for by in trial.constraints.values())


def retentions(sources: Mapping[str, Scores], trial: FrozenTrial, experts: Sequence[str]) -> dict[str, float]:
    """A trial's search losses, term by term, on the scale where the base is 0 and the best source is 1.

    Args:
        sources: name -> scores on the search split.
    """
    known = [scores for name, scores in sources.items() if name in ("base", *experts)]
    found = {}
    for term, score in scores_of(trial, SEARCH).items():
        losses = [scores[term].loss for scores in known if term in scores]
        if "base" in sources and term in sources["base"]:
            found[term] = retention(score.loss, sources["base"][term].loss, min(losses))
    return found

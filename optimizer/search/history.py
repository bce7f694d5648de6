"""What the trials of a study have come to, kept up to date at the price of those that have changed."""

from collections.abc import Sequence
from datetime import datetime
from functools import reduce
from typing import Self

from optuna.trial import FrozenTrial, TrialState

from optimizer.objective.scores import Score, Scores
from optimizer.search.records import DONE, LOSS, NAME, SEARCH, is_whole, lacking, scores_of, whole


class History:
    """A study's trials as far as those to come depend on them.

    Attributes:
        bests: for each finished trial the best of all that finished before it and itself: of lowest loss on the search
            split, among those that miss the constraints least; none where all were given up.
        front: see `front`.
        sources: name of a finished trial that was not suggested -> its scores on the search split.
        suggested: places in `bests` of trials that were suggested.
        worst: term -> the score of the highest loss that was measured.
    """

    def __init__(self) -> None:
        self.bests: list[FrozenTrial | None] = []
        self.front: list[FrozenTrial] = []
        self.sources: dict[str, Scores] = {}
        self.suggested: list[int] = []
        self.worst: dict[str, Score] = {}
        self._done: list[FrozenTrial] = []
        self._open: dict[int, FrozenTrial] = {}
        self._seen = 0

    @classmethod
    def of(cls, trials: Sequence[FrozenTrial]) -> Self:
        """What some finished trials have come to, in this order."""
        made = cls()
        for trial in trials:
            made._add(trial)
        return made

    def update(self, trials: Sequence[FrozenTrial]) -> None:
        """Takes over what has changed.

        Args:
            trials: all of the study, by number.
        """
        ended = []
        for number in (*self._open, *range(self._seen, len(trials))):
            trial = trials[number]
            if self._open.get(number) is trial:  # storages replace what has changed
                continue
            self._open.pop(number, None)
            if trial.state in DONE:
                ended.append(trial)
            elif trial.state != TrialState.FAIL:
                self._open[number] = trial
        self._seen = len(trials)
        for trial in sorted(ended, key=lambda trial: (trial.datetime_complete or datetime.min, trial.number)):
            self._add(trial)

    @property
    def done(self) -> list[FrozenTrial]:
        """Finished trials, by number."""
        return sorted(self._done, key=lambda trial: trial.number)

    @property
    def best(self) -> FrozenTrial | None:
        """The best of all."""
        return self.bests[-1] if self.bests else None

    @property
    def runs(self) -> bool:
        """Whether trials are being evaluated."""
        return bool(self._open)

    @property
    def taken(self) -> set[str]:
        """Names of trials that are finished, or being evaluated."""
        begun = {trial.user_attrs.get(NAME) for trial in self._open.values()}
        return self.sources.keys() | {name for name in begun if name is not None}

    @property
    def suggestions(self) -> int:
        """How many trials were suggested, those that are being evaluated among them."""
        return len(self.suggested) + sum(NAME not in trial.user_attrs for trial in self._open.values())

    def _add(self, trial: FrozenTrial) -> None:
        scores = scores_of(trial, SEARCH)
        if NAME in trial.user_attrs:
            self.sources[trial.user_attrs[NAME]] = scores
        else:
            self.suggested.append(len(self.bests))
        for name, score in scores.items():
            self.worst[name] = max(self.worst.get(name, score), score, key=lambda score: score.loss)
        best = self.best
        if is_whole(trial):
            self.front = _joined(self.front, trial)
            best = trial if best is None else min(best, trial, key=_standing)
        self.bests.append(best)
        self._done.append(trial)


def front(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The whole trials that no other beats: as good in all objectives and constraints, and better in one of them."""
    return reduce(_joined, whole(trials), [])


def _joined(members: list[FrozenTrial], trial: FrozenTrial) -> list[FrozenTrial]:
    """A front, by number, after another trial."""
    if any(_beats(member, trial) for member in members):
        return members
    left = [member for member in members if not _beats(trial, member)]
    return sorted([*left, trial], key=lambda trial: trial.number)


def _beats(one: FrozenTrial, other: FrozenTrial) -> bool:
    ours, theirs = [lacking(one), *one.values], [lacking(other), *other.values]
    return ours != theirs and all(mine <= its for mine, its in zip(ours, theirs, strict=True))


def _standing(trial: FrozenTrial) -> tuple[float, float, int]:
    return lacking(trial), trial.user_attrs[LOSS], trial.number

"""One trial's evaluation: cheap terms first, block by block, given up as soon as it cannot win."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite

import numpy as np
from optuna.trial import FrozenTrial

from datagen.errors import BunchError
from optimizer.engines.scoring import ScoringEngine
from optimizer.objective.constraints import Constraint
from optimizer.objective.said import Speak
from optimizer.objective.scores import Score
from optimizer.objective.terms import Block, Objective
from optimizer.search.racing import Blocks, first_beating, projected
from optimizer.search.records import BLOCKS, SEARCH, by_source, lacking, scores_of, whole
from optimizer.search.winners import best_so_far, front

#: Why a trial is given up.
WORSE, INFEASIBLE, DIVERGED, FAILED = "worse", "infeasible", "diverged", "failed"


@dataclass(frozen=True)
class Measured:
    """What a trial came to.

    Attributes:
        scores: of what was seen.
        values: of the objectives; of a trial that was given up, what they would have come to.
        blocks: the objectives' values by block.
        given_up: why, or nothing.
    """

    scores: dict[str, Score]
    values: list[float]
    blocks: Sequence[Sequence[float]]
    given_up: str = ""


@dataclass(frozen=True)
class Measuring:
    """How a study's trials are evaluated.

    Attributes:
        search: the terms.
        goals: objective -> its terms; they share out all terms.
        constraints: what trials must keep.
        threshold: p-value below which a trial is worse than another; 0 for never.
        before: trials of an earlier study, among them sources that constraints are held against.
    """

    search: Objective
    goals: Mapping[str, Sequence[str]]
    constraints: Sequence[Constraint]
    threshold: float
    before: Sequence[FrozenTrial] = ()

    @cached_property
    def _parts(self) -> list[Objective]:
        return [self.search.only(terms) for terms in self.goals.values()]

    @cached_property
    def _phases(self) -> tuple[Sequence[Block], Sequence[Block]]:
        """Blocks of the terms that constraints are about, none if there are none, and of the others."""
        held = {one.term for one in self.constraints}
        rest = {term.name for term in self.search.terms} - held
        blocks = self.search.blocks
        return [block.only(held) for block in blocks if held], [block.only(rest) for block in blocks]

    def values(self, scores: Mapping[str, Score]) -> list[float]:
        """Of the objectives."""
        return [part.loss(scores) for part in self._parts]

    def loss(self, values: Sequence[float]) -> float:
        """The mean of all terms, from the objectives' values."""
        weights = [sum(term.weight for term in part.every) for part in self._parts]
        return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)

    def short(self, scores: Mapping[str, Score], done: Sequence[FrozenTrial], name: str = "") -> dict[str, float]:
        """Constraint -> by how much it is missed, negative if it is kept.

        Args:
            scores: of the terms that constraints are about.
            done: finished trials.
            name: of the trial that is meant, if it has one.
        """
        sources = by_source([*self.before, *done], SEARCH) | ({name: scores} if name else {})
        return {one.name: one.bound(sources) - scores[one.term].exact for one in self.constraints if one.term in scores}

    def measure(
        self,
        engine: ScoringEngine,
        done: Sequence[FrozenTrial],
        *,
        may_stop: bool = True,
        may_miss: bool = False,
        speak: Speak | None = None,
    ) -> Measured:
        """Evaluates what is applied: by likelihood, then what it says, if it is still in the race.

        Args:
            done: finished trials.
            may_stop: whether the trial may be given up.
            may_miss: whether it is measured on though it misses a constraint.
            speak: lets it answer; None leaves out what it says.

        Raises:
            BunchError: a loss is not finite, and the trial may not be given up.
            EngineDiedError: what lets it answer died again and again.
        """
        held, others = self._phases
        first: list[dict[str, Score]] = []
        for block in held:
            first.append(block.scores(engine))
            if not finite(first[-1]):
                return self._given_up(DIVERGED, _merged(first), done, may_stop)
            if may_stop and not may_miss and self._is_lost(first, done):
                return self._given_up(INFEASIBLE, _merged(first), done)
        rivals = self._rivals(_merged(first), done) if may_stop else []
        parts: list[dict[str, Score]] = []
        values: list[list[float]] = []
        for step, block in enumerate(others):
            parts.append((first[step] if first else {}) | (block.scores(engine) if block.picks else {}))
            seen = [*parts, *first[step + 1 :]]
            if not finite(parts[-1]):
                return self._given_up(DIVERGED, _merged(seen), done, may_stop)
            values.append(self.values(parts[-1]))
            beating = first_beating(np.array(values), rivals, self.threshold) if step + 1 < len(others) else None
            if beating is not None:
                return self._behind(_merged(seen), projected(np.array(values), beating), values, done)
        scores = _merged(parts)
        if speak is not None and self.search.said:
            scores |= speak(self.search.said)
            if not finite(scores):
                return self._given_up(DIVERGED, scores, done, may_stop)
        return Measured(scores, self.values(scores), values)

    def failed(self, done: Sequence[FrozenTrial]) -> Measured:
        """What a trial is taken for that could not be evaluated."""
        return self._given_up(FAILED, {}, done)

    def _behind(
        self,
        scores: dict[str, Score],
        projected: Sequence[float],
        blocks: Sequence[Sequence[float]],
        done: Sequence[FrozenTrial],
    ) -> Measured:
        """A trial that fell behind; what it would have said is taken to be as bad as the worst that was said."""
        if not self.search.said:
            return Measured(scores, list(projected), blocks, WORSE)
        worst = self._worst(done)
        values = []
        for part, value in zip(self._parts, projected, strict=True):
            said = {term.name: term.weight for term in part.said if term.name in worst}
            silent = sum(term.weight for term in part.terms)
            told = sum(weight * worst[name].loss for name, weight in said.items())
            values.append((silent * value + told) / (silent + sum(said.values())))
        return Measured(scores, values, blocks, WORSE)

    def _rivals(self, scores: Mapping[str, Score], done: Sequence[FrozenTrial]) -> list[Blocks]:
        """What a trial must not fall behind: the best, or the front, but for those that miss constraints by more."""
        if not whole(done):
            return []
        misses = sum(max(0.0, by) for by in self.short(scores, done).values())
        trials = [best_so_far(done)] if len(self.goals) == 1 else front(done)
        return [np.array(trial.user_attrs[BLOCKS]) for trial in trials if lacking(trial) <= misses]

    def _is_lost(self, parts: Sequence[Mapping[str, Score]], done: Sequence[FrozenTrial]) -> bool:
        """Whether a constraint is missed already, even if all answers to come were right."""
        rows = {term.name: len(term.examples) for term in self.search.terms}
        seen = _merged(parts)
        wrong = {name: (1 - score.exact) * score.rows / rows[name] for name, score in seen.items()}
        best = {name: replace(score, exact=1 - wrong[name]) for name, score in seen.items()}
        return any(by > 1e-9 for by in self.short(best, done).values())

    def _given_up(
        self, why: str, scores: dict[str, Score], done: Sequence[FrozenTrial], may_stop: bool = True
    ) -> Measured:
        """What was not measured, or is not finite, is taken to be as bad as the worst that was."""
        if not may_stop:
            check_finite(scores)
        worst = self._worst(done)
        seen = {
            name: score if isfinite(score.loss) else replace(score, loss=worst[name].loss)
            for name, score in scores.items()
        }
        return Measured(seen, self.values(worst | seen), [], why)

    def _worst(self, done: Sequence[FrozenTrial]) -> dict[str, Score]:
        """Of every term that was ever measured."""
        known = [scores_of(trial, SEARCH) for trial in done]
        return {
            name: max((one[name] for one in known if name in one), key=lambda score: score.loss)
            for name in self.search.names
            if any(name in one for one in known)
        }


def finite(scores: Mapping[str, Score]) -> bool:
    """Whether all losses are."""
    return all(isfinite(score.loss) for score in scores.values())


def check_finite(scores: Mapping[str, Score]) -> None:
    """Raises BunchError if a trial that a study cannot do without has diverged."""
    for name, score in scores.items():
        if not isfinite(score.loss):
            raise BunchError(
                f"the first trial of a study, and sources that constraints are held against, must have finite losses, "
                f"but that of {name!r} is {score.loss}; check the sources' weights, or set merge.dtype=float32"
            )


def _merged(parts: Sequence[Mapping[str, Score]]) -> dict[str, Score]:
    """Every term's score on several blocks; a term may be missing from some."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: Score.of([part[name] for part in parts if name in part]) for name in names}

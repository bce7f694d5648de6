"""One trial's evaluation: cheap terms first, block by block, given up as soon as it cannot win."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite
from typing import NamedTuple

import numpy as np

from datagen.errors import BunchError
from optimizer.engines.scoring import ScoringEngine
from optimizer.objective.constraints import Constraint
from optimizer.objective.said import Speak
from optimizer.objective.scores import Score, Scores
from optimizer.objective.terms import Block, Objective
from optimizer.search.history import History
from optimizer.search.racing import first_beating, projected
from optimizer.search.records import BLOCKS, lacking

#: Why a trial is given up.
WORSE, INFEASIBLE, DIVERGED, FAILED = "worse", "infeasible", "diverged", "failed"


class Rival(NamedTuple):
    """A trial that others must not fall behind.

    Attributes:
        blocks: the objectives' values by block.
        lacking: by how much it misses the constraints.
    """

    blocks: Sequence[Sequence[float]]
    lacking: float


@dataclass(frozen=True)
class Standing:
    """What a trial is held against, as plain data: whoever evaluates it may be elsewhere.

    Attributes:
        bounds: constraint -> least share of right answers.
        rivals: those it is given up for.
        may_stop: whether it may be given up.
        may_miss: whether it is measured on though it misses a constraint.
    """

    bounds: Mapping[str, float]
    rivals: Sequence[Rival] = ()
    may_stop: bool = True
    may_miss: bool = False


@dataclass(frozen=True)
class Measured:
    """What a trial came to.

    Attributes:
        scores: of what was seen.
        values: of the objectives; of a trial that fell behind, what those seen would have come to; else nothing.
        blocks: the objectives' values by block.
        given_up: why, or nothing.
    """

    scores: Scores
    values: Sequence[float] = ()
    blocks: Sequence[Sequence[float]] = ()
    given_up: str = ""


@dataclass(frozen=True)
class Measuring:
    """How a study's trials are evaluated.

    Attributes:
        search: the terms.
        goals: objective -> its terms; they share out all terms.
        constraints: what trials must keep.
        threshold: p-value below which a trial is worse than another; 0 for never.
    """

    search: Objective
    goals: Mapping[str, Sequence[str]]
    constraints: Sequence[Constraint]
    threshold: float

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

    def values(self, scores: Scores) -> list[float]:
        """Of the objectives."""
        return [part.loss(scores) for part in self._parts]

    def loss(self, values: Sequence[float]) -> float:
        """The mean of all terms, from the objectives' values."""
        weights = [sum(term.weight for term in part.every) for part in self._parts]
        return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)

    def bounds(self, sources: Mapping[str, Scores]) -> dict[str, float]:
        """Constraint -> least share of right answers.

        Args:
            sources: name -> scores, as far as they are known.
        """
        return {one.name: one.bound(sources) for one in self.constraints}

    def short(self, scores: Scores, bounds: Mapping[str, float]) -> dict[str, float]:
        """Constraint -> by how much it is missed, negative if it is kept, for all terms that were scored."""
        return {one.name: bounds[one.name] - scores[one.term].exact for one in self.constraints if one.term in scores}

    def standing(
        self,
        history: History,
        before: Mapping[str, Scores] | None = None,
        *,
        may_stop: bool = True,
        may_miss: bool = False,
    ) -> Standing:
        """What the next trial is held against.

        Args:
            history: of the study.
            before: scores of sources that an earlier study has measured.
            may_stop: whether it may be given up.
            may_miss: whether it is measured on though it misses a constraint.
        """
        known: list[Rival] = []
        if may_stop and history.best is not None:
            rivals = [history.best] if len(self.goals) == 1 else history.front
            known = [Rival(trial.user_attrs[BLOCKS], lacking(trial)) for trial in rivals]
        return Standing(self.bounds({**(before or {}), **history.sources}), known, may_stop, may_miss)

    def measure(self, engine: ScoringEngine, standing: Standing, speak: Speak | None = None) -> Measured:
        """Evaluates what is applied: by likelihood, then what it says, if it is still in the race.

        Args:
            standing: what it is held against.
            speak: lets it answer; None leaves out what it says.

        Raises:
            EngineDiedError: what lets it answer died again and again.
        """
        held, others = self._phases
        first: list[dict[str, Score]] = []
        for block in held:
            first.append(block.scores(engine))
            if not finite(first[-1]):
                return Measured(_merged(first), given_up=DIVERGED)
            if standing.may_stop and not standing.may_miss and self._is_lost(first, standing.bounds):
                return Measured(_merged(first), given_up=INFEASIBLE)
        # Those that miss the constraints by more are no rivals.
        misses = sum(max(0.0, by) for by in self.short(_merged(first), standing.bounds).values())
        rivals = [np.array(rival.blocks) for rival in standing.rivals if rival.lacking <= misses]
        parts: list[dict[str, Score]] = []
        values: list[list[float]] = []
        for step, block in enumerate(others):
            parts.append((first[step] if first else {}) | (block.scores(engine) if block.picks else {}))
            seen = [*parts, *first[step + 1 :]]
            if not finite(parts[-1]):
                return Measured(_merged(seen), given_up=DIVERGED)
            values.append(self.values(parts[-1]))
            beating = first_beating(np.array(values), rivals, self.threshold) if step + 1 < len(others) else None
            if beating is not None:
                return Measured(_merged(seen), projected(np.array(values), beating), values, WORSE)
        scores = _merged(parts)
        if speak is not None and self.search.said:
            scores |= speak(self.search.said)
            if not finite(scores):
                return Measured(scores, given_up=DIVERGED)
        return Measured(scores, self.values(scores), values)

    def settled(self, measured: Measured, worst: Scores) -> Measured:
        """What a study is told of a trial: what was not measured is taken to be as bad as the worst that was.

        Args:
            measured: as it was evaluated.
            worst: of every term that was ever measured.
        """
        if not measured.given_up:
            return measured
        if measured.given_up == WORSE:
            return replace(measured, values=self._with_silent(measured.values, worst))
        seen = {
            name: score if isfinite(score.loss) else replace(score, loss=worst[name].loss)
            for name, score in measured.scores.items()
        }
        return Measured(seen, self.values({**worst, **seen}), [], measured.given_up)

    def _with_silent(self, values: Sequence[float], worst: Scores) -> Sequence[float]:
        """Values of a trial that fell behind, with what it would have said."""
        if not self.search.said:
            return values
        found = []
        for part, value in zip(self._parts, values, strict=True):
            said = {term.name: term.weight for term in part.said if term.name in worst}
            silent = sum(term.weight for term in part.terms)
            told = sum(weight * worst[name].loss for name, weight in said.items())
            found.append((silent * value + told) / (silent + sum(said.values())))
        return found

    def _is_lost(self, parts: Sequence[Scores], bounds: Mapping[str, float]) -> bool:
        """Whether a constraint is missed already, even if all answers to come were right."""
        rows = {term.name: len(term.examples) for term in self.search.terms}
        seen = _merged(parts)
        wrong = {name: (1 - score.exact) * score.rows / rows[name] for name, score in seen.items()}
        best = {name: replace(score, exact=1 - wrong[name]) for name, score in seen.items()}
        return any(by > 1e-9 for by in self.short(best, bounds).values())


def finite(scores: Scores) -> bool:
    """Whether all losses are."""
    return all(isfinite(score.loss) for score in scores.values())


def check_finite(scores: Scores) -> None:
    """Raises BunchError if a trial that a study cannot do without has diverged."""
    for name, score in scores.items():
        if not isfinite(score.loss):
            raise BunchError(
                f"the first trial of a study, and sources that constraints are held against, must have finite losses, "
                f"but that of {name!r} is {score.loss}; check the sources' weights, or set merge.dtype=float32"
            )


def _merged(parts: Sequence[Scores]) -> dict[str, Score]:
    """Every term's score on several blocks; a term may be missing from some."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: Score.of([part[name] for part in parts if name in part]) for name in names}

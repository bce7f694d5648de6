"""One trial's evaluation: cheap terms first, block by block, given up as soon as it cannot win."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from optuna.trial import FrozenTrial, Trial

from optimizer.engines.scoring import ScoringEngine
from optimizer.objective.constraints import Constraint
from optimizer.objective.terms import Block, Objective, Score
from optimizer.search.racing import Blocks, first_beating, projected
from optimizer.search.records import BLOCKS, SEARCH, by_source, scores_of, whole
from optimizer.search.winners import best_so_far, front

#: Why a trial is given up.
WORSE, INFEASIBLE = "worse", "infeasible"


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
        """Blocks of the terms that constraints are about, and of the others."""
        held = {one.term for one in self.constraints}
        return (
            [block.only(held) for block in self.search.blocks],
            [block.only({term.name for term in self.search.terms} - held) for block in self.search.blocks],
        )

    def values(self, scores: Mapping[str, Score]) -> list[float]:
        """Of the objectives."""
        return [part.loss(scores) for part in self._parts]

    def loss(self, values: Sequence[float]) -> float:
        """The mean of all terms, from the objectives' values."""
        weights = [sum(term.weight for term in part.terms) for part in self._parts]
        return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)

    def bounds(self, sources: Mapping[str, Mapping[str, Score]]) -> dict[str, float]:
        """Constraint -> the least share of right answers on the search split.

        Args:
            sources: name -> scores.
        """
        return {one.name: one.bound(sources) for one in self.constraints}

    def measure(self, trial: Trial, engine: ScoringEngine, done: Sequence[FrozenTrial], *, may_stop: bool) -> Measured:
        """Evaluates what is applied.

        Args:
            trial: told the losses block by block, if there is one objective.
            done: finished trials.
            may_stop: whether the trial may be given up.
        """
        held, others = self._phases
        before: list[dict[str, Score]] = []
        if held[0].picks:
            bounds = self.bounds(by_source(done, SEARCH)) if may_stop else {}
            for block in held:
                before.append(block.scores(engine))
                if may_stop and self._is_lost(before, bounds):
                    return self._infeasible(_merged(before), done)
        parts: list[dict[str, Score]] = []
        values: list[list[float]] = []
        rivals = self._rivals(done) if may_stop else []
        for step, block in enumerate(others):
            parts.append((before[step] if before else {}) | (block.scores(engine) if block.picks else {}))
            values.append(self.values(parts[-1]))
            if len(self.goals) == 1:
                trial.report(values[-1][0], step)
            if may_stop and step + 1 < len(others) and (by := self._beaten(trial, values, rivals)) is not None:
                return Measured(_merged([*parts, *before[step + 1 :]]), projected(np.array(values), by), values, WORSE)
        scores = _merged(parts)
        return Measured(scores, self.values(scores), values)

    def _rivals(self, done: Sequence[FrozenTrial]) -> list[Blocks]:
        if not whole(done):
            return []
        trials = [best_so_far(done)] if len(self.goals) == 1 else front(done)
        return [np.array(trial.user_attrs[BLOCKS]) for trial in trials]

    def _beaten(self, trial: Trial, values: Sequence[Sequence[float]], rivals: Sequence[Blocks]) -> Blocks | None:
        """Blocks of the trial that this one is beaten by."""
        if len(self.goals) > 1:
            return first_beating(np.array(values), rivals, self.threshold)
        return rivals[0] if rivals and trial.should_prune() else None

    def _is_lost(self, parts: Sequence[Mapping[str, Score]], bounds: Mapping[str, float]) -> bool:
        """Whether a constraint is missed already, even if all answers to come were right."""
        rows = {term.name: len(term.examples) for term in self.search.terms}
        return any(
            sum((1 - part[one.term].exact) * part[one.term].rows for part in parts)
            > (1 - bounds[one.name]) * rows[one.term] + 1e-9
            for one in self.constraints
        )

    def _infeasible(self, scores: dict[str, Score], done: Sequence[FrozenTrial]) -> Measured:
        """What was not measured is taken to be as bad as the worst that was."""
        known = [scores_of(trial, SEARCH) for trial in done]
        worst = {
            term.name: max((one[term.name] for one in known if term.name in one), key=lambda score: score.loss)
            for term in self.search.terms
        }
        return Measured(scores, self.values(worst | scores), [], INFEASIBLE)


def _merged(parts: Sequence[Mapping[str, Score]]) -> dict[str, Score]:
    """Every term's score on several blocks; a term may be missing from some."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: Score.of([part[name] for part in parts if name in part]) for name in names}

"""What evaluates a study's trials: one engine, wherever it runs. All that goes in and comes out is plain data."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from datagen.errors import EngineDiedError
from optimizer.engines.scoring import ScoringEngine
from optimizer.merging.space import Coefficients
from optimizer.objective.said import Speak, Spoken
from optimizer.objective.scores import Scores
from optimizer.search.descent import DescentState
from optimizer.search.domain import Point
from optimizer.search.measuring import FAILED, Measured, Standing, finite
from optimizer.search.problem import Problem
from optimizer.search.sampler import Stretch


class Speaker(Protocol):
    """Lets any merge speak, and scores what it says."""

    def __call__(self, point: Point, terms: Sequence[Spoken]) -> Scores:
        """Scores by term.

        Args:
            point: the merge.
            terms: with the rows or the task of each.

        Raises:
            EngineDiedError: what answers died of it, however often it was started again.
        """


@dataclass(frozen=True)
class Evaluated:
    """What became of a trial.

    Attributes:
        measured: on the search split.
        checks: scores on the validation split; none of a trial that was given up.
        seconds: that it took.
        words: the last of an engine that died of it.
    """

    measured: Measured
    checks: Scores
    seconds: float
    words: str = ""


@dataclass(frozen=True)
class Evaluator:
    """Merges, descends and scores for one study.

    Attributes:
        engine: that trials are merged and scored in.
        problem: what they are judged by.
        speaker: lets merges answer; needed where a term looks at what they say.
    """

    engine: ScoringEngine
    problem: Problem
    speaker: Speaker | None = None

    def advance(self, stretch: Stretch) -> DescentState:
        """Runs some steps of a descent."""
        search = self.problem.search

        def gradient(
            point: Coefficients, picks: Sequence[int], multipliers: Sequence[float]
        ) -> tuple[Coefficients, list[bool]]:
            return self.engine.gradient(point, *search.step_batch(picks, multipliers))

        return stretch.run(gradient)

    def evaluate(self, point: Point, standing: Standing) -> Evaluated:
        """Merges in place and measures.

        Args:
            standing: what the trial is held against.
        """
        begun = time.monotonic()
        try:
            measured, checks = self._measured(point, standing)
        except EngineDiedError as error:
            return Evaluated(Measured({}, given_up=FAILED), {}, time.monotonic() - begun, str(error))
        return Evaluated(measured, checks, time.monotonic() - begun)

    def answered(self, point: Point) -> Scores | str:
        """Scores of what a merge says to the validation rows, or the last words of an engine that died of it."""
        try:
            return self._speaking(point)(self.problem.validation.said)
        except EngineDiedError as error:
            return str(error)

    def _measured(self, point: Point, standing: Standing) -> tuple[Measured, Scores]:
        self.engine.apply(point.coefficients, point.settings)
        said = self.problem.search.said and self.problem.config.answers.when == "trial"
        speak = self._speaking(point) if said else None
        measured = self.problem.measuring.measure(self.engine, standing, speak)
        if measured.given_up:
            return measured, {}
        checks = self.problem.validation.scores(self.engine)
        if speak and finite(checks):
            checks |= speak(self.problem.validation.said)
        return measured, checks

    def _speaking(self, point: Point) -> Speak:
        """What lets a merge answer."""
        if self.speaker is None:
            raise ValueError("a study with terms on what merges say must be run with a speaker, but has none")
        return partial(self.speaker, point)

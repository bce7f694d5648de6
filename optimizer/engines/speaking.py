"""Merges that speak within a search: an engine answers, judges are asked, and either is started again when it dies."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Self

from datagen.config import EngineConfig
from datagen.engines.base import Engine
from datagen.engines.process import EngineProcess, asked_again
from datagen.engines.vllm import same_shape
from datagen.rows import Row
from optimizer.bunch import Bunch
from optimizer.config import Config
from optimizer.engines.generating import use_merge
from optimizer.evaluation import Contestant, answers_of, verdicts_on
from optimizer.merging.space import Space
from optimizer.objective.answer_terms import AnswerTerm
from optimizer.objective.answers import ANSWER_METRICS, Rules, Verdict
from optimizer.registry import Named
from optimizer.search.domain import Point


class VllmSpeaker:
    """Lets merges of a bunch answer in vLLM, which is started when first asked; use it as a context manager.

    Judges of the bunch's own shape are swapped in place; others have an engine of their own beside it.

    Args:
        config: of the run.
        bunch: the sources.
        space: the coefficients.
    """

    def __init__(self, config: Config, bunch: Bunch, space: Space) -> None:
        self._config, self._bunch, self._space = config, bunch, space
        self._rules = Rules.of(config.data)
        tokenizers = config.bunch.tokenizers()
        self._stack = ExitStack()
        self.engine = self._stack.enter_context(EngineProcess(config.engine, tokenizers))
        asked = {ANSWER_METRICS[term.metric].asks for term in config.objective.values() if term.is_said}
        judges = {judge.model for question, judge in self._rules.judges.items() if question in asked}
        alike = all(same_shape(bunch.chat_source.reference, judge, tokenizers) for judge in judges)
        self._judging: Engine = (
            self.engine if alike else self._stack.enter_context(EngineProcess(_beside(config.engine), tokenizers))
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(
        self, point: Point, terms: Sequence[AnswerTerm], rows: Mapping[str, Sequence[Row]]
    ) -> dict[str, list[Verdict]]:
        """What is made of a merge's answers.

        Args:
            point: the merge.
            terms: on kinds of the rows.
            rows: kind -> rows.

        Raises:
            EngineDiedError: an engine died three times.
        """
        merge = Contestant("merge", "winner", point.coefficients, point.settings)

        def use(_: Named) -> None:
            use_merge(self.engine, self._config, self._bunch, self._space, point.coefficients, point.settings)

        def verdicts() -> dict[str, list[Verdict]]:
            limit = self._config.data.max_answer_tokens
            answers = answers_of(self.engine, use, [merge], rows, limit, lambda _: None)
            return verdicts_on(self._judging, terms, rows, answers, self._rules)[merge.name]

        return asked_again(verdicts)


def _beside(settings: EngineConfig) -> EngineConfig:
    """How an engine for judges is started."""
    return settings.model_copy(update={"memory": settings.judges})

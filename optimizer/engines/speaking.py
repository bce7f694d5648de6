"""Merges that speak within a search: an engine answers, judges are asked, and either is started again when it dies."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

from datagen.config import EngineConfig
from datagen.engines.base import Engine
from datagen.engines.process import EngineProcess, asked_again
from datagen.engines.vllm import same_shape
from optimizer.bunch import Bunch
from optimizer.config import Config
from optimizer.engines.generating import use_merge
from optimizer.evaluation import Contestant, answers_of, verdicts_on
from optimizer.merging.space import Space
from optimizer.objective.answers import ANSWER_METRICS, Rules
from optimizer.objective.said import SaidTerm, Spoken, said_rows, said_scores
from optimizer.objective.scores import Score
from optimizer.objective.task_terms import TaskTerm, ask_tasks
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
        asked = {
            ANSWER_METRICS[term.metric].asks for term in config.objective.values() if term.is_said and not term.task
        }
        judges = {judge.model for question, judge in self._rules.judges.items() if question in asked}
        alike = all(same_shape(bunch.chat_source.reference, judge, tokenizers) for judge in judges)
        self._judging: Engine = (
            self.engine if alike else self._stack.enter_context(EngineProcess(_beside(config.engine), tokenizers))
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, point: Point, terms: Sequence[Spoken]) -> dict[str, Score]:
        """What is made of all that a merge says.

        Args:
            point: the merge.
            terms: with the rows or the task of each.

        Raises:
            EngineDiedError: an engine died three times.
        """
        said = [term for term in terms if isinstance(term, SaidTerm)]
        tasks = [term for term in terms if isinstance(term, TaskTerm)]
        rows = said_rows(said)
        merge = Contestant("merge", "winner", point.coefficients, point.settings)

        def use(_: Named) -> None:
            use_merge(self.engine, self._config, self._bunch, self._space, point.coefficients, point.settings)

        def scores() -> dict[str, Score]:
            limit = self._config.data.max_answer_tokens
            answers = answers_of(self.engine, use, [merge], rows, limit, lambda _: None)
            found = ask_tasks(tasks, self.engine)  # judges may take the merge's place afterwards
            verdicts = verdicts_on(self._judging, [term.asked for term in said], rows, answers, self._rules)
            return said_scores(said, verdicts[merge.name]) | {term.name: term.score(found[term.name]) for term in tasks}

        return asked_again(scores)


def _beside(settings: EngineConfig) -> EngineConfig:
    """How an engine for judges is started."""
    return settings.model_copy(update={"memory": settings.judges})

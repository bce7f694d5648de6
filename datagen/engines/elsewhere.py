"""Engines that run elsewhere: every question is passed on as it is."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from datagen.chat import Message
from datagen.engines.base import Candidates, Engine


class EngineElsewhere(Engine):
    """An engine whose questions are answered by one in another process."""

    @abstractmethod
    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        """What a method of the engine there gives.

        Raises:
            EngineDiedError: the process of the other died.
        """

    def write(  # noqa: D102
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> list[str]:
        said: list[str] = self._ask(
            "write", conversations, max_tokens=max_tokens, temperature=temperature, seeds=seeds, schema=schema
        )
        return said

    def first_tokens(self, conversations: Sequence[Sequence[Message]], tokens: int) -> list[list[Candidates]]:  # noqa: D102
        heard: list[list[Candidates]] = self._ask("first_tokens", conversations, tokens)
        return heard

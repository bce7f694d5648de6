"""An engine that says what it is told to, for tests of what is done with it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from datagen.chat import Message
from datagen.engines.base import Candidates, Engine

Conversation = Sequence[Message]


class Scripted(Engine):
    """Repeats the last turn, and leans to `yes`, unless told otherwise.

    Args:
        say: model and conversation -> its answer.
        hear: model and conversation -> the likeliest tokens at each position of its answer.

    Attributes:
        asked: conversations, call by call.
        settings: what else was said, call by call.
    """

    def __init__(
        self,
        say: Callable[[str, Conversation], str] = lambda model, asked: asked[-1]["content"],
        hear: Callable[[str, Conversation], list[Candidates]] = lambda model, asked: [[("yes", -0.1), ("no", -3.0)]],
    ) -> None:
        self.say, self.hear = say, hear
        self.asked: list[list[Conversation]] = []
        self.settings: list[dict[str, Any]] = []
        self.model = ""

    @property
    def last_turns(self) -> list[list[str]]:
        """Of all conversations, call by call."""
        return [[asked[-1]["content"] for asked in call] for call in self.asked]

    def check(self, models: Iterable[str]) -> None:
        pass

    def identity(self, model: str) -> str:
        return f"that of {model}"

    def use(self, model: str) -> None:
        self.model = model

    def write(
        self,
        conversations: Sequence[Conversation],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> list[str]:
        self.asked.append(list(conversations))
        self.settings.append({"max_tokens": max_tokens, "temperature": temperature, "seeds": seeds, "schema": schema})
        return [self.say(self.model, asked) for asked in conversations]

    def first_tokens(self, conversations: Sequence[Conversation], tokens: int) -> list[list[Candidates]]:
        self.asked.append(list(conversations))
        self.settings.append({"tokens": tokens})
        return [self.hear(self.model, asked) for asked in conversations]

    def close(self) -> None:
        self.model = ""

"""The unit of data: one question with the answer to learn, and where both came from."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from datagen.chat import Message, user
from datagen.errors import DataError
from datagen.files import write_text
from datagen.reading import UnfitError, parse_json


class Row(BaseModel):
    """One line of a JSONL file.

    Attributes:
        id: hash of the kind and all that the user said: the same question has the same id wherever it turns up.
        messages: the user's turn and the assistant's; more turns are allowed, the last is the assistant's.
        kind: what a right answer is: a refusal (`unsafe`), an answer (`borderline`), or a domain's name.
        topic: what the question was asked about.
        model: who wrote the answer.
        split: `search`, `validation` or `test`.
        provenance: whatever else is known: who wrote the question, seeds, verdicts.
        alternatives: other answers to the same question, never to be learnt: compliant ones to an unsafe question,
            refusals of a borderline one, the wrong options of a multiple choice. A line without any has no such key.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    messages: list[Message]
    kind: str
    topic: str = ""
    model: str = ""
    split: str = ""
    provenance: dict[str, Any] = {}
    alternatives: list[str] = Field([], exclude_if=lambda found: not found)

    @field_validator("messages")
    @classmethod
    def _ends_with_an_answer(cls, messages: list[Message]) -> list[Message]:
        roles = [message["role"] for message in messages[-2:]]
        if roles != ["user", "assistant"]:
            raise ValueError(f"messages must end with a user's turn and an assistant's, but end with {roles}")
        return messages

    @classmethod
    def of(cls, question: str, answer: str, *, kind: str, context: Sequence[Message] = (), **rest: Any) -> Self:
        """A row of one question and one answer, with its id.

        Args:
            context: turns before the question.
        """
        told = [*context, *user(question)]
        messages = [*told, Message(role="assistant", content=answer)]
        return cls(id=row_id(kind, users_words(told)), messages=messages, kind=kind, **rest)

    @property
    def question(self) -> str:
        """The last user turn."""
        return self.messages[-2]["content"]

    @property
    def asked(self) -> str:
        """All that the user said."""
        return users_words(self.messages)

    @property
    def answer(self) -> str:
        """The assistant's last turn."""
        return self.messages[-1]["content"]


def users_words(messages: Iterable[Message]) -> str:
    """All that the user said in a conversation."""
    return "\n".join(message["content"] for message in messages if message["role"] == "user")


def row_id(kind: str, asked: str) -> str:
    """An id that depends on the kind and on what was asked alone."""
    return hashlib.sha256(f"{kind}\n{normalised(asked)}".encode()).hexdigest()[:16]


def normalised(text: str) -> str:
    """Case and white space folded: two texts that differ in nothing else are duplicates."""
    return " ".join(text.lower().split())


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes a JSONL file whole or not at all."""
    write_text(path, "".join(row.model_dump_json() + "\n" for row in rows))


def read_rows(path: Path) -> list[Row]:
    """Reads a JSONL file.

    Raises:
        DataError: the file is missing, or a line is not a row; the message names the line.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such data file; run `goodbunch datagen` with the same config first")
    with path.open("rb") as file:
        return [_read(line, f"{path}:{number}") for number, line in enumerate(file, 1)]


def _read(line: bytes, where: str) -> Row:
    try:
        return Row.model_validate(parse_json(line))
    except UnfitError as error:
        raise DataError(f"{where}: a line must be one JSON object: it {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{where}: a row must have id, messages and kind: {place}: {first['msg']}") from error

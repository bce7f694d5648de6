"""What passes between the stages; each stage adds to what the last one knew."""

from collections.abc import Sequence
from typing import Any, Self

from datagen.chat import Message, user
from datagen.frozen import Frozen
from datagen.rows import row_id, users_words


class Question(Frozen):
    """A question, and who wrote it how.

    Attributes:
        attributes: what it was to differ in from others, by name.
        context: the turns before it; none if it opens the conversation.
        writer: the model's name, or `import:` and the file's.
        prompt_hash: hash of what the writer was told.
        seed: of its drawing.
    """

    id: str
    kind: str
    topic: str
    attributes: dict[str, str] = {}
    context: list[Message] = []
    question: str
    writer: str
    prompt_hash: str = ""
    seed: int = 0

    @classmethod
    def of(cls, kind: str, text: str, *, context: Sequence[Message] = (), **rest: Any) -> Self:
        """A question with its id."""
        told = [*context, *user(text)]
        return cls(id=row_id(kind, users_words(told)), kind=kind, question=text, context=list(context), **rest)

    @property
    def conversation(self) -> list[Message]:
        """What a model is asked."""
        return [*self.context, *user(self.question)]

    @property
    def asked(self) -> str:
        """All that the user said."""
        return users_words(self.conversation)


class Answered(Question):
    """A question with every asked model's answer.

    Attributes:
        alternatives: answers that were given as wrong ones; no model's.
    """

    answers: dict[str, str]
    alternatives: list[str] = []

    def exchange(self, name: str) -> list[Message]:
        """The conversation with one model's answer."""
        return [*self.conversation, Message(role="assistant", content=self.answers[name])]


class Judged(Answered):
    """An answered question with what the judges think of each answer; none where they gave no verdict.

    Attributes:
        unsafe: probability that the exchange is unsafe, by the guard.
        refused: probability that the answer is a refusal, where a model is asked for it.
    """

    unsafe: dict[str, float | None] = {}
    refused: dict[str, float | None] = {}

"""What every engine does, and which one a config asks for."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from datagen.config import EngineConfig
from datagen.errors import DataError

if TYPE_CHECKING:
    from datagen.chat import Message

#: How many of the likeliest tokens are looked at for a verdict, and how many tokens may come before it.
VERDICT_CANDIDATES, VERDICT_WITHIN = 20, 4

#: How many tokens are looked at where the verdict stands after other words.
VERDICT_AFTER = 48

#: The likeliest tokens at one position of an answer: text, log-probability.
Candidates = Sequence[tuple[str, float]]


class Engine(ABC):
    """Generates with one model at a time; use it as a context manager."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def check(self, models: Iterable[str]) -> None:
        """Makes sure, before any work, that every one of the models can be used; no weights are read.

        Args:
            models: as `use` takes them.

        Raises:
            GoodbunchError: one of them cannot.
        """

    @abstractmethod
    def identity(self, model: str) -> str:
        """What tells a model from another, and where it is known also from its own earlier state."""

    @abstractmethod
    def use(self, model: str) -> None:
        """Makes a model the one that answers.

        Args:
            model: a folder, a Hugging Face name, or `MODEL+ADAPTER`.

        Raises:
            BunchError: it is missing, damaged, or has no chat template.
            EngineError: the engine cannot be reached, or does not have it.
        """

    @abstractmethod
    def write(
        self,
        conversations: Sequence[Sequence["Message"]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Answers every conversation.

        Args:
            conversations: each ends with a user turn.
            max_tokens: longest answer.
            temperature: 0 is greedy.
            seeds: one per conversation; the same seed gives the same answer, whatever else is asked beside it. No two
                engines draw alike.
            schema: JSON schema that every answer must follow.

        Returns:
            One text per conversation, in order.

        Raises:
            DataError: a prompt and its answer do not fit the model.
            EngineError: a server gave no answer, however often it was asked.
        """

    @abstractmethod
    def first_tokens(self, conversations: Sequence[Sequence["Message"]], tokens: int) -> list[list[Candidates]]:
        """The likeliest candidates for each of the first tokens of every greedy answer.

        Args:
            tokens: how many positions are looked at.

        Returns:
            Per conversation and position, at least `VERDICT_CANDIDATES` candidates where there are so many.
        """

    @abstractmethod
    def close(self) -> None:
        """Gives back what the engine holds; may be called twice."""

    def probability(
        self, conversations: Sequence[Sequence["Message"]], word: str, other: str, after: str = ""
    ) -> list[float | None]:
        """How likely each answer begins with `word` rather than with `other`.

        Read off the first token that could begin either, since some guards open with white space.

        Args:
            after: what the answer says before the verdict, such as `Response refusal:`; by default nothing.

        Returns:
            P(word) / (P(word) + P(other)) per conversation; none where the answer says neither there.
        """
        odds: list[float | None] = [None] * len(conversations)
        for tokens in (VERDICT_AFTER,) if after else (1, VERDICT_WITHIN):
            # Most guards say the word at once; only those that do not are asked for more.
            silent = [i for i, found in enumerate(odds) if found is None]
            if not silent:
                break
            positions = self.first_tokens([conversations[i] for i in silent], tokens)
            for i, candidates in zip(silent, positions, strict=True):
                odds[i] = verdict(_following(candidates, after), word, other)
        return odds


def open_engine(config: EngineConfig, tokenizers: Mapping[str, str] | None = None) -> Engine:
    """The engine that a config asks for; nothing is started or reached before it is used.

    Args:
        tokenizers: model -> the one whose tokenizer and chat template it is asked with; by default its own. A server
            has its own mind about this.
    """
    if config.kind == "server":
        from datagen.engines.server import ServerEngine

        return ServerEngine(config)
    if config.kind == "transformers":
        from datagen.engines.transformers_engine import TransformersEngine

        return TransformersEngine(config, tokenizers)
    from datagen.engines.vllm import VllmEngine

    return VllmEngine(config, tokenizers)


def verdict(positions: Iterable[Candidates], word: str, other: str) -> float | None:
    """How likely `word` is rather than `other` where an answer could first begin either; none if nowhere."""
    for candidates in positions:
        weight = {word: 0.0, other: 0.0}
        for said, log_probability in candidates:
            text = said.strip()
            for choice in (word, other):
                if text and choice.startswith(text):
                    weight[choice] += math.exp(log_probability)
        total = sum(weight.values())
        if total > 0.5:
            return weight[word] / total
    return None


def _following(positions: Sequence[Candidates], text: str) -> Sequence[Candidates]:
    """The positions after a text in the answer, few of them; none if it does not say so."""
    if not text:
        return positions
    said = ""
    for i, candidates in enumerate(positions, 1):
        said += max(candidates, key=lambda candidate: candidate[1], default=("", 0.0))[0]
        if said.rstrip().endswith(text):
            return positions[i : i + VERDICT_WITHIN]
    return []


def check_fit(needed: int, limit: int) -> None:
    """Refuses what would be cut short.

    Args:
        needed: tokens of the longest prompt and its answer.
        limit: of the model.

    Raises:
        DataError: they do not fit.
    """
    if needed > limit:
        raise DataError(
            f"prompt and answer must fit max_model_len, but need {needed} of {limit} tokens; "
            f"raise engine.max_model_len (of a server, its --max-model-len) or lower data.max_answer_tokens"
        )

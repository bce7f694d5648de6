"""Asking a model for one of two words: guards, refusal judges and self-checks alike."""

from collections.abc import Mapping, Sequence

from datagen.chat import Message, user
from datagen.data_config import VerdictConfig
from datagen.journal import Journal
from datagen.prompts import fill


def verdicts(
    journal: Journal,
    name: str,
    asked: VerdictConfig,
    exchanges: Sequence[Sequence[Message]],
    values: Sequence[Mapping[str, str]] | None = None,
) -> list[float | None]:
    """The probability of `asked.word` for every exchange; none where the model says neither word.

    Args:
        name: of the journal's file.
        exchanges: conversations; without a prompt they end with the answer that is judged.
        values: what fills the prompt's placeholders, one mapping per exchange.
    """
    conversations = asked_about(asked, exchanges, values)
    return journal.probability(name, asked.model, conversations, asked.word, asked.other, asked.after.strip())


def asked_about(
    asked: VerdictConfig, exchanges: Sequence[Sequence[Message]], values: Sequence[Mapping[str, str]] | None = None
) -> Sequence[Sequence[Message]]:
    """What a model is shown of every exchange; see `verdicts`."""
    if not asked.prompt:
        return exchanges
    filled = values or [{"question": _told(some[:-1]), "answer": some[-1]["content"]} for some in exchanges]
    return [user(fill(asked.prompt, one)) for one in filled]


def _told(turns: Sequence[Message]) -> str:
    """What an answer followed: the question, or all turns by who said them."""
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)

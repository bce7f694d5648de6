"""Chat templates to token ids, in the one way shared by training, generation and scoring."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from typing_extensions import TypedDict

from datagen.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


#: What a template may raise, by itself or by what is missing from a conversation.
_OBJECTIONS = (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class Message(TypedDict):
    """One turn of a conversation, as chat templates read it."""

    role: str
    content: str


def user(content: str) -> list[Message]:
    """A conversation of one user turn."""
    return [Message(role="user", content=content)]


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation up to where the model's answer begins."""
    return list(_ids(tokenizer, list(messages), add_generation_prompt=True))


def all_prompt_ids(tokenizer: "PreTrainedTokenizerBase", conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
    """`prompt_ids` of many conversations, which a fast tokenizer encodes side by side."""
    if not conversations:
        return []
    told = [list(messages) for messages in conversations]
    return list(_ids(tokenizer, told, add_generation_prompt=True))


def answer_ids(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """Splits a finished conversation into the ids it is prompted with and the ids of its last turn.

    Args:
        messages: ends with the assistant's turn.

    Returns:
        Prompt ids and answer ids; the answer includes whatever the template closes a turn with.

    Raises:
        DataError: the template rewrites earlier turns once the answer is known, so no answer span exists.
    """
    prompt = prompt_ids(tokenizer, messages[:-1])
    whole = list(_ids(tokenizer, list(messages)))
    if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
        raise DataError(
            f"a chat template must render the prompt as a prefix of the whole conversation, but that of "
            f"{tokenizer.name_or_path} does not for {messages[-1]['content'][:40]!r}; give it one that does"
        )
    return prompt, whole[len(prompt) :]


def _ids(tokenizer: "PreTrainedTokenizerBase", messages: list[Any], **options: bool) -> Any:
    """What a template makes of one conversation, or of several; transformers renders it in jinja2's sandbox.

    Raises:
        DataError: the template will not have it.
    """
    try:
        return tokenizer.apply_chat_template(messages, return_dict=False, **options)
    except _OBJECTIONS as error:
        raise DataError(
            f"a chat template must take every conversation, but that of {tokenizer.name_or_path} says "
            f"{' '.join(str(error).split())[:200]!r}; give it another template, or leave such turns out"
        ) from error

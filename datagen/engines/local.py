"""What engines share that open a model's files themselves."""

from collections.abc import Iterable, Sequence

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from datagen.chat import Message, prompt_ids
from datagen.checkpoints import Weights, fingerprint, open_weights
from datagen.engines.base import Engine, check_fit
from datagen.errors import BunchError


class LocalEngine(Engine):
    """An engine that reads its models from files."""

    def check(self, models: Iterable[str]) -> None:  # noqa: D102
        for model in models:
            open_chat(model)

    def identity(self, model: str) -> str:  # noqa: D102
        return fingerprint(model)


def open_chat(model: str) -> tuple[Weights, PreTrainedTokenizerBase]:
    """A model that can be asked, and its tokenizer; no tensor is read.

    Raises:
        BunchError: it is missing, damaged, or has no chat template.
    """
    weights = open_weights(model)
    tokenizer = AutoTokenizer.from_pretrained(weights.tokenizer_folder)
    if not tokenizer.chat_template:
        raise BunchError(f"{model}: a model must have a chat template to be asked; add chat_template.jinja to it")
    return weights, tokenizer


def fitting_prompts(
    tokenizer: PreTrainedTokenizerBase | None, conversations: Sequence[Sequence[Message]], max_tokens: int, limit: int
) -> list[list[int]]:
    """Token ids of every conversation up to where its answer begins.

    Args:
        tokenizer: none before a model is in use.
        max_tokens: longest answer.
        limit: tokens of prompt and answer together.

    Raises:
        DataError: one of them is too long.
    """
    if tokenizer is None:
        raise RuntimeError("`use` must be called before anything is generated")
    prompts = [prompt_ids(tokenizer, messages) for messages in conversations]
    check_fit(max(map(len, prompts), default=0) + max_tokens, limit)
    return prompts

"""What engines share that open a model's files themselves."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from datagen.chat import Message, all_prompt_ids
from datagen.checkpoints import TOKENIZERS, Weights, hash_of_blocks, open_weights
from datagen.config import EngineConfig
from datagen.engines.base import Engine, check_fit
from datagen.errors import BunchError

#: Files besides the weights that decide what a model says: of its folder, and of its tokenizer's.
_SETTINGS = ("config.json", "generation_config.json")
_SPEECH = ("tokenizer_config.json", "chat_template.jinja", "added_tokens.json", "special_tokens_map.json")


class LocalEngine(Engine):
    """An engine that reads its models from files.

    Args:
        settings: how it is started.
        tokenizers: model -> the one whose tokenizer and chat template it is asked with; by default its own.
    """

    def __init__(self, settings: EngineConfig, tokenizers: Mapping[str, str] | None = None) -> None:
        self._settings = settings
        self._tokenizers = tokenizers or {}

    def check(self, models: Iterable[str]) -> None:  # noqa: D102
        for model in models:
            self._open(model)

    def identity(self, model: str) -> str:  # noqa: D102
        weights = open_weights(model)
        speaker = open_weights(self._tokenizers.get(model, model))
        deciding = [weights.folder / name for name in _SETTINGS]
        deciding += [speaker.tokenizer_folder / name for name in (*TOKENIZERS, *_SPEECH)]
        return f"{weights.fingerprint()}-{hash_of_blocks(path for path in deciding if path.is_file())}"

    def _open(self, model: str) -> tuple[Weights, PreTrainedTokenizerBase]:
        return open_chat(model, self._tokenizers.get(model, model))


class LoadingEngine(LocalEngine):
    """An engine whose weights may be any that fit the model in use."""

    @abstractmethod
    def prepare(self, model: str) -> None:
        """Makes ready to answer as a model, with its tokenizer; the weights stay what they are until some are loaded.

        Args:
            model: as `use` takes it. Its files are not looked at again while it stays in use.
        """

    @abstractmethod
    def load(self, function: Callable[..., Iterator[tuple[str, torch.Tensor]]], *arguments: Any) -> None:
        """Replaces the weights by what a function yields where they are used.

        Args:
            function: of a module's top level; yields every tensor's Hugging Face name and the tensor.
            arguments: plain values.

        Raises:
            EngineError: the engine cannot take all of them, or has no memory for them.
        """


def open_chat(model: str, speaking: str = "") -> tuple[Weights, PreTrainedTokenizerBase]:
    """A model that can be asked, and its tokenizer; no tensor is read.

    Args:
        speaking: the model whose tokenizer it is asked with; by default its own.

    Raises:
        BunchError: it is missing, damaged, or has no chat template.
    """
    weights = open_weights(model)
    speaker = weights if speaking in ("", model) else open_weights(speaking)
    tokenizer = AutoTokenizer.from_pretrained(speaker.tokenizer_folder)
    if not tokenizer.chat_template:
        raise BunchError(
            f"{speaking or model}: a model must have a chat template to be asked, but has none; add "
            f"chat_template.jinja to it, or name a source that has one by bunch.tokenizer"
        )
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
    prompts = all_prompt_ids(tokenizer, conversations)
    check_fit(max(map(len, prompts), default=0) + max_tokens, limit)
    return prompts

"""What engines share that open a model's files themselves."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from datagen.chat import Message, all_prompt_ids
from datagen.config import EngineConfig
from datagen.engines.base import Engine, check_fit
from datagen.errors import BunchError
from datagen.models.loading import open_tokenizer
from datagen.models.opening import open_weights
from datagen.models.references import TOKENIZERS
from datagen.models.tensor_files import hash_of_blocks
from datagen.models.weights import Weights

#: Files besides the weights that decide what a model says: of its folder, and of its tokenizer's.
_SETTINGS = ("config.json", "generation_config.json")
_SPEECH = ("tokenizer_config.json", "chat_template.jinja", "added_tokens.json", "special_tokens_map.json")


class Likelihood(NamedTuple):
    """How likely a model finds a continuation.

    Attributes:
        log_probability: the sum over its tokens, in nats.
        greedy: whether greedy decoding would say it.
    """

    log_probability: float
    greedy: bool


#: A context and its continuation, each of at least one token.
Pair = tuple[Sequence[int], Sequence[int]]


class LocalEngine(Engine):
    """An engine that reads its models from files, so that it can be asked about token ids too.

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

    @property
    @abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of the model in use.

        Raises:
            RuntimeError: none is.
        """

    @property
    def longest(self) -> int:
        """Tokens of a prompt and what follows it, at most."""
        return self._settings.max_model_len

    @abstractmethod
    def log_likelihoods(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        """How likely the model in use finds each continuation of its context.

        Args:
            pairs: each leaves room for one token more.

        Raises:
            DataError: one of them is too long.
        """

    @abstractmethod
    def continuations(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        stops: Sequence[str] = (),
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
    ) -> list[str]:
        """What the model in use says after each prompt; special tokens are left out.

        Args:
            prompts: token ids, taken as they are.
            max_tokens: longest continuation.
            stops: texts, special tokens among them, that end a continuation where the first of them begins.
            temperature: 0 is greedy.
            seeds: one per prompt.

        Raises:
            DataError: a prompt and its continuation are too long.
        """

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
    tokenizer = open_tokenizer(speaker.tokenizer_folder)
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
    prompts = all_prompt_ids(in_use(tokenizer), conversations)
    check_prompts(prompts, max_tokens, limit)
    return prompts


def check_prompts(prompts: Sequence[Sequence[int]], max_tokens: int, limit: int) -> None:
    """Refuses prompts whose longest would be cut short.

    Args:
        prompts: token ids.
        max_tokens: longest answer.
        limit: tokens of prompt and answer together.

    Raises:
        DataError: one of them is too long.
    """
    check_fit(max(map(len, prompts), default=0) + max_tokens, limit)


def in_use(tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    """The tokenizer of the model in use.

    Raises:
        RuntimeError: none is.
    """
    if tokenizer is None:
        raise RuntimeError("`use` must be called before anything is generated")
    return tokenizer


def said_before(text: str, stops: Sequence[str]) -> str:
    """A text up to where the first of the stops begins."""
    return text[: min((place for stop in stops if stop and (place := text.find(stop)) >= 0), default=len(text))]

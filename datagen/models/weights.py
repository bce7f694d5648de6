"""The tensors of one model, read when asked for, whatever they are made of."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from datagen.models.config import read_config
from datagen.models.tensor_files import Header

#: Model types whose embeddings are tied when config.json does not say.
TIED_UNLESS_SAID = frozenset(
    "biogpt bloom cohere cohere2 cohere2_moe ctrl ernie4_5 falcon falcon_mamba gemma gemma2 gemma3 gemma3_text gemma3n "
    "gemma3n_text gemma4 gemma4_text gpt2 gpt_bigcode gpt_neo gpt_neox_japanese jetmoe lfm2 lfm2_moe mamba mpt "
    "openai-gpt opt recurrent_gemma smollm3 starcoder2 vaultgemma xglm zamba zamba2".split()
)


class Weights(ABC):
    """The tensors of one model, read when asked for.

    Attributes:
        reference: what it was opened by.
        folder: where config.json lies.
        tokenizer_folder: where the tokenizer lies, if there is one.
        files: tensor name -> the file it comes from.
        headers: tensor name -> shape and type, in the order of the files.
    """

    reference: str
    folder: Path
    tokenizer_folder: Path
    files: Mapping[str, Path]
    headers: Mapping[str, Header]

    @abstractmethod
    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of a tensor's first dimension; a tensor of no dimension is given whole.

        Only these rows are read, and their memory is given back when the result is dropped.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash that tells one state of the model from another."""

    def tensor(self, name: str) -> torch.Tensor:
        """One whole tensor; its memory is given back when the result is dropped."""
        return self.rows(name, 0, self.headers[name].shape[0] if self.headers[name].shape else 1)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's config.json.

        Raises:
            BunchError: the file is missing or no JSON.
        """
        return read_config(self.folder)


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether a model's head is its embeddings."""
    said = config.get("tie_word_embeddings")
    return bool(config.get("model_type") in TIED_UNLESS_SAID if said is None else said)


def is_head(name: str) -> bool:
    """Whether a tensor is the output head."""
    return name.endswith(("lm_head.weight", "embed_out.weight"))


def is_embeddings(name: str) -> bool:
    """Whether a tensor is the input embeddings."""
    return name.endswith(("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight"))

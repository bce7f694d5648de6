"""One model of a merge, opened lazily."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from datagen.models.config import read_config
from datagen.models.loading import open_tokenizer
from datagen.models.opening import open_weights
from datagen.models.references import reference_folders, tokenizer_folder
from datagen.models.weights import Weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Source:
    """One model of a merge; tensors are read when asked for.

    Attributes:
        name: in the bunch.
        reference: a folder, a Hugging Face name, or `MODEL+ADAPTER`.
    """

    name: str
    reference: str

    @cached_property
    def weights(self) -> Weights:
        """Its tensors.

        Raises:
            BunchError: the model is missing or damaged.
        """
        return open_weights(self.reference)

    @cached_property
    def folders(self) -> tuple[Path, ...]:
        """Of the model, and of the adapter if there is one.

        Raises:
            BunchError: there is no such model.
        """
        return tuple(folder for folder in reference_folders(self.reference) if folder is not None)

    @property
    def folder(self) -> Path:
        """Where its config.json lies; of an adapter, the folder of the model it tunes.

        Raises:
            BunchError: there is no such model.
        """
        return self.folders[0]

    @property
    def tokenizer_folder(self) -> Path:
        """Where its tokenizer lies, if it has one.

        Raises:
            BunchError: there is no such model.
        """
        return tokenizer_folder(self.folder, self.folders[1] if len(self.folders) > 1 else None)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its config.json.

        Raises:
            BunchError: the file is missing or no JSON.
        """
        return read_config(self.folder)

    @property
    def files(self) -> Mapping[str, Path]:
        """Tensor name -> file."""
        return self.weights.files

    @property
    def names(self) -> tuple[str, ...]:
        """Tensor names, in the order of the files."""
        return tuple(self.weights.headers)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name -> shape."""
        return {name: header.shape for name, header in self.weights.headers.items()}

    @cached_property
    def dtypes(self) -> dict[str, torch.dtype]:
        """Tensor name -> type."""
        return {name: header.dtype for name, header in self.weights.headers.items()}

    def tensor(self, name: str) -> torch.Tensor:
        """One whole tensor."""
        return self.weights.tensor(name)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows of a tensor's first dimension; only these are read."""
        return self.weights.rows(name, start, stop)

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Its tokenizer.

        Raises:
            BunchError: there is none that loads.
        """
        return open_tokenizer(self.tokenizer_folder)

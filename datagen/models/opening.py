"""Opens whatever a reference names: a checkpoint, or an adapter over one."""

from collections.abc import Iterator

import torch

from datagen.errors import BunchError
from datagen.models.adapters import ADAPTER_CONFIG, Adapted
from datagen.models.checkpoints import Checkpoint
from datagen.models.references import reference_folders, split_reference
from datagen.models.weights import Weights


def open_weights(reference: str) -> Weights:
    """Opens a model named by reference; files are checked, no tensor is read.

    Args:
        reference: `MODEL` or `MODEL+ADAPTER`, each a folder or a Hugging Face name, perhaps with `@REVISION`.

    Raises:
        BunchError: it names no model, or one that is missing or damaged.
    """
    folder, adapter = reference_folders(reference)
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file():
        raise BunchError(
            f"{folder}: must be a whole model, but is an adapter; write BASE+ADAPTER, with the base it tunes"
        )
    checkpoint = Checkpoint(folder, split_reference(reference)[0])
    return checkpoint if adapter is None else Adapted(checkpoint, adapter, reference)


def iterate_tensors(reference: str) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of a model, one at a time."""
    weights = open_weights(reference)
    for name in weights.headers:
        yield name, weights.tensor(name)

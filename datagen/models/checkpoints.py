"""A Hugging Face folder of safetensors."""

from collections.abc import Mapping
from pathlib import Path

import torch

from datagen.models.config import read_config
from datagen.models.tensor_files import hash_of_blocks, read_headers, read_rows, tensor_files
from datagen.models.weights import Weights, is_embeddings, is_head, is_tied

#: Rows compared at once.
_ROWS = 4096


class Checkpoint(Weights):
    """A Hugging Face folder of safetensors, one file or sharded with an index.

    Where the config ties head and embeddings, a head that was saved all the same is left out.

    Args:
        folder: of the model.
        reference: what it was opened by; by default the folder.

    Attributes:
        head_copy: name of the head that was left out, if any.

    Raises:
        BunchError: there are no safetensors, a shard is missing, or a file is cut short or damaged.
    """

    def __init__(self, folder: str | Path, reference: str = "") -> None:
        self.folder = self.tokenizer_folder = Path(folder)
        self.reference = reference or str(folder)
        files = tensor_files(self.folder)
        self._files = files
        self.head_copy = _head_copy(files, self.folder)
        self.files = {name: path for name, path in files.items() if name != self.head_copy}
        self.headers = read_headers(self.files)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:  # noqa: D102
        return read_rows(self.files[name], self.headers[name], start, stop)

    def fingerprint(self) -> str:  # noqa: D102
        return hash_of_blocks(self._files.values())

    def head_is_embeddings(self) -> bool:
        """Whether the head that was left out equals the embeddings it is tied to; true if none was."""
        if self.head_copy is None:
            return True
        embeddings = next(name for name in self.files if is_embeddings(name))
        shape = self.headers[embeddings].shape
        path = self._files[self.head_copy]
        head = read_headers({self.head_copy: path})[self.head_copy]
        if head.shape != shape:
            return False
        return all(
            torch.equal(
                read_rows(path, head, start, min(start + _ROWS, shape[0])),
                self.rows(embeddings, start, min(start + _ROWS, shape[0])),
            )
            for start in range(0, shape[0], _ROWS)
        )


def _head_copy(files: Mapping[str, Path], folder: Path) -> str | None:
    """A head that was saved although the config ties it to embeddings that were saved too."""
    head = next((name for name in files if is_head(name)), None)
    if head is None or not any(map(is_embeddings, files)) or not (folder / "config.json").is_file():
        return None
    return head if is_tied(read_config(folder)) else None

"""Writes safetensors while the tensors are still being made, so that no shard is ever held in memory.

The format is its library's own (https://huggingface.co/docs/safetensors): the length of a JSON header as eight bytes,
the header, the tensors' bytes. The library only writes files whose tensors are all there.
"""

import errno
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import torch

from datagen.models.tensor_files import INDEX, SINGLE, Header

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

#: What a file system says that cannot promise space.
_CANNOT_CLAIM = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

#: Tensors that may wait to be written.
_WAITING = 2


@dataclass(frozen=True)
class Shard:
    """One file and the tensors in it."""

    file: str
    names: tuple[str, ...]


def plan_shards(headers: Mapping[str, Header], limit: int) -> list[Shard]:
    """Spreads tensors, in order, over files of at most `limit` bytes, or of one tensor that is larger."""
    parts: list[list[str]] = [[]]
    size = 0
    for name, header in headers.items():
        if parts[-1] and size + size_of(header) > limit:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += size_of(header)
    if len(parts) == 1:
        return [Shard(SINGLE, tuple(parts[0]))]
    count = len(parts)
    return [Shard(f"model-{i:05}-of-{count:05}.safetensors", tuple(names)) for i, names in enumerate(parts, 1)]


def size_of(header: Header) -> int:
    """Bytes of a tensor."""
    return torch.Size(header.shape).numel() * header.dtype.itemsize


class ShardWriter:
    """Writes tensors, given in the headers' order, on a thread of its own.

    Space for everything is claimed first, so that a disk without room is told before any work.

    Args:
        folder: that gets the files, and an index if there are several.
        headers: tensor name -> shape and type, in order.
        limit: bytes per file.
    """

    def __init__(self, folder: Path, headers: Mapping[str, Header], limit: int) -> None:
        self._headers = headers
        self._folder = folder
        self._shards = plan_shards(headers, limit)
        self._files: dict[str, BinaryIO] = {}
        try:
            for shard in self._shards:
                self._files[shard.file] = _begin(folder / shard.file, shard.names, headers)
        except BaseException:
            self._close()
            raise
        self._file_of = {name: shard.file for shard in self._shards for name in shard.names}
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._waiting: list[Future[None]] = []

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Hands over the next tensor, which must not be changed any more.

        Raises:
            OSError: an earlier one could not be written.
        """
        while len(self._waiting) >= _WAITING:
            self._waiting.pop(0).result()
        self._waiting.append(self._thread.submit(_write, self._files[self._file_of[name]], tensor))

    def finish(self) -> None:
        """Waits for all tensors, and writes the index."""
        for waiting in self._waiting:
            waiting.result()
        if len(self._shards) > 1:
            total = sum(size_of(header) for header in self._headers.values())
            index = {"metadata": {"total_size": total}, "weight_map": self._file_of}
            (self._folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._close()

    def _close(self) -> None:
        for file in self._files.values():
            file.close()


def _begin(path: Path, names: Sequence[str], headers: Mapping[str, Header]) -> BinaryIO:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in names:
        end = at + size_of(headers[name])
        shape, dtype = headers[name].shape, headers[name].dtype
        entries[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    file = path.open("wb", buffering=0)
    try:
        _claim(file, 8 + len(header) + at)
        _write_all(file, memoryview(len(header).to_bytes(8, "little") + header))
    except BaseException:
        file.close()
        raise
    return file


def _claim(file: BinaryIO, size: int) -> None:
    """Makes a file of a size, with its space on the disk where the system can promise that."""
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except AttributeError:
        file.truncate(size)
    except OSError as error:
        if error.errno not in _CANNOT_CLAIM:
            raise
        file.truncate(size)


def _write(file: BinaryIO, tensor: torch.Tensor) -> None:
    _write_all(file, tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)


def _write_all(file: BinaryIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]

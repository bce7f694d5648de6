"""Safetensors files: what they hold, told by their headers; rows are mapped into memory when asked for."""

import hashlib
import math
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from datagen.errors import BunchError
from datagen.reading import UnfitError, parse_json, read_json, unfit_text

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

#: How much of each file a fingerprint reads.
_BLOCKS, _BLOCK = 16, 1 << 16

#: Letters of a tensor's name at most, and bytes of a file's.
_NAME, _FILE_NAME = 512, 255

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}


@dataclass(frozen=True)
class Header:
    """What a file says about a tensor before it is read.

    Attributes:
        offset: of its first byte in the file.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int = field(default=0, compare=False)


def tensor_files(folder: str | Path) -> dict[str, Path]:
    """Tensor name -> the file that holds it, in the order of the files.

    Raises:
        BunchError: there are no safetensors, a shard is missing, or a file is cut short or damaged.
    """
    folder = Path(folder)
    weight_map: dict[str, str] = {}
    if (folder / INDEX).is_file():
        told = read_json(folder / INDEX).get("weight_map")
        if not isinstance(told, dict) or not all(isinstance(shard, str) for shard in told.values()):
            raise BunchError(f"{folder / INDEX}: must be JSON with a weight_map; download the index again")
        weight_map = told
        shards = sorted(set(weight_map.values()))
    else:
        shards = [SINGLE]
    files: dict[str, Path] = {}
    for shard in shards:
        path = folder / shard
        if Path(shard).name != shard or unfit_text(shard) or len(shard.encode()) > _FILE_NAME:
            raise BunchError(
                f"{folder / INDEX}: a shard must be a file in the same folder, but {shard!r} is none; download the "
                f"index again"
            )
        if not path.is_file():
            raise BunchError(f"{folder}: weights must be in {shard}, but that file is missing; copy the whole model")
        files |= dict.fromkeys(stored_names(path), path)
    if lost := sorted(weight_map.keys() - files.keys()):
        raise BunchError(
            f"{folder / INDEX}: every tensor it lists must be in its shard, but {len(lost)} are not, such as "
            f"{lost[0]}; copy the whole model"
        )
    return files


def stored_names(path: Path) -> list[str]:
    """Names of the tensors in a file.

    Raises:
        BunchError: the file is cut short or damaged.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise BunchError(
            f"{path}: must be a whole safetensors file, but {error} ({path.stat().st_size} bytes); copy it again"
        ) from error


def read_headers(files: Mapping[str, Path]) -> dict[str, Header]:
    """Tensor name -> shape and type, in the given order; no tensor is read.

    Raises:
        BunchError: a tensor has a type that PyTorch has not.
    """
    headers: dict[str, Header] = {}
    for path in dict.fromkeys(files.values()):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            try:
                stored = parse_json(file.read(length))
            except UnfitError as error:
                raise BunchError(f"{path}: its header {error}; copy it again") from error
        for name in (name for name, where in files.items() if where == path):
            if len(name) > _NAME:
                raise BunchError(
                    f"{path}: a tensor's name must have at most {_NAME} letters, but {name[:20]}... has {len(name)}; "
                    f"use another checkpoint"
                )
            kind = stored[name]["dtype"]
            if (dtype := _DTYPES.get(kind)) is None:
                raise BunchError(
                    f"{path}: tensors must be of a type that PyTorch has, but {name} is {kind}; use an unquantised "
                    f"checkpoint"
                )
            headers[name] = Header(tuple(stored[name]["shape"]), dtype, 8 + length + stored[name]["data_offsets"][0])
    return {name: headers[name] for name in files}


def read_rows(path: Path, header: Header, start: int, stop: int) -> torch.Tensor:
    """Rows of a tensor in a file, or all of a tensor of no dimension.

    Only their pages are mapped into memory, and given back with the tensor: opening the file by its library maps it
    whole and parses its header anew, which for many small tensors takes longer than merging them.
    """
    stop = min(stop, header.shape[0]) if header.shape else stop
    shape = (max(0, stop - start), *header.shape[1:]) if header.shape else ()
    count = math.prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=header.dtype)
    first = header.offset + (start * count // shape[0] * header.dtype.itemsize if shape else 0)
    page = first // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    with path.open("rb") as file:
        size = first - page + count * header.dtype.itemsize
        mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY, offset=page)
    return torch.frombuffer(mapped, dtype=header.dtype, count=count, offset=first - page).view(shape)


def hash_of_blocks(files: Iterable[Path]) -> str:
    """Hashes sizes, and blocks spread over each file.

    Reading a few blocks takes milliseconds where hashing all of a large model takes minutes.
    """
    digest = hashlib.sha256()
    for path in sorted(set(files)):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for i in range(_BLOCKS):
                file.seek(max(0, size - _BLOCK) * i // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:16]

"""Reading Hugging Face folders: safetensors, one file or sharded with an index."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from datagen.errors import BunchError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

#: How much of each file a fingerprint reads.
_BLOCKS, _BLOCK = 16, 1 << 16


def local_folder(model: str) -> Path:
    """The folder of a model named by path or by its Hugging Face name, downloaded if need be.

    Raises:
        BunchError: there is no such folder and the name cannot be had from the hub either.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or model.startswith(".") or model.count("/") != 1:
        raise BunchError(f"a model must be a folder or a Hugging Face name, but {model!r} is neither; check the path")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise BunchError(
            f"a model must be a folder or a Hugging Face name, but there is no folder {model!r} and the hub gave "
            f"{type(error).__name__}; check the spelling, or the network"
        ) from error


def tensor_files(folder: str | Path) -> dict[str, Path]:
    """Tensor name -> the file that holds it, in the order of the files.

    Raises:
        BunchError: there are no safetensors, a shard is missing, or a file is cut short or damaged.
    """
    folder = Path(folder)
    if (folder / INDEX).is_file():
        try:
            weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
        except (json.JSONDecodeError, KeyError) as error:
            raise BunchError(f"{folder / INDEX}: must be JSON with a weight_map; download the index again") from error
        shards = sorted({str(shard) for shard in weight_map.values()})
    else:
        shards = [SINGLE]
    files: dict[str, Path] = {}
    for shard in shards:
        path = folder / shard
        if Path(shard).name != shard or not path.is_file():
            raise BunchError(f"{folder}: weights must be in {shard}, but that file is missing; copy the whole model")
        try:
            with safe_open(path, framework="pt") as opened:
                files |= dict.fromkeys(opened.keys(), path)
        except SafetensorError as error:
            raise BunchError(
                f"{path}: must be a whole safetensors file, but {error} ({path.stat().st_size} bytes); copy it again"
            ) from error
    return files


def tensor_names(folder: str | Path) -> set[str]:
    """Names of all tensors of a checkpoint."""
    return set(tensor_files(folder))


def iterate_tensors(folder: str | Path) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of a checkpoint, read one at a time from memory-mapped files."""
    files = tensor_files(folder)
    for path in dict.fromkeys(files.values()):
        with safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - a safe_open is no mapping
                yield name, opened.get_tensor(name)


def fingerprint(folder: str | Path) -> str:
    """A hash that tells one state of a checkpoint from another: sizes, and blocks spread over each file.

    Reading a few blocks takes milliseconds where hashing all of a large model takes minutes.
    """
    digest = hashlib.sha256()
    for path in sorted(set(tensor_files(folder).values())):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for i in range(_BLOCKS):
                file.seek(max(0, size - _BLOCK) * i // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:16]

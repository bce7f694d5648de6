"""Checkpoints in PyTorch's pickle format: refused, since a pickle can run code, or else turned into safetensors once.

Where the user allows them they are read by `torch.load(weights_only=True)`, which makes tensors and nothing else.
"""

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from datagen.errors import BunchError
from datagen.models.tensor_files import hash_of_blocks
from datagen.models.trust import may_unpickle

#: Files of weights, of models and of adapters.
PICKLES = ("pytorch_model*.bin", "adapter_model*.bin")

#: Files that are of use beside weights, and their size in bytes at most.
_BESIDE, _MOST = ("*.json", "*.txt", "*.model", "*.jinja", "README.md"), 256 << 20


def unpickled(folder: Path) -> Path:
    """A folder of the same weights as safetensors: the folder itself, if it has any or no weights at all.

    Raises:
        BunchError: the weights are pickled, and that is not allowed, or they hold more than tensors.
    """
    files = sorted(file for pattern in PICKLES for file in folder.glob(pattern))
    if not files or any(folder.glob("*.safetensors")):
        return folder
    if not may_unpickle():
        raise BunchError(
            f"{folder}: weights must be safetensors, but {files[0].name} is a pickle, which could run code; convert "
            f"it, or say --allow-pickle, and it is read as tensors alone"
        )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "goodbunch" / "unpickled"
    place = cache / f"{folder.resolve().name}-{hash_of_blocks([*files, *_beside(folder)])}"
    if not place.is_dir():
        part = place.with_name(f".{place.name}.{os.getpid()}")
        try:
            _convert(folder, files, part)
            part.rename(place)
        except OSError as error:
            if not place.is_dir():  # nobody else was faster
                raise BunchError(
                    f"{place}: must be written, but {error.strerror or error}; make room, or set XDG_CACHE_HOME"
                ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return place


def _beside(folder: Path) -> list[Path]:
    found = {file for pattern in _BESIDE for file in folder.glob(pattern) if file.stat().st_size <= _MOST}
    return sorted(file for file in found if not file.name.endswith(".index.json"))


def _convert(folder: Path, files: Iterable[Path], out: Path) -> None:
    out.mkdir(parents=True)
    for file in _beside(folder):
        shutil.copyfile(file, out / file.name)
    weight_map: dict[str, str] = {}
    for file in files:
        name = file.with_suffix(".safetensors").name.replace("pytorch_model", "model")
        tensors = _tensors(file)
        safetensors.torch.save_file(tensors, out / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    if len(set(weight_map.values())) > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (out / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        held: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AttributeError) as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise BunchError(f"{file}: must hold tensors alone, but {said}; use another checkpoint") from error
    if not isinstance(held, dict) or not all(
        isinstance(name, str) and isinstance(one, torch.Tensor) for name, one in held.items()
    ):
        raise BunchError(f"{file}: must hold tensors by name alone, but holds something else; use another checkpoint")
    # Tied weights share memory there, which safetensors has no way to say.
    return {name: tensor.detach().clone().contiguous() for name, tensor in held.items()}

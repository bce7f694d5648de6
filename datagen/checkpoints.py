"""The tensors of one model, read when asked for: a Hugging Face folder, or a LoRA adapter over one.

A model is named by a reference: `MODEL`, or `MODEL+ADAPTER`, each a folder or a Hugging Face name, which may carry a
revision: `org/model@main+org/adapter@v2`.
"""

import hashlib
import math
import mmap
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from datagen.errors import BunchError
from datagen.model_config import read_config
from datagen.pickles import PICKLES, unpickled
from datagen.reading import UnfitError, parse_json, read_json, unfit_text
from datagen.trust import may_unpickle, trusted_models

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"

#: Any of these makes a folder one with a tokenizer.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")

#: Model types whose embeddings are tied when config.json does not say.
TIED_UNLESS_SAID = frozenset(
    "biogpt bloom cohere cohere2 cohere2_moe ctrl ernie4_5 falcon falcon_mamba gemma gemma2 gemma3 gemma3_text gemma3n "
    "gemma3n_text gemma4 gemma4_text gpt2 gpt_bigcode gpt_neo gpt_neox_japanese jetmoe lfm2 lfm2_moe mamba mpt "
    "openai-gpt opt recurrent_gemma smollm3 starcoder2 vaultgemma xglm zamba zamba2".split()
)

#: How much of each file a fingerprint reads.
_BLOCKS, _BLOCK = 16, 1 << 16

#: Letters of a tensor's name at most, and bytes of a file's.
_NAME, _FILE_NAME = 512, 255

#: Rows compared at once.
_ROWS = 4096

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_DOWNLOADED = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
_NOT_DOWNLOADED = ["consolidated*", "original/*", "onnx/*"]

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
    if adapter is None:
        return checkpoint
    from datagen.adapters import Adapted

    return Adapted(checkpoint, adapter, reference)


def reference_folders(reference: str) -> tuple[Path, Path | None]:
    """The folders of the model and the adapter that a reference names.

    Raises:
        BunchError: one of them is not to be had.
    """
    model, adapter = split_reference(reference)
    return local_folder(model), None if adapter is None else local_folder(adapter)


def tokenizer_folder(model: Path, adapter: Path | None) -> Path:
    """Where a tokenizer lies: an adapter may bring its own."""
    own = adapter is not None and any((adapter / name).is_file() for name in TOKENIZERS)
    return adapter if own and adapter is not None else model


def split_reference(reference: str) -> tuple[str, str | None]:
    """The model and the adapter that a reference names.

    A folder whose own path has a `+` in it is a model where it exists.
    """
    if "+" not in reference or _is_folder(reference):
        return reference, None
    cuts = [i for i, letter in enumerate(reference) if letter == "+"]
    parts = [(reference[:i], reference[i + 1 :]) for i in cuts]
    for known in (_is_folder, _may_be_model):
        for left, right in parts:
            if known(left) and _may_be_model(right):
                return left, right
    return parts[0]


def local_folder(model: str) -> Path:
    """The folder of a model or adapter named by path or by its Hugging Face name, downloaded if need be.

    Raises:
        BunchError: there is no such folder and the name cannot be had from the hub either.
    """
    if _is_folder(model):
        folder = Path(model).expanduser()
        check_links(folder)
        return unpickled(folder)
    name, _, revision = model.partition("@")
    if _is_folder(name):
        raise BunchError(f"a revision must follow a Hugging Face name, but {name} is a folder; drop @{revision}")
    if not _HUB_NAME.fullmatch(model) or model.startswith("."):
        raise BunchError(f"a model must be a folder or a Hugging Face name, but {model!r} is neither; check the path")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        code = ["*.py"] if model in trusted_models() else []
        wanted = [*_DOWNLOADED, *(PICKLES if may_unpickle() else ()), *code]
        folder = Path(
            snapshot_download(name, revision=revision or None, allow_patterns=wanted, ignore_patterns=_NOT_DOWNLOADED)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise BunchError(
            f"a model must be a folder or a Hugging Face name, but there is no folder {model!r} and the hub gave "
            f"{type(error).__name__}; check the spelling, or the network"
        ) from error
    return unpickled(folder)


def check_links(folder: Path) -> None:
    """Whether all files of a model's folder lie in it, or in the hub's cache beside it.

    A link in a folder from elsewhere could have any file of this machine copied beside the merged weights.

    Raises:
        BunchError: a link leads out of it.
    """
    place = folder.resolve()
    inside = [place, *([place.parent.parent / "blobs"] if place.parent.name == "snapshots" else [])]
    for path in folder.iterdir():
        if path.is_symlink() and not any(path.resolve().is_relative_to(one) for one in inside):
            raise BunchError(
                f"{path}: a model's files must lie in its folder, but this is a link to {path.resolve()}; put the file "
                f"there instead of the link"
            )


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


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether a model's head is its embeddings."""
    said = config.get("tie_word_embeddings")
    return bool(config.get("model_type") in TIED_UNLESS_SAID if said is None else said)


def iterate_tensors(reference: str) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of a model, one at a time."""
    weights = open_weights(reference)
    for name in weights.headers:
        yield name, weights.tensor(name)


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


def is_head(name: str) -> bool:
    """Whether a tensor is the output head."""
    return name.endswith(("lm_head.weight", "embed_out.weight"))


def is_embeddings(name: str) -> bool:
    """Whether a tensor is the input embeddings."""
    return name.endswith(("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight"))


def _head_copy(files: Mapping[str, Path], folder: Path) -> str | None:
    """A head that was saved although the config ties it to embeddings that were saved too."""
    head = next((name for name in files if is_head(name)), None)
    if head is None or not any(map(is_embeddings, files)) or not (folder / "config.json").is_file():
        return None
    return head if is_tied(read_config(folder)) else None


def _is_folder(part: str) -> bool:
    try:
        return Path(part).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):  # no path at all: too long, of a user that is not, or with a NUL byte
        return False


def _may_be_model(part: str) -> bool:
    return _is_folder(part) or _HUB_NAME.fullmatch(part) is not None

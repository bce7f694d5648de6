"""How models are named, and the folders that names stand for.

A model is named by a reference: `MODEL`, or `MODEL+ADAPTER`, each a folder or a Hugging Face name, which may carry a
revision: `org/model@main+org/adapter@v2`.
"""

import re
from pathlib import Path

from datagen.errors import BunchError
from datagen.models.pickles import PICKLES, unpickled
from datagen.models.trust import may_unpickle, trusted_models

#: Any of these makes a folder one with a tokenizer.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_DOWNLOADED = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
_NOT_DOWNLOADED = ["consolidated*", "original/*", "onnx/*"]


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


def reference_folders(reference: str) -> tuple[Path, Path | None]:
    """The folders of the model and the adapter that a reference names.

    Raises:
        BunchError: one of them is not to be had.
    """
    model, adapter = split_reference(reference)
    return local_folder(model), None if adapter is None else local_folder(adapter)


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


def tokenizer_folder(model: Path, adapter: Path | None) -> Path:
    """Where a tokenizer lies: an adapter may bring its own."""
    own = adapter is not None and any((adapter / name).is_file() for name in TOKENIZERS)
    return adapter if own and adapter is not None else model


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


def _is_folder(part: str) -> bool:
    try:
        return Path(part).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):  # no path at all: too long, of a user that is not, or with a NUL byte
        return False


def _may_be_model(part: str) -> bool:
    return _is_folder(part) or _HUB_NAME.fullmatch(part) is not None

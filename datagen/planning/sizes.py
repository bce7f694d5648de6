"""What a model weighs, told by its files' headers where they are here, else by its name; nothing is downloaded."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from datagen.errors import BunchError
from datagen.models.checkpoints import Checkpoint
from datagen.models.references import local_folder, split_reference
from datagen.reading import read_json

#: What follows a number of parameters in a model's name, and bytes of one where only the name is known: bfloat16.
_UNITS = {"b": 1e9, "m": 1e6}
_BY_NAME = 2

#: `8B`, `0.5b`, `8x7B`, `135M`; no `4bit`, no `128k`, and no part of a longer word.
_IN_NAME = re.compile(r"(?<![a-z0-9.])(?:(\d+)x)?(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", re.IGNORECASE)

#: Numbers that Llama-3-8B keeps per token of context, 128 KiB in bfloat16, and its parameters; others are taken to grow
#: by the square root, as depth and width do: 378 KiB for 70B, which has 320.
_CACHE, _CACHED_BY = 65_536, 8e9

#: Keys of config.json that do not change the shape of a model.
_COSMETIC = frozenset("_name_or_path transformers_version dtype torch_dtype use_cache".split())


class Size(NamedTuple):
    """What a model weighs; none where that is not known.

    Attributes:
        stored: bytes of its tensors in its files.
        cache: numbers that are kept per token of context, keys and values of all layers.
        source: where this is from.
        shape: what it shares with models that can take its place in a running engine; empty where not known.
        template: characters of its chat template; none where not known.
        here: whether its files need not be downloaded.
    """

    parameters: float | None = None
    stored: float | None = None
    cache: float | None = None
    source: str = "unknown"
    shape: str = ""
    template: int | None = None
    here: bool = False

    def width(self, dtype: str) -> float:
        """Bytes of a number, as an engine of this `dtype` keeps it."""
        if dtype != "auto":
            return 4 if dtype == "float32" else 2
        return self.stored / self.parameters if self.stored and self.parameters else _BY_NAME


def size_of(reference: str) -> Size:
    """What a model weighs; no tensor is read, and an adapter adds nothing.

    Args:
        reference: `MODEL` or `MODEL+ADAPTER`, each a folder or a Hugging Face name, perhaps with `@REVISION`.

    Raises:
        BunchError: it is neither a folder nor such a name, or a folder without whole weights.
    """
    model, _ = split_reference(reference)
    if (folder := folder_here(reference)) is not None:
        try:
            return size_of_folder(folder)
        except BunchError:
            if Path(model).expanduser().is_dir():
                raise
            # Begun, but not whole: what a run downloads first.
    return size_by_name(model)


def folder_here(reference: str) -> Path | None:
    """Where a model's files lie, of an adapter those of the model it tunes; none if they are still to be downloaded.

    Raises:
        BunchError: it is neither a folder nor a Hugging Face name.
    """
    model, _ = split_reference(reference)
    return local_folder(model) if Path(model).expanduser().is_dir() else _cached(model)


def size_of_folder(folder: Path) -> Size:
    """What a model's files say.

    Raises:
        BunchError: they are missing or damaged.
    """
    weights = Checkpoint(folder)
    counts = {name: math.prod(header.shape) for name, header in weights.headers.items()}
    parameters = float(sum(counts.values()))
    stored = float(sum(counts[name] * header.dtype.itemsize for name, header in weights.headers.items()))
    cache = cache_numbers(weights.config)
    shape = json.dumps({key: value for key, value in weights.config.items() if key not in _COSMETIC}, sort_keys=True)
    return Size(parameters, stored, cache or _estimated(parameters), "its files", shape, _template(folder), here=True)


def size_by_name(name: str) -> Size:
    """What a name such as `org/Some-8B-Instruct` says; a mixture such as `8x7B` counts in full."""
    found = _IN_NAME.search(name.partition("@")[0].rpartition("/")[2])
    if found is None:
        return Size()
    parameters = float(found[1] or 1) * float(found[2]) * _UNITS[found[3].lower()]
    return Size(parameters, parameters * _BY_NAME, _estimated(parameters), "its name")


def cache_numbers(config: Mapping[str, Any]) -> float | None:
    """Numbers that a model keeps per token of context: 2 x layers x heads of keys and values x their width.

    Args:
        config: its config.json; none is returned where that lacks a key.
    """
    config = config.get("text_config", config)
    layers = config.get("num_hidden_layers") or config.get("n_layer")
    heads = config.get("num_attention_heads") or config.get("n_head")
    hidden = config.get("hidden_size") or config.get("n_embd")
    if not layers or not heads or not (hidden or config.get("head_dim")):
        return None
    width = config.get("head_dim") or hidden // heads
    return float(2 * layers * (config.get("num_key_value_heads") or heads) * width)


def _template(folder: Path) -> int | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.stat().st_size
    path = folder / "tokenizer_config.json"
    told = read_json(path).get("chat_template") if path.is_file() else None
    return len(told) if isinstance(told, str) else None


def _estimated(parameters: float) -> float:
    return _CACHE * math.sqrt(parameters / _CACHED_BY)


def _cached(model: str) -> Path | None:
    """Where the files of a Hugging Face name lie, if some of them were downloaded."""
    name, _, revision = model.partition("@")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        return local_folder(model)  # which says that it is no name
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision or None, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise BunchError(
            f"a model must be a folder or a Hugging Face name, but {model!r} is neither; {error}"
        ) from error

"""Models as mergekit's YAML names them: `path@revision+adapter@revision`."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

_WANTED = "must be `path`, `path@revision` or either with `+adapter`"


def _reference(value: Any) -> str:
    """A reference as a string, also from the mapping that mergekit writes where a path has spaces."""
    if isinstance(value, Mapping):
        if unknown := [str(key) for key in value if key not in ("model", "lora")]:
            raise PydanticCustomError("reference", "key {key} is not supported", {"key": repr(unknown[0])})
        parts = [_path(value.get("model"))] + ([_path(value["lora"])] if value.get("lora") else [])
    else:
        parts = value.split("+") if isinstance(value, str) else []
    if not 1 <= len(parts) <= 2 or not all(part and part.count("@") <= 1 for part in parts):
        raise PydanticCustomError("reference", _WANTED)
    return "+".join(parts)


def _path(value: Any) -> str:
    if isinstance(value, Mapping) and value.keys() <= {"path", "revision"}:
        path, revision = str(value.get("path") or ""), value.get("revision")
        return f"{path}@{revision}" if revision else path
    return value if isinstance(value, str) else ""


Reference = Annotated[str, BeforeValidator(_reference)]


def short_names(references: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Reference -> a name of its own: the last folder's, the adapter's if there is one.

    Names have no dots, so that `bunch.experts.NAME.role=...` reaches them from the command line.

    Args:
        references: duplicates get one name.
        taken: names that are not to be given.
    """
    used, names = set(taken), dict[str, str]()
    for reference in dict.fromkeys(references):
        path = reference.split("+")[-1].split("@")[0].rstrip("/")
        stem = re.sub(r"[^\w-]+", "-", path.rsplit("/", 1)[-1]).strip("-") or "model"
        numbered = (f"{stem}-{i}" for i in range(2, len(used) + 3))
        names[reference] = next(name for name in (stem, *numbered) if name not in used)
        used.add(names[reference])
    return names

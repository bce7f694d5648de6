"""A value as mergekit's YAML writes it: a scalar, a gradient over the layers, or either by tensor name."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from datagen.errors import ConfigError
from optimizer.merging.methods.base import Value

_KEYS = ("filter", "value")
_ADAPTERS: dict[type[Value], TypeAdapter[Value]] = {kind: TypeAdapter(kind) for kind in (bool, int, float)}
_WANTED: dict[type[Value], str] = {bool: "true or false", int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class Entry:
    """What some tensors get.

    Attributes:
        filter: part of their names; empty for all.
        values: one, or a gradient's points, spread evenly over the layers of a slice.
    """

    filter: str
    values: tuple[Value, ...]

    def at(self, t: float) -> Value:
        """The value at depth t of a slice, 0..1: interpolated for numbers, one of the points for booleans."""
        position = t * (len(self.values) - 1)
        below = int(position)
        start = self.values[below]
        if isinstance(start, bool):
            return start
        end, share = self.values[min(below + 1, len(self.values) - 1)], position - below
        between = (1 - share) * start + share * end
        if isinstance(start, int):
            if between != int(between):
                raise ConfigError(f"a gradient of whole numbers must hit whole numbers, but got {between} at t = {t:g}")
            return int(between)
        return between


#: The first entry whose filter matches counts.
Setting = tuple[Entry, ...]


def value_at(setting: Setting, tensor: str, t: float) -> Value | None:
    """What a setting says for one tensor; None if no filter matches."""
    return next((entry.at(t) for entry in setting if entry.filter in tensor), None)


def read_setting(raw: Any, kind: type[Value], where: str) -> Setting:
    """Reads a scalar, a gradient, `{filter, value}`, or a list of those.

    Args:
        raw: as it stands in the YAML file; numbers may be strings, as YAML makes them of `1e-3`.
        kind: what each value must be.
        where: the keys that led here, for messages.

    Raises:
        ConfigError: it is none of these.
    """
    entries = [raw] if isinstance(raw, Mapping) else raw
    if isinstance(entries, list) and entries and all(isinstance(entry, Mapping) for entry in entries):
        return tuple(_entry(entry, kind, f"{where}.{i}") for i, entry in enumerate(entries))
    return (Entry("", _values(raw, kind, where)),)


def _entry(raw: Mapping[str, Any], kind: type[Value], where: str) -> Entry:
    if unknown := [str(key) for key in raw if key not in _KEYS]:
        close = difflib.get_close_matches(unknown[0], _KEYS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "known keys are filter, value"
        raise ConfigError(f"{where}.{unknown[0]}: unknown key; {hint}")
    if "value" not in raw:
        raise ConfigError(f"{where}.value: this key must be set")
    name = raw.get("filter") or ""
    if not isinstance(name, str):
        raise ConfigError(f"{where}.filter: must be part of a tensor's name, but got {name!r}")
    return Entry("" if name == "*" else name, _values(raw["value"], kind, f"{where}.value"))


def _values(raw: Any, kind: type[Value], where: str) -> tuple[Value, ...]:
    if isinstance(raw, list) and not raw:
        raise ConfigError(f"{where}: a gradient must have at least one value, but the list is empty")
    points: Sequence[Any] = raw if isinstance(raw, list) else [raw]
    return tuple(read_value(point, kind, where) for point in points)


def read_value(raw: Any, kind: type[Value], where: str) -> Value:
    """Reads one scalar.

    Args:
        raw: as it stands in the YAML file.
        kind: what it must be.
        where: the keys that led here, for messages.

    Raises:
        ConfigError: it is something else, or no finite number.
    """
    try:
        value = _ADAPTERS[kind].validate_python(raw)
    except ValidationError as error:
        raise ConfigError(f"{where}: must be {_WANTED[kind]}, but got {raw!r}") from error
    if not math.isfinite(value):
        raise ConfigError(f"{where}: must be finite, but got {raw!r}")
    return value

"""Files from others, read within limits: whatever they hold, reading them ends soon and runs nothing."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from datagen.errors import BunchError, DataError, GoodbunchError

#: Bytes of a file at most, by what it is.
YAML_BYTES, JSON_BYTES = 32 << 20, 64 << 20

#: How deep lists and mappings may nest, and how many values a YAML file may have once its aliases are written out.
DEPTH, VALUES = 64, 400_000


class UnfitError(ValueError):
    """What a text holds breaks a rule; the message goes behind the name of the file."""


@dataclass
class _Open:
    """A list or mapping that is being read.

    Attributes:
        anchor: its name, if it has one.
        keys: of a mapping so far; none of a list.
        at_key: whether the next value is a key.
        values: so far, itself among them.
    """

    anchor: str | None
    keys: set[str] | None
    at_key: bool = True
    values: int = 1


@dataclass
class _Scan:
    """Looks at the events of a YAML text, which takes no recursion and no memory for what it builds."""

    most: int
    open: list[_Open] = field(default_factory=list)
    anchors: dict[str, int] = field(default_factory=dict)

    def see(self, event: yaml.Event) -> None:
        """Raises UnfitError where an event breaks a rule."""
        if (tag := getattr(event, "tag", None)) is not None:
            raise UnfitError(f"must have no tags, but has {tag!r} {_place(event)}; write the plain value")
        if isinstance(event, yaml.AliasEvent):
            # What is not yet closed has no size: it would hold itself.
            if event.anchor not in self.anchors:
                raise UnfitError(
                    f"must name a value above by an alias, but *{event.anchor} {_place(event)} names none, or what it "
                    f"stands in; write the value out"
                )
            self._add(event, self.anchors[event.anchor], "")
        elif isinstance(event, yaml.ScalarEvent):
            if problem := unfit_text(event.value):
                raise UnfitError(f"must be plain text, but has {problem} {_place(event)}; remove it")
            if event.anchor:
                self.anchors[event.anchor] = 1
            self._add(event, 1, event.value)
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(self.open) >= DEPTH:
                raise UnfitError(f"must nest at most {DEPTH} deep, but is deeper {_place(event)}; flatten it")
            self.open.append(_Open(event.anchor, set() if isinstance(event, yaml.MappingStartEvent) else None))
        elif isinstance(event, yaml.CollectionEndEvent):
            done = self.open.pop()
            if done.anchor:
                self.anchors[done.anchor] = done.values
            self._add(event, done.values, "")

    def _add(self, event: yaml.Event, values: int, written: str) -> None:
        """Counts a value into what it stands in."""
        if values > self.most:
            raise UnfitError(
                f"must have at most {self.most} values with all aliases written out, but has more {_place(event)}; "
                f"shorten it"
            )
        if not self.open:
            return
        around = self.open[-1]
        around.values += values
        if around.keys is None:
            return
        if around.at_key and isinstance(event, yaml.ScalarEvent):
            if written in around.keys:
                raise UnfitError(f"must have each key once, but the key {written!r} stands twice {_place(event)}")
            around.keys.add(written)
        around.at_key = not around.at_key


def _place(event: yaml.Event) -> str:
    mark = event.start_mark
    return f"in line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def unfit_text(text: str) -> str:
    """What in a text neither a path nor a file takes; empty if nothing."""
    if "\0" in text:
        return "a NUL byte"
    return "half of a surrogate pair" if any("\ud800" <= letter <= "\udfff" for letter in text) else ""


def check_yaml(text: str, most: int = VALUES) -> None:
    """Whether a YAML text may be loaded.

    Args:
        most: values that it may have.

    Raises:
        UnfitError: it is no YAML, or breaks a limit.
    """
    scan = _Scan(most)
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            scan.see(event)
    except yaml.YAMLError as error:
        raise UnfitError(f"must be YAML, but {' '.join(str(error).split())}") from error


def parse_yaml(text: str) -> Any:
    """What a YAML text holds.

    Raises:
        UnfitError: it is no YAML, or breaks a limit.
    """
    check_yaml(text)
    try:
        return yaml.load(text, Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # a date or number may look like one and be none
        raise UnfitError(f"must be YAML, but {' '.join(str(error).split())}") from error


def read_yaml(path: Path, kind: type[GoodbunchError]) -> Any:
    """What a YAML file holds.

    Args:
        kind: of error.

    Raises:
        GoodbunchError: of that kind; the file is missing, no YAML, or breaks a limit.
    """
    try:
        return parse_yaml(read_text(path, kind, YAML_BYTES))
    except UnfitError as error:
        raise kind(f"{path}: {error}") from error


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds.

    Raises:
        UnfitError: it is none, nests too deep, or has a number that is too long or text that is no Unicode.
    """
    try:
        value = json.loads(text)
        _check_depth(value)
        if b"\\u" in (text if isinstance(text, bytes) else text.encode()):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError as error:
        raise UnfitError("must be JSON in UTF-8, but has text that is not; save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise UnfitError(f"must be JSON, but {getattr(error, 'msg', error)}{_line(error)}; correct it") from error
    return value


def _check_depth(value: Any) -> None:
    """Raises RecursionError where a value nests deeper than what looks at it may go."""
    level = [value]
    for _ in range(DEPTH):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        if not (level := [one for some in inner for one in some]):
            return
    raise RecursionError(f"it nests deeper than {DEPTH}")


def _line(error: Exception) -> str:
    return f" in line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""


def read_json(path: Path, kind: type[GoodbunchError] = BunchError, most: int = JSON_BYTES) -> dict[str, Any]:
    """The JSON object that a file holds.

    Args:
        kind: of error.
        most: bytes that it may have.

    Raises:
        GoodbunchError: of that kind; the file is missing, too large, or no JSON object.
    """
    if not path.exists():
        raise kind(f"{path.parent}: its {path.name} must be there, but is missing; check the path")
    try:
        value = parse_json(read_text(path, kind, most))
    except UnfitError as error:
        raise kind(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise kind(f"{path}: must be a JSON object, but is a {type(value).__name__}; download it again")
    return value


def read_text(path: Path, kind: type[GoodbunchError] = DataError, most: int = JSON_BYTES) -> str:
    """The text of a file; a mark of its byte order is no part of it.

    Args:
        kind: of error.
        most: bytes that it may have.

    Raises:
        GoodbunchError: of that kind; the file is missing, cannot be read, is too large, or is not in UTF-8.
    """
    try:
        with path.open("rb") as file:
            held = file.read(most + 1)
        if len(held) > most:
            raise kind(f"{path}: must have at most {most >> 20} MiB, but has more; name another file, or shorten it")
        return held.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise kind(f"{path}: must be in UTF-8, but byte {error.start} is not; save it as UTF-8") from error
    except (OSError, ValueError) as error:  # a ValueError is of a path with a NUL byte
        told = getattr(error, "strerror", None) or error
        raise kind(f"{path}: must be a readable file, but {told}; check the path") from error

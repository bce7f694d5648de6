"""`${key.path}` in a config: stands for the value of that key, and for nothing else, such as a system's variable."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datagen.reading import UnfitError, unfit_text

_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w-]*(?:\.[\w-]+)*)\}")

#: Letters of a text once it is filled in, and how often a value may stand for one that stands for another.
_LONGEST, _ROWS = 1 << 20, 32


def check_references(values: Any) -> None:
    """Whether all that is filled in can be: only keys of the file may be named.

    Raises:
        UnfitError: something else is named.
    """
    if isinstance(values, str):
        rest = _REFERENCE.sub("", values)
        if "${" in rest:
            told = rest[rest.index("${") :][:40]
            raise UnfitError(f"only keys of this file are filled in, as ${{run}} is, but {told!r} is none; name one")
    elif isinstance(values, Mapping):
        for key, value in values.items():
            check_references(value)
            if isinstance(key, str) and "${" in key:
                raise UnfitError(f"a key must be written out, but is {key!r}; write it out")
    elif isinstance(values, list):
        for value in values:
            check_references(value)


def filled(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """Values with all references filled in.

    Raises:
        UnfitError: a key is missing, stands for itself or for more than one value, or a text becomes too long.
    """
    filling = _Filling(values)
    return {key: filling.fill(value) for key, value in values.items()}


@dataclass
class _Filling:
    """References on their way to values.

    Attributes:
        root: all values.
        known: key path -> its value, filled in.
        open: key paths that are being filled in, each for the one before.
    """

    root: Mapping[Any, Any]
    known: dict[str, Any] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)

    def fill(self, value: Any) -> Any:
        """A value with what it holds filled in."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {key: self.fill(one) for key, one in value.items()}
        return [self.fill(one) for one in value] if isinstance(value, list) else value

    def _text(self, text: str) -> Any:
        if problem := unfit_text(text):
            raise UnfitError(f"must be plain text, but {text[:40]!r} has {problem}; remove it")
        if whole := _REFERENCE.fullmatch(text):
            return self._at(whole[1])
        made = _REFERENCE.sub(lambda found: str(self._at(found[1])), text)
        if len(made) > _LONGEST:
            raise UnfitError(f"must have at most {_LONGEST} letters, but {text[:40]!r} has more; shorten it")
        return made

    def _at(self, path: str) -> Any:
        if path in self.known:
            return self.known[path]
        if path in self.open or len(self.open) >= _ROWS:
            chain = " for ".join([*self.open[-4:], path])
            raise UnfitError(
                f"a key must not stand for itself, nor through {_ROWS} others, but there is {chain}; mend it"
            )
        value: Any = self.root
        for part in path.split("."):
            value = value.get(part, _NOTHING) if isinstance(value, Mapping) else _NOTHING
        if value is _NOTHING or isinstance(value, Mapping | list):
            what = "is missing" if value is _NOTHING else "holds several"
            raise UnfitError(f"what is filled in must be the value of a key, but {path!r} {what}; name another")
        self.open.append(path)
        self.known[path] = self.fill(value)
        self.open.pop()
        return self.known[path]


_NOTHING = object()

"""What a YAML file names, found by its name."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from datagen.errors import ConfigError


class Named(Protocol):
    """Anything with a name of its own."""

    @property
    def name(self) -> str:
        """In YAML files."""


Entry = TypeVar("Entry", bound=Named, covariant=True)


class Registry(Mapping[str, Entry]):
    """Entries by name.

    Args:
        kind: what they are called in messages.
        entries: in the order in which they are listed.
    """

    def __init__(self, kind: str, entries: Sequence[Entry]) -> None:
        self._kind = kind
        self._entries: dict[str, Entry] = {}
        for entry in entries:
            if entry.name in self._entries:
                raise ValueError(f"a {kind}'s name must be its own, but there are two of {entry.name!r}")
            self._entries[entry.name] = entry

    def __getitem__(self, name: str) -> Entry:
        """The entry of that name.

        Raises:
            ConfigError: there is none.
        """
        if name not in self._entries:
            close = difflib.get_close_matches(name, self._entries, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(f"there is no {self._kind} {name!r}; {hint}available: {', '.join(self._entries)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

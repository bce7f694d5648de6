"""Topic lists: names of categories that questions are asked about, shipped in `topics/` or the user's own.

A list says what a question is about, never how to ask for it; that is the prompt's part.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError

from datagen.errors import ConfigError
from datagen.frozen import Settings
from datagen.reading import read_yaml

_SHIPPED = Path(__file__).parent / "topics"


class Topic(Settings):
    """One category.

    Attributes:
        name: of the category.
        about: a neutral clause on what falls under it.
    """

    name: str = Field(min_length=1)
    about: str = ""


_TOPICS: TypeAdapter[list[Topic]] = TypeAdapter(list[Topic])


def load_topics(wanted: str | Sequence[str | Topic]) -> list[Topic]:
    """The topics that a config names.

    Args:
        wanted: name of a shipped list, a YAML file, or the topics themselves.

    Raises:
        ConfigError: there is no such list or file, or it is not a list of topics.
    """
    if not isinstance(wanted, str):
        return _checked(list(wanted), "topics")
    if wanted.endswith((".yaml", ".yml")):
        return _read(Path(wanted).expanduser())
    names = shipped_topics()
    if wanted not in names:
        close = difflib.get_close_matches(wanted, names, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(
            f"topics: no list is named {wanted!r}; {hint}available: {', '.join(names)}; or name a YAML file"
        )
    return _read(_SHIPPED / f"{wanted}.yaml")


def shipped_topics() -> list[str]:
    """Names of the lists that come with Goodbunch."""
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def _read(path: Path) -> list[Topic]:
    held = read_yaml(path, ConfigError)
    # A bare list will do for a user's own.
    return _checked(held.get("topics") if isinstance(held, dict) else held, str(path))


def _checked(held: Any, where: str) -> list[Topic]:
    if not isinstance(held, list) or not held:
        raise ConfigError(f"{where}: there must be a list of topics, but got {str(held)[:40]!r}; write `topics: [...]`")
    try:
        topics = _TOPICS.validate_python([{"name": one} if isinstance(one, str) else one for one in held])
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{where}: a topic must be a name, or `name` and `about`: {place}: {first['msg']}") from error
    names = [topic.name for topic in topics]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(
            f"{where}: a topic must be listed once, but {twice[0]!r} is there {names.count(twice[0])} times"
        )
    return topics

"""Prompts with `{placeholders}`; every other brace is left alone, so that a prompt may show JSON."""

import re
from collections.abc import Collection, Mapping

from datagen.errors import ConfigError

_PLACEHOLDER = re.compile(r"\{([a-z_][a-z0-9_]*)\}")


def placeholders(prompt: str) -> set[str]:
    """Names that a prompt asks to be filled in."""
    return set(_PLACEHOLDER.findall(prompt))


def check_prompt(where: str, prompt: str, names: Collection[str], needed: str = "") -> None:
    """Refuses a prompt that would be sent with a hole in it, or without what it is about.

    Args:
        where: the prompt stands in the config.
        names: what it may name.
        needed: which of them it must name.

    Raises:
        ConfigError: it names another, or not the one that it must.
    """
    asked = placeholders(prompt)
    if unknown := sorted(asked - {*names}):
        raise ConfigError(f"{where}: a prompt may name {', '.join(names)}, but names {{{unknown[0]}}}; correct it")
    if needed and needed not in asked:
        raise ConfigError(f"{where}: a prompt must show what it asks about, but has no {{{needed}}}; add it")


def fill(prompt: str, values: Mapping[str, str]) -> str:
    """A prompt with its placeholders filled in; what a value holds is never filled in again."""
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), prompt)

"""Prompts with `{placeholders}`; every other brace is left alone, so that a prompt may show JSON."""

import re
from collections.abc import Mapping

_PLACEHOLDER = re.compile(r"\{([a-z_][a-z0-9_]*)\}")


def placeholders(prompt: str) -> set[str]:
    """Names that a prompt asks to be filled in."""
    return set(_PLACEHOLDER.findall(prompt))


def fill(prompt: str, values: Mapping[str, str]) -> str:
    """A prompt with its placeholders filled in; what a value holds is never filled in again."""
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), prompt)

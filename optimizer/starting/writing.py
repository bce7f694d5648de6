"""A config as YAML in which every key says what it means."""

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from datagen.config import Expert
from optimizer.config import Config, TermConfig
from optimizer.describing import meanings, models_in

_WIDTH = 110
_FOLD = textwrap.TextWrapper(_WIDTH, break_long_words=False, break_on_hyphens=False)

#: Values that have a shorter form: all of a term but its weight, all of an expert but its model.
_SHORT: dict[type[BaseModel], str] = {TermConfig: "weight", Expert: "model"}


def written(config: Config, path: Path) -> str:
    """A config as YAML, with what it sets explicitly and comments on it.

    Args:
        config: of the run.
        path: where it will lie.
    """
    head = f"""\
# A merge of {", ".join(config.bunch.models())}, begun by `goodbunch init`.
#
# Plan:  goodbunch plan {path}
# Run:   goodbunch datagen {path}
#        goodbunch search {path}
#
# The comments say what a key means. Keys that are not here have their defaults.
"""
    values = config.model_dump(mode="json", exclude_unset=True)
    return "\n".join([head, *_lines(values, Config, 0, set()), ""])


def _lines(values: Mapping[str, Any], model: type[BaseModel], depth: int, said: set[str]) -> Iterator[str]:
    """A model's keys and values; what a key means is said where it comes first."""
    pad, meaning = "  " * depth, meanings(model)
    for key, value in values.items():
        if depth == 0 and key != next(iter(values)) and isinstance(value, Mapping):
            yield ""
        if (text := meaning.get(key, "")) and text not in said:
            said.add(text)
            yield from textwrap.wrap(text, _WIDTH, initial_indent=f"{pad}# ", subsequent_indent=f"{pad}# ")
        nested = models_in(model.model_fields[key].annotation)
        if not nested or not isinstance(value, Mapping):
            yield from _leaf(key, value, pad)
        elif _is_named(model, key):
            yield f"{pad}{key}:"
            for name, one in value.items():
                yield from _block(name, one, nested[0], depth + 1, said)
        else:
            yield from _block(key, value, nested[0], depth, said)


def _leaf(key: str, value: Any, pad: str) -> Iterator[str]:
    """A value on the key's line; what is too long for it is put on several."""
    line, below = f"{pad}{key}: {_flow(value)}", f"{pad}  "
    if len(line) <= _WIDTH:
        yield line
    elif isinstance(value, str) and value == " ".join(value.split()):  # folding keeps no other white space
        yield f"{pad}{key}: >-"
        yield from textwrap.indent("\n".join(_FOLD.wrap(value)), below).splitlines()
    elif isinstance(value, str):
        yield line
    else:
        yield f"{pad}{key}:"
        # PyYAML ends a line after the item that passes the width.
        text = yaml.safe_dump(value, default_flow_style=None, width=_WIDTH - 40, allow_unicode=True, sort_keys=False)
        yield from textwrap.indent(text.rstrip(), below).splitlines()


def _block(name: str, value: Mapping[str, Any], model: type[BaseModel], depth: int, said: set[str]) -> Iterator[str]:
    pad, short = "  " * depth, _SHORT.get(model)
    if short is not None and set(value) == {short}:
        yield f"{pad}{_flow(name)}: {_flow(value[short])}"
    elif not value or (short is not None and all(not isinstance(one, Mapping) for one in value.values())):
        yield f"{pad}{_flow(name)}: {_flow(value)}"
    else:
        yield f"{pad}{_flow(name)}:"
        yield from _lines(value, model, depth + 1, said)


def _is_named(model: type[BaseModel], key: str) -> bool:
    """Whether a key's value is models by name rather than one model."""
    return getattr(model.model_fields[key].annotation, "__origin__", None) is dict


def _flow(value: Any) -> str:
    """A value on one line; in a list, so that the end of a document is not marked."""
    return yaml.safe_dump([value], default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False)[1:-2]

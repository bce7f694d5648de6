"""What the keys of a config mean, read from the docstrings of the models that a config is made of."""

import inspect
import re
import textwrap
from typing import Any, get_args

from pydantic import BaseModel

#: `name: what it is`, the first line of an entry in a docstring's section.
_ENTRY = re.compile(r"^(\w+): (.+)$")


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Key -> what it means; what a class does not say of a key is taken from the classes that it extends.

    A key without an entry of its own, whose value is a model, has the first line of that model's docstring.
    """
    found: dict[str, str] = {}
    for one in reversed(model.__mro__):
        if issubclass(one, BaseModel) and one is not BaseModel:
            found |= _attributes(one.__dict__.get("__doc__") or "")
    for name, field in model.model_fields.items():
        if name not in found and (nested := models_in(field.annotation)):
            found[name] = headline(nested[0])
    return {name: found[name] for name in model.model_fields if name in found}


def headline(model: type[BaseModel]) -> str:
    """The first paragraph of a model's docstring."""
    return " ".join(inspect.cleandoc(model.__doc__ or "").partition("\n\n")[0].split())


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a value of a type is made of, outermost first."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def _attributes(doc: str) -> dict[str, str]:
    """The entries of the section `Attributes:`."""
    section = inspect.cleandoc(doc).partition("Attributes:\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    name = ""
    for line in textwrap.dedent(section).splitlines():
        if entry := _ENTRY.match(line):
            name, text = entry.groups()
            found[name] = text
        elif name:
            found[name] += f" {line.strip()}"
    return found

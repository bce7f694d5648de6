"""YAML file and command-line overrides to a `Config`, with every mistake told at once."""

import difflib
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from datagen.errors import ConfigError
from datagen.progress import note
from datagen.reading import UnfitError, check_yaml, read_text, unfit_text
from optimizer.config import Config
from optimizer.interpolation import check_references, filled

#: Bytes of a config at most, and values with its aliases written out.
CONFIG_BYTES, CONFIG_VALUES = 1 << 20, 10_000

#: What YAML makes of things that look like a date or a number and are none, and OmegaConf of a list where a mapping is.
_MISFITS = (LookupError, OverflowError, TypeError, ValueError)

#: Letters of a wrong value that are told.
_TOLD = 200


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a config, ours or one of mergekit-evolve's.

    Args:
        path: of a YAML file; `${run}` in it stands for the value of that key.
        overrides: `key.path=value`, stronger than the file.

    Raises:
        ConfigError: the file is missing or no YAML, or keys are unknown, missing or out of range; one line tells all.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file; see configs/ for examples")
    if wrong := [override for override in overrides if "=" not in override.lstrip("=")]:
        raise ConfigError(f"an override must read key=value, but got {wrong[0]!r}")
    try:
        values = filled(_merged(_read(path), overrides))
    except (UnfitError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    if "genome" in values:
        values = _from_evolve(path, values)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe(error, Config)}") from error


def _read(path: Path) -> DictConfig:
    text = read_text(path, ConfigError, CONFIG_BYTES)
    check_yaml(text, CONFIG_VALUES)
    try:
        written = OmegaConf.load(StringIO(text)) if text.strip() else OmegaConf.create()
    except (*_MISFITS, yaml.YAMLError, OSError) as error:
        raise UnfitError(f"must be YAML, but {' '.join(str(error).split())}") from error
    if not isinstance(written, DictConfig):
        raise UnfitError("a config must be a mapping of keys, but the file holds something else")
    check_references(OmegaConf.to_container(written))
    return written


def _merged(written: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Keys and values as they are written, those of the command line over the file's."""
    for override in overrides:
        try:
            if problem := unfit_text(override):
                raise UnfitError(f"it has {problem}")
            check_yaml(override.partition("=")[2], CONFIG_VALUES)
            more = OmegaConf.from_dotlist([override])
            check_references(OmegaConf.to_container(more))
            merged = OmegaConf.merge(written, more)
        except (*_MISFITS, UnfitError, yaml.YAMLError, OmegaConfBaseException) as error:
            told = " ".join(str(error).split())
            raise ConfigError(f"an override must read key=value, but {override!r} does not: {told}") from error
        written = merged if isinstance(merged, DictConfig) else written
    return cast(dict[str, Any], OmegaConf.to_container(written))


def _from_evolve(path: Path, values: Mapping[Any, Any]) -> dict[str, Any]:
    from optimizer.recipes.evolve import read_evolve  # it needs this module, and torch

    try:
        mapped, notes = read_evolve(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    for one in notes:
        note(one)
    return mapped


def describe(error: ValidationError, root: type[BaseModel]) -> str:
    """Every mistake on one line, with a suggestion for unknown keys.

    Args:
        error: what pydantic raised.
        root: the model that was validated.
    """
    return "; ".join(_describe(details, root) for details in error.errors())


def _describe(details: ErrorDetails, root: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in details["loc"]) or "config"
    if details["type"] == "extra_forbidden":
        return f"{where}: unknown key{_suggestion(details['loc'], root)}"
    if details["type"] == "value_error":
        # Our own validators name the place themselves.
        return details["msg"].removeprefix("Value error, ")
    return (
        f"{where}: {details['msg'].lower()}, but got {_short(details['input'])}"
        if details["type"] != "missing"
        else (f"{where}: this key must be set")
    )


def _short(value: object) -> str:
    told = repr(value)
    return told if len(told) <= _TOLD else f"{told[:_TOLD]}..."


def _suggestion(loc: Sequence[int | str], root: type[BaseModel]) -> str:
    model = _model_at(root, loc[:-1])
    if model is None:
        return ""
    fields = list(model.model_fields)
    close = difflib.get_close_matches(str(loc[-1]), fields, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known keys are {', '.join(fields)}"


def _model_at(annotation: Any, loc: Sequence[int | str]) -> type[BaseModel] | None:
    """The pydantic model that a path of keys leads to."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _model_at(get_args(annotation)[0], loc)
    if origin in (Union, UnionType):
        found = (_model_at(option, loc) for option in get_args(annotation))
        return next((model for model in found if model is not None), None)
    if origin in (dict, list):
        return _model_at(get_args(annotation)[-1], loc[1:]) if loc else None
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return None
    if not loc:
        return annotation
    field = annotation.model_fields.get(str(loc[0]))
    return _model_at(field.annotation, loc[1:]) if field else None

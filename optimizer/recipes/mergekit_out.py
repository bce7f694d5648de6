"""Any recipe as mergekit's YAML.

`mergekit-yaml` makes the same tensors of it, random masks apart: its draws differ.
"""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from datagen.errors import ConfigError
from optimizer.merging.groups import depth_order
from optimizer.merging.methods import METHODS
from optimizer.merging.methods.base import Method, Value
from optimizer.recipes.recipe import Recipe, TensorRecipe

#: Methods that mergekit lacks, and which of its own comes to the same.
METHOD_NAMES = {"mergealign": "task_arithmetic", "lm_cocktail": "linear"}

_NO_TOKENIZER = """\
# tokenizer_source is left out: with it, mergekit drops the rows of the embeddings that pad the vocabulary.
# The merge's tokenizer is that of {}; copy its files over those that mergekit takes from the base.
"""

_RANKED = """\
# The recipe names no dtype, so magnitudes were ranked in the type of the sources, but mergekit ranks them in float32:
# where the sources are not float32, a few elements at the edge of a trim may differ.
"""

#: Tensor name -> its value.
Values = Mapping[str, Value]


def mergekit_config(recipe: Recipe, names: Sequence[str], out_dtype: str = "", *, with_tokenizer: bool = True) -> str:
    """Writes a recipe in mergekit's YAML.

    Args:
        recipe: whose tensors are all made from the same sources.
        names: of all tensors.
        out_dtype: what is written where the recipe does not say; mergekit would write the type it merges in.
        with_tokenizer: whether the file says whose tokenizer is kept; mergekit then makes embeddings of one row per
            token, so without rows that pad a vocabulary.

    Raises:
        ConfigError: mergekit cannot make this merge.
    """
    tensors = {name: _as_mergekit(recipe.method, tensor) for name, tensor in recipe.resolve(names).items()}
    method = METHODS[METHOD_NAMES.get(recipe.method.name, recipe.method.name)]
    base, experts = _sources(tensors.values())
    _check_coefficients(method, tensors)
    own, shared = _parameters(method, tensors, len(experts))
    models = [{"model": recipe.models[name], "parameters": own[i]} for i, name in enumerate(experts)]
    written: dict[str, Any] = {"merge_method": method.name}
    if base:
        models = [{"model": recipe.models[base]}, *models]
        written["base_model"] = recipe.models[base]
    elif method.base == "unused" and (recipe.base in experts or method.coefficient.name == "weight"):
        # It gives config.json; mergekit takes it for a source, so if it is none it must weigh nothing.
        if recipe.base not in experts:
            models = [{"model": recipe.models[recipe.base], "parameters": {"weight": 0.0}}, *models]
        written["base_model"] = recipe.models[recipe.base]
    written["models"] = [{key: value for key, value in model.items() if value} for model in models]
    written["parameters"] = shared
    written["dtype"] = recipe.dtype or "float32"
    written["out_dtype"] = recipe.out_dtype or out_dtype
    comments = ""
    if not recipe.dtype and written["out_dtype"] not in ("", "float32") and _ranks(method):
        comments += _RANKED
    if (tokenizer := recipe.models[recipe.tokenizer]) != written.get("base_model"):
        if with_tokenizer:
            written["tokenizer_source"] = tokenizer
        else:
            comments += _NO_TOKENIZER.format(json.dumps(tokenizer))
    written["chat_template"] = recipe.chat_template
    kept = {key: value for key, value in written.items() if value not in ("", {})}
    return comments + yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=110)


def _ranks(method: Method) -> bool:
    """Whether which elements are merged depends on their ranks."""
    return any(parameter.name in ("density", "select_topk") for parameter in method.parameters)


def _as_mergekit(method: Method, tensor: TensorRecipe) -> TensorRecipe:
    """A tensor's recipe in terms of the method that mergekit has."""
    coefficients = tensor.per_expert("mergekit")
    if method.name != "lm_cocktail":
        return tensor
    temperature = float(method.settings(tensor.settings, len(tensor.experts))["temperature"])  # type: ignore[arg-type]
    weights = _softmax([coefficient / temperature for coefficient in coefficients])
    return dataclasses.replace(tensor, coefficients=weights, settings={"normalize": False})


def _softmax(values: Sequence[float]) -> tuple[float, ...]:
    powers = [math.exp(value - max(values)) for value in values]
    return tuple(power / sum(powers) for power in powers)


def _sources(tensors: Iterable[TensorRecipe]) -> tuple[str | None, tuple[str, ...]]:
    """Base and experts, which must be the same for all tensors."""
    found = {(tensor.base, tensor.experts) for tensor in tensors}
    if len(found) != 1:
        raise ConfigError(
            f"all tensors must be made from the same base and experts to be written for mergekit, but there are "
            f"{len(found)} sets of them; keep the recipe's own slices"
        )
    return found.pop()


def _check_coefficients(method: Method, tensors: Mapping[str, TensorRecipe]) -> None:
    """Where mergekit has no coefficient, every one must be what it takes for granted."""
    if method.coefficient.name:
        return
    for name, tensor in tensors.items():
        if any(coefficient != method.coefficient.default for coefficient in tensor.per_expert("mergekit")):
            raise ConfigError(
                f"mergekit's {method.name} has no coefficients, so all must be {method.coefficient.default}, but "
                f"{name} has {list(tensor.coefficients)}; such a merge cannot be written for mergekit"
            )


def _parameters(
    method: Method, tensors: Mapping[str, TensorRecipe], experts: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Every parameter, defaults too: those of each expert, and those of all."""
    own: list[dict[str, Any]] = [{} for _ in range(experts)]
    shared: dict[str, Any] = {}
    coefficient = method.coefficient
    by_expert = [{name: tensor.per_expert("mergekit")[i] for name, tensor in tensors.items()} for i in range(experts)]
    if coefficient.name and coefficient.shared:
        shared[coefficient.name] = _setting(by_expert[0])
    elif coefficient.name:
        for one, values in zip(own, by_expert, strict=True):
            one[coefficient.name] = _setting(values)
    full = {name: method.settings(tensor.settings, experts) for name, tensor in tensors.items()}
    for parameter in method.parameters:
        every: dict[str, Any] = {name: settings[parameter.name] for name, settings in full.items()}
        if not parameter.per_expert:
            shared[parameter.name] = _setting(every)
            continue
        for i, one in enumerate(own):
            one[parameter.name] = _setting({name: values[i] for name, values in every.items()})
    return own, shared


def _setting(values: Values) -> Value | list[dict[str, str | Value]]:
    """A scalar if all tensors share it, else entries of which the first that matches a tensor's name counts.

    A filter matches any part of a name, so longer names come before names that are part of them, tensors before their
    layers, and whatever would be caught by another's filter gets an entry of its own.
    """
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    rest = Counter(values.values()).most_common(1)[0][0]
    layers = {layer: value for layer, value in _layers(values).items() if value != rest}
    covered = {name for layer, value in layers.items() for name in values if layer in name and values[name] == value}
    single = {name: value for name, value in values.items() if name not in covered and value != rest}
    while True:
        filters = {name: single[name] for name in sorted(single, key=lambda name: (-len(name), name))} | layers
        caught = {
            name: value
            for name, value in values.items()
            if name not in single and next((filters[part] for part in filters if part in name), rest) != value
        }
        if not caught:
            return [{"filter": part, "value": value} for part, value in filters.items()] + [{"value": rest}]
        single |= caught


def _layers(values: Values) -> dict[str, Value]:
    """`.layers.N.` -> the value of all tensors in that layer, in order; layers with several values are left out."""
    inside: dict[str, set[Value]] = {}
    for name in sorted(values, key=depth_order):
        stage, layer, _ = depth_order(name)
        if stage == 1:
            stack = name.split(f".{layer}.")[0].rsplit(".", 1)[-1]
            inside.setdefault(f".{stack}.{layer}.", set()).add(values[name])
    return {layer: found.pop() for layer, found in inside.items() if len(found) == 1}

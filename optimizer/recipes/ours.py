"""Our own recipes: coefficients by group.

For example:

```yaml
method: ties
base: meta-llama/Llama-3.2-1B
experts: {aligned: meta-llama/Llama-3.2-1B-Instruct, medicine: runs/medicine}
groups: layer
coefficients: {aligned: 0.7, medicine: {embeddings: 0.1, layer 0: 0.4, ...}}
parameters: {density: {aligned: 0.5, medicine: 0.3}}
```
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, PlainValidator, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from datagen.errors import ConfigError
from datagen.frozen import Settings
from optimizer.loading import describe
from optimizer.merging.groups import blocks_named, groups
from optimizer.merging.methods import METHODS
from optimizer.merging.methods.base import Method, Value
from optimizer.merging.space import BLOCK
from optimizer.recipes.gradients import read_value
from optimizer.recipes.recipe import Recipe, TensorRecipe, beyond_defaults

BASE = "base"
GRANULARITIES = ("model", "layer", "module", "tensor", BLOCK)

Granularity = Literal["model", "layer", "module", "tensor", "block"]
DType = Literal["", "float64", "float32", "bfloat16", "float16"]


def _by_group(value: Any) -> float | dict[str, float]:
    try:
        if isinstance(value, Mapping):
            return {str(group): float(read_value(one, float, "")) for group, one in value.items()}
        return float(read_value(value, float, ""))
    except ConfigError as error:
        raise PydanticCustomError("coefficient", "must be a finite number, or one by group") from error


def _by_expert(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str | Mapping):
        raise PydanticCustomError("parameter", "must be one value, or one by expert")
    return value


class RecipeFile(Settings):
    """A recipe as it stands in its file.

    Attributes:
        method: a merge method's name.
        base: what task vectors are taken against: a folder, a Hugging Face name, or `model+adapter`; methods without
            task vectors take config.json from it alone.
        experts: the other sources, by name.
        tokenizer: the source whose tokenizer and chat template are kept; by default the base, else the first expert.
        groups: which tensors share a coefficient; by default whichever has the groups that the coefficients name.
        coefficients: by expert: a number, or one for each group.
        parameters: the method's hyper-parameters; those per expert may be one for each expert.
        dtype: what sources are cast to before merging; empty keeps their common type.
        out_dtype: what is written; empty for the type merged in.
        chat_template: a Jinja template that replaces the tokenizer's.
        seed: of random masks.
    """

    method: str
    base: str = ""
    experts: dict[str, str] = Field(min_length=1)
    tokenizer: str = ""
    groups: Granularity | None = None
    coefficients: dict[str, Annotated[float | dict[str, float], PlainValidator(_by_group)]] = {}
    parameters: dict[str, Annotated[Any, PlainValidator(_by_expert)]] = {}
    dtype: DType = ""
    out_dtype: DType = ""
    chat_template: str = ""
    seed: int = 0

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        if BASE in self.experts:
            raise ValueError("experts: no expert may be named `base`; that is what the base model is called")
        sources = [*([BASE] if self.base else []), *self.experts]
        if self.tokenizer and self.tokenizer not in sources:
            raise ValueError(f"tokenizer: must be one of {', '.join(sources)}, but got {self.tokenizer!r}")
        return self


@dataclass(frozen=True)
class GroupedRecipe(Recipe):
    """A merge whose coefficients are shared by groups of tensors.

    The base, if there is one, is the source named `base`; all others are experts, in the order of `models`.

    Attributes:
        groups: `model`, `layer`, `module`, `tensor` or `block`; empty for whichever has the groups that are named.
        coefficients: expert -> one number, or one for each group.
        parameters: hyper-parameters that are not at their default: one value, or one by expert.
    """

    groups: str = ""
    coefficients: Mapping[str, float | Mapping[str, float]] = field(default_factory=dict)
    parameters: Mapping[str, Value | Mapping[str, Value]] = field(default_factory=dict)

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the sources besides the base."""
        return tuple(name for name in self.models if name != BASE)

    def resolve(self, names: Sequence[str]) -> dict[str, TensorRecipe]:
        """Every tensor's own recipe; see the base class."""
        made_of = self._made_of(names, self.groups or self._granularity(names))
        known = dict.fromkeys(group for some in made_of.values() for group in some)
        for expert, coefficient in self.coefficients.items():
            if isinstance(coefficient, Mapping):
                _check_names(f"coefficients.{expert}", coefficient, known, "group")
        base = BASE if BASE in self.models and self.method.base != "unused" else None
        settings = beyond_defaults(self.method, self._given(), len(self.experts))
        return {name: TensorRecipe(base, self.experts, self._of_groups(made_of[name]), settings) for name in names}

    def _made_of(self, names: Sequence[str], granularity: str) -> dict[str, list[str]]:
        """Tensor -> its group, or its blocks'."""
        if granularity == BLOCK:
            named = next((set(one) for one in self.coefficients.values() if isinstance(one, Mapping)), set())
            return {name: blocks_named(name, named) for name in names}
        return {name: [group] for group, inside in groups(names, granularity).items() for name in inside}

    def _of_groups(self, made_of: Sequence[str]) -> tuple[float, ...] | tuple[tuple[float, ...], ...]:
        blocks = tuple(self._coefficients(group) for group in made_of)
        return blocks[0] if len(blocks) == 1 else blocks

    def _coefficients(self, group: str) -> tuple[float, ...]:
        given = [self.coefficients[expert] for expert in self.experts]
        return tuple(one[group] if isinstance(one, Mapping) else one for one in given)

    def _given(self) -> dict[str, Value | tuple[Value, ...]]:
        """Parameters with those by expert in the experts' order."""
        return {
            name: tuple(value[expert] for expert in self.experts) if isinstance(value, Mapping) else value
            for name, value in self.parameters.items()
        }

    def _granularity(self, names: Sequence[str]) -> str:
        """The granularity with just the groups that the coefficients name, else the one that shares most of them."""
        named = next((set(one) for one in self.coefficients.values() if isinstance(one, Mapping)), None)
        if named is None:
            return "model"
        sets = {
            granularity: {group for some in self._made_of(names, granularity).values() for group in some}
            for granularity in GRANULARITIES
        }
        return max(sets, key=lambda granularity: (sets[granularity] == named, len(sets[granularity] & named)))

    def to_yaml(self) -> str:
        """The recipe as a file that `read_recipe` takes; what is at its default is left out."""
        experts = {name: self.models[name] for name in self.experts}
        written = {
            "method": self.method.name,
            "base": self.models.get(BASE, ""),
            "experts": experts,
            "tokenizer": self.tokenizer,
            "groups": self.groups,
            "coefficients": {name: _plain(one) for name, one in self.coefficients.items()},
            "parameters": {name: _plain(one) for name, one in self.parameters.items()},
            "dtype": self.dtype,
            "out_dtype": self.out_dtype,
            "chat_template": self.chat_template,
            "seed": self.seed,
        }
        return yaml.safe_dump(
            {key: value for key, value in written.items() if value not in ("", {}, 0)},
            sort_keys=False,
            allow_unicode=True,
            width=110,
        )


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def read_ours(values: Mapping[str, Any]) -> GroupedRecipe:
    """A recipe from the keys of its file.

    Raises:
        ConfigError: keys are unknown, missing or out of range, or experts and parameters do not fit the method.
    """
    try:
        file = RecipeFile.model_validate(values)
    except ValidationError as error:
        raise ConfigError(describe(error, RecipeFile)) from error
    method = METHODS[file.method]
    method.check(len(file.experts), bool(file.base))
    models = ({BASE: file.base} if file.base else {}) | file.experts
    first = next(iter(models))
    return GroupedRecipe(
        method=method,
        models=models,
        base=first,
        tokenizer=file.tokenizer or first,
        dtype=file.dtype,
        out_dtype=file.out_dtype,
        chat_template=file.chat_template,
        seed=file.seed,
        groups=file.groups or "",
        coefficients=_coefficients(method, file),
        parameters=_parameters(method, file),
    )


def _coefficients(method: Method, file: RecipeFile) -> dict[str, float | dict[str, float]]:
    given: dict[str, float | dict[str, float]] = {}
    if method.coefficient.default is not None:
        given |= dict.fromkeys(file.experts, method.coefficient.default)
    given |= file.coefficients
    _check_names("coefficients", given, file.experts, "expert")
    return {expert: given[expert] for expert in file.experts}


def _parameters(method: Method, file: RecipeFile) -> dict[str, Value | dict[str, Value]]:
    known = {parameter.name: parameter for parameter in method.parameters}
    read: dict[str, Value | dict[str, Value]] = {}
    for name, value in file.parameters.items():
        if name not in known:
            method.settings({name: 0}, len(file.experts))  # raises, with a suggestion
        kind, where = type(known[name].default), f"parameters.{name}"
        if not isinstance(value, Mapping):
            read[name] = read_value(value, kind, where)
            continue
        if not known[name].per_expert:
            raise ConfigError(f"{where}: must be one value for all experts, but got {dict(value)}")
        _check_names(where, value, file.experts, "expert")
        read[name] = {expert: read_value(value[expert], kind, f"{where}.{expert}") for expert in file.experts}
    return read


def _check_names(where: str, given: Iterable[str], wanted: Iterable[str], what: str) -> None:
    """Raises ConfigError unless the same names are given as wanted."""
    given, wanted = dict.fromkeys(given), dict.fromkeys(wanted)
    problems = []
    if unknown := [name for name in given if name not in wanted]:
        close = difflib.get_close_matches(unknown[0], wanted, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        problems.append(f"no {what} {_few(unknown)}{hint}")
    if missing := [name for name in wanted if name not in given]:
        problems.append(f"nothing for {what} {_few(missing)}")
    if problems:
        raise ConfigError(f"{where}: must name every {what} once, but there is {' and '.join(problems)}")


def _few(names: Sequence[str]) -> str:
    """At most three names, and how many more."""
    return ", ".join(repr(name) for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

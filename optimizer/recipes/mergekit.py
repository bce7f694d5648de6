"""mergekit's YAML, with the values mergekit 0.1.5 gives each tensor; what cannot be had is refused by name.

A source's parameters are stronger than its slice's, those than the top's. Layer i of a slice of n layers stands at
depth t = i / (n - 1), at 1 if n is 1; embeddings stand at 0 of the first slice, final norm and head at 0 of the last.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import yaml
from pydantic import BeforeValidator, Field, PlainValidator, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from datagen.errors import ConfigError
from datagen.frozen import Settings
from optimizer.loading import describe
from optimizer.merging.groups import depth_order
from optimizer.merging.methods import METHODS
from optimizer.merging.methods.base import Method, Value
from optimizer.recipes.gradients import Setting, read_setting, value_at
from optimizer.recipes.recipe import Recipe, TensorRecipe, beyond_defaults
from optimizer.recipes.references import Reference, short_names

_DTYPES = ("float64", "float32", "bfloat16", "float16")

#: Accepted everywhere, with a note: it saves memory in mergekit and changes no number.
_INT8_MASK = "int8_mask"


def _dtype(value: Any) -> str:
    name = value.removeprefix("torch.") if isinstance(value, str) else value
    if name not in _DTYPES:
        raise PydanticCustomError("dtype", f"must be one of {', '.join(_DTYPES)}")
    return str(name)


def _template(value: Any) -> str:
    if not isinstance(value, str) or "{" not in value:
        raise PydanticCustomError(
            "template", "must be a Jinja template; `auto` and templates by name are not supported"
        )
    return value


def _tokenizer(value: Any) -> Any:
    if value == "union":
        raise PydanticCustomError("tokenizer", "must be `base` or a model; a union of vocabularies is not supported")
    return value


DType = Annotated[str, PlainValidator(_dtype)]
Tokenizer = Annotated[Reference, BeforeValidator(_tokenizer)]
Parameters = dict[str, Any]


class _Block(Settings):
    """A mapping in mergekit's YAML, where null is as good as nothing."""

    #: Keys of mergekit's that are not supported, with the reason.
    refused: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        given = {key: value for key, value in values.items() if value is not None}
        for key, reason in cls.refused.items():
            if key in given:
                raise ValueError(f"{key}: not supported; {reason}")
        return given


class _Model(_Block):
    model: Reference
    parameters: Parameters = {}


class _SliceSource(_Model):
    layer_range: tuple[int, int]


class _Slice(_Block):
    refused = {"residual_weight": "mergekit does not use it either, remove it"}

    sources: list[_SliceSource] = Field(min_length=1)
    base_model: Reference = ""
    parameters: Parameters = {}


class _TokenizerBlock(_Block):
    refused = dict.fromkeys(("tokens", "pad_to_multiple_of"), "sources must share one vocabulary, which is kept")

    source: Tokenizer = Field("union", validate_default=True)


class MergekitFile(_Block):
    """A mergekit config as it stands in its file; the keys are mergekit's."""

    refused = {"modules": "only text models of one stack can be merged, write `models` or `slices`"}

    merge_method: str
    models: list[_Model] = []
    slices: list[_Slice] = []
    base_model: Reference = ""
    parameters: Parameters = {}
    dtype: DType = ""
    out_dtype: DType = ""
    tokenizer_source: Tokenizer = ""
    tokenizer: _TokenizerBlock | None = None
    chat_template: Annotated[str, PlainValidator(_template)] = ""

    @model_validator(mode="after")
    def _one_of(self) -> "MergekitFile":
        if bool(self.models) == bool(self.slices):
            raise ValueError("exactly one of `models` and `slices` must be given")
        if self.tokenizer_source and self.tokenizer:
            raise ValueError("tokenizer, tokenizer_source: only one of them may be given")
        return self


@dataclass(frozen=True)
class Source:
    """A model of a slice.

    Attributes:
        name: in the recipe's models.
        settings: its own parameters.
    """

    name: str
    settings: Mapping[str, Setting]


@dataclass(frozen=True)
class Slice:
    """A run of layers that are merged alike.

    Attributes:
        layers: first, and the one after the last; None for all there are.
        sources: in the order of the file, the base among them if the method has one.
        base: name of the base.
        settings: parameters for all sources.
    """

    layers: tuple[int, int] | None
    sources: tuple[Source, ...]
    base: str | None
    settings: Mapping[str, Setting]

    @property
    def experts(self) -> tuple[Source, ...]:
        """The sources besides the base."""
        return tuple(source for source in self.sources if source.name != self.base)


@dataclass(frozen=True)
class MergekitRecipe(Recipe):
    """A merge as a mergekit config describes it.

    Attributes:
        slices: in the order of the layers.
        settings: parameters for all slices.
        text: the config as YAML.
    """

    slices: tuple[Slice, ...] = ()
    settings: Mapping[str, Setting] = field(default_factory=dict)
    text: str = ""

    def resolve(self, names: Sequence[str]) -> dict[str, TensorRecipe]:
        """Every tensor's own recipe; see the base class."""
        layers = _count_layers(names)
        if (covered := self.slices[-1].layers) and covered[1] != layers:
            raise ConfigError(f"slices: must cover all {layers} layers of the model, but end at layer {covered[1]}")
        return {name: self._tensor(name, *self._place(name, layers)) for name in names}

    def _place(self, name: str, layers: int) -> tuple[Slice, float]:
        """A tensor's slice, and its depth t in it."""
        layer = _layer(name)
        if layer is None:
            return self.slices[0 if _is_embedding(name) else -1], 0.0
        for one in self.slices:
            begin, end = one.layers or (0, layers)
            if begin <= layer < end:
                return one, (layer - begin) / (end - begin - 1) if end - begin > 1 else 1.0
        raise ConfigError(f"slices: must cover layer {layer}")

    def _tensor(self, name: str, one: Slice, t: float) -> TensorRecipe:
        shared = (one.settings, self.settings)
        given: dict[str, Value | tuple[Value, ...]] = {}
        for parameter in self.method.parameters:
            if parameter.per_expert:
                own = [_first((source.settings, *shared), parameter.name, name, t) for source in one.experts]
                given[parameter.name] = tuple(parameter.default if value is None else value for value in own)
            elif (value := _first(shared, parameter.name, name, t)) is not None:
                given[parameter.name] = value
        experts = tuple(source.name for source in one.experts)
        coefficients = tuple(self._coefficient(source, shared, name, t) for source in one.experts)
        return TensorRecipe(one.base, experts, coefficients, beyond_defaults(self.method, given, len(experts)))

    def _coefficient(self, source: Source, shared: Sequence[Mapping[str, Setting]], name: str, t: float) -> float:
        coefficient = self.method.coefficient
        levels = shared if coefficient.shared else (source.settings, *shared)
        value = _first(levels, coefficient.name, name, t)
        if value is None:
            value = coefficient.default
        if value is None:
            raise ConfigError(
                f"{self.method.name} needs {coefficient.name!r} for every tensor, but {source.name} has none for "
                f"{name}; set it, or add a last entry without filter"
            )
        return float(value)


def _first(levels: Sequence[Mapping[str, Setting]], parameter: str, tensor: str, t: float) -> Value | None:
    """The value at the strongest level that has one for this tensor."""
    for level in levels:
        if parameter in level and (value := value_at(level[parameter], tensor, t)) is not None:
            return value
    return None


def _layer(name: str) -> int | None:
    stage, layer, _ = depth_order(name)
    return layer if stage == 1 else None


def _is_embedding(name: str) -> bool:
    # GPT-NeoX calls its head embed_out.
    return any(part in name for part in ("embed", "wte", "wpe")) and "embed_out" not in name


def _count_layers(names: Sequence[str]) -> int:
    """How many layers the model has, all of one stack."""
    found = {name: layer for name in names if (layer := _layer(name)) is not None}
    stacks = sorted({name.split(f".{layer}.")[0] for name, layer in found.items()})
    if len(stacks) > 1:
        raise ConfigError(f"only models of one stack of layers can be merged so, but there are {', '.join(stacks)}")
    return max(found.values(), default=-1) + 1


def read_mergekit(values: Mapping[str, Any]) -> MergekitRecipe:
    """A recipe from the keys of a mergekit config.

    Raises:
        ConfigError: keys are unknown, unsupported, missing or out of range, or models do not fit the method.
    """
    try:
        file = MergekitFile.model_validate(values)
    except ValidationError as error:
        raise ConfigError(describe(error, MergekitFile)) from error
    method = METHODS[file.merge_method]
    if not method.coefficient.name and method.coefficient.default is None:
        raise ConfigError(f"merge_method: {method.name} has no coefficient in mergekit's YAML; write a recipe of ours")
    reader = _Reader(method, file)
    slices = tuple(reader.slices())
    settings = reader.settings(file.parameters, "parameters")
    bases = (file.base_model, *(one.base_model for one in file.slices), reader.references[0])
    base = next(base for base in bases if base in reader.names)
    return MergekitRecipe(
        method=method,
        models={name: reference for reference, name in reader.names.items()},
        base=reader.names[base],
        tokenizer=reader.tokenizer(),
        dtype=file.dtype,
        out_dtype=file.out_dtype,
        chat_template=file.chat_template,
        notes=tuple(dict.fromkeys(reader.notes)),
        slices=slices,
        settings=settings,
        text=yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=110),
    )


class _Reader:
    """A checked file on its way to a recipe.

    Attributes:
        references: of all models, in the order of the file, an unlisted base last.
        names: reference -> short name.
        notes: what is taken but makes no difference.
    """

    def __init__(self, method: Method, file: MergekitFile) -> None:
        self.method, self.file = method, file
        listed = [source.model for source in file.models]
        listed += [source.model for one in file.slices for source in one.sources]
        self.references = listed + ([file.base_model] if file.base_model and file.base_model not in listed else [])
        self.names = short_names(self.references)
        self.notes: list[str] = []

    def slices(self) -> Iterator[Slice]:
        """The slices, checked to be one whole stack; `models` make one slice."""
        if self.file.models:
            listed = [source.model for source in self.file.models]
            base = self.file.base_model
            added = [_Model(model=base)] if base and base not in listed else []
            yield self._slice([*self.file.models, *added], None, base, {}, "models")
            return
        end = 0
        for i, one in enumerate(self.file.slices):
            where = f"slices.{i}"
            ranges = {source.layer_range for source in one.sources}
            begin, following = min(ranges)
            if len(ranges) > 1 or begin != end or following <= begin:
                raise ConfigError(
                    f"{where}: all sources must take the same layers, from layer {end} on, but got "
                    f"{', '.join(str(list(layers)) for layers in sorted(ranges))}; layers cannot be stacked otherwise"
                )
            end = following
            base = one.base_model or self.file.base_model
            yield self._slice(one.sources, (begin, end), base, one.parameters, where)

    def _slice(
        self, sources: Sequence[_Model], layers: tuple[int, int] | None, base: str, parameters: Parameters, where: str
    ) -> Slice:
        listed = [source.model for source in sources]
        if doubled := [model for model in listed if listed.count(model) > 1]:
            raise ConfigError(f"{where}: every model must be listed once, but {doubled[0]} is listed again")
        if self.method.base == "unused":
            base = ""
        if base and base not in listed:
            raise ConfigError(f"{where}: the base model must be among the sources, but {base} is not; list it")
        self.method.check(len(listed) - bool(base), bool(base))
        inner = f"{where}.sources" if layers else where
        return Slice(
            layers,
            tuple(self._source(source, source.model == base, f"{inner}.{i}") for i, source in enumerate(sources)),
            self.names[base] if base else None,
            self.settings(parameters, f"{where}.parameters"),
        )

    def _source(self, source: _Model, is_base: bool, where: str) -> Source:
        settings = self.settings(source.parameters, f"{where}.parameters", own=True)
        if is_base and settings:
            self.notes.append(f"{where}.parameters: the base has none of its own; they make no difference")
            settings = {}
        return Source(self.names[source.model], settings)

    def settings(self, parameters: Parameters, where: str, own: bool = False) -> dict[str, Setting]:
        """Parameters of one level.

        Args:
            parameters: as they stand in the file.
            where: the keys that led here, for messages.
            own: whether they are one source's own.
        """
        coefficient = self.method.coefficient
        kinds: dict[str, type[Value]] = {one.name: type(one.default) for one in self.method.parameters}
        shared = {one.name for one in self.method.parameters if not one.per_expert}
        if coefficient.name:
            kinds[coefficient.name] = float
            shared |= {coefficient.name} if coefficient.shared else set()
        read: dict[str, Setting] = {}
        for name, raw in parameters.items():
            if name == _INT8_MASK:
                read_setting(raw, bool, f"{where}.{name}")
                self.notes.append(f"{_INT8_MASK}: taken, but makes no difference; it saves memory in mergekit alone")
                continue
            if name not in kinds:
                raise ConfigError(f"{where}.{name}: {_unknown(self.method, name, kinds)}")
            if own and name in shared:
                raise ConfigError(f"{where}.{name}: must be one value for all models; set it at the top")
            read[name] = read_setting(raw, kinds[name], f"{where}.{name}")
        return read

    def tokenizer(self) -> str:
        """Name of the source whose tokenizer is kept."""
        file = self.file
        key, source = "tokenizer_source", file.tokenizer_source
        if file.tokenizer:
            key, source = "tokenizer.source", file.tokenizer.source
        if source == "base" and not file.base_model:
            raise ConfigError(f"{key}: `base` needs a base_model, but none is given; set one, or name a model")
        source = file.base_model if source == "base" else source or file.base_model or self.references[0]
        if source not in self.names:
            raise ConfigError(f"{key}: must be `base` or a model that is merged, but got {source}")
        if file.tokenizer_source or file.tokenizer:
            self.notes.append(
                f"{key}: embeddings keep all rows, also those that pad the vocabulary; mergekit drops them"
            )
        return self.names[source]


def _unknown(method: Method, name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known) or 'none'}"
    return f"{method.name} has no parameter {name!r}; {hint}"

"""mergekit-evolve's configs (`genome:`, `tasks:`) as values of ours; what cannot be had is refused by name."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from datagen.errors import ConfigError
from datagen.frozen import Settings
from optimizer.config import Config
from optimizer.loading import describe
from optimizer.merging.methods import METHODS
from optimizer.merging.methods.base import Method
from optimizer.recipes.references import Reference, short_names

#: Methods whose weights mergekit-evolve divides by their sum unless told otherwise.
_NORMALIZED = ("ties", "dare_ties", "linear")

#: Layers that share a coefficient -> our word for it.
_GROUPS = {0: "model", 1: "layer"}

#: How a search goes that has nothing but tasks: as theirs does, by what every trial says.
_BY_TASKS = {"sampler": "cmaes", "answers": {"when": "trial"}}


class _Genome(Settings):
    refused: ClassVar[Mapping[str, str]] = {
        "filters": "write merge.groups=module or merge.groups=tensor, which are finer",
        "smooth": "coefficients of neighbouring layers are not tied; leave it out",
    }

    models: list[Reference] = Field(min_length=1)
    merge_method: str
    base_model: Reference | None = None
    tokenizer_source: Reference | None = None
    layer_granularity: int = Field(0, ge=0)
    normalize: bool | None = None
    allow_negative_weights: bool = False
    filters: list[str] | None = None
    smooth: bool = False

    @model_validator(mode="after")
    def _supported(self) -> Self:
        for key, remedy in self.refused.items():
            if getattr(self, key):
                raise ValueError(f"genome.{key}: not supported; {remedy}")
        if self.tokenizer_source == "union":
            raise ValueError("genome.tokenizer_source: vocabularies cannot be united; sources must share one")
        if self.layer_granularity not in _GROUPS:
            raise ValueError(
                f"genome.layer_granularity: must be 0 (one coefficient per model) or 1 (one per layer), but got "
                f"{self.layer_granularity}; blocks of layers are not supported"
            )
        return self


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class _Task(Settings):
    name: str
    weight: float = Field(1.0, gt=0)
    metric: str = "acc,none"


class _Evolve(Settings):
    genome: _Genome
    tasks: list[Annotated[_Task, BeforeValidator(_named)]] = []
    limit: int | None = None
    num_fewshot: int | None = None
    shuffle: bool = False
    random_init: bool = False
    apply_chat_template: bool = True
    fewshot_as_multiturn: bool = True

    @model_validator(mode="after")
    def _supported(self) -> Self:
        if self.random_init:
            raise ValueError("random_init: not supported; the descent begins at search.descent.start")
        return self


def read_evolve(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Values for a `Config`, and what was made of each key.

    Args:
        values: the file's keys, overrides applied: mergekit-evolve's, and any of our own, which are stronger.

    Returns:
        What `Config` is to be validated from; line by line, what was mapped and what was replaced.

    Raises:
        ConfigError: keys are unknown, or ask for what we cannot do.
    """
    theirs = {key: value for key, value in values.items() if key in _Evolve.model_fields}
    ours = {key: value for key, value in values.items() if key not in theirs}
    known = [*Config.model_fields, *_Evolve.model_fields]
    if unknown := [str(key) for key in ours if key not in known]:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        raise ConfigError(f"{unknown[0]}: unknown key" + (f"; did you mean {close[0]!r}?" if close else ""))
    try:
        evolve = _Evolve.model_validate(theirs)
    except ValidationError as error:
        raise ConfigError(describe(error, _Evolve)) from error
    bunch, notes = _bunch(evolve.genome)
    merge, more = _merge(evolve.genome)
    objective, some = _tasks(evolve)
    values = _over({"bunch": bunch, "merge": merge} | ({"objective": objective} if objective else {}), ours)
    terms = (values.get("objective") or {}).values()
    if objective and all(isinstance(term, Mapping) and term.get("task") for term in terms):
        values["search"] = _over(_BY_TASKS, values.get("search") or {})
        some.append("search: every trial is asked, and CMA-ES suggests them; add a term on your data for a descent")
    return values, [*notes, *more, *some]


def _bunch(genome: _Genome) -> tuple[dict[str, Any], list[str]]:
    """The section `bunch`; its roles are left to the user."""
    experts = [model for model in genome.models if model != genome.base_model]
    if genome.merge_method == "slerp" and (not genome.base_model or len(experts) != 1):
        raise ConfigError(
            f"genome.models: slerp must have a base_model and one other model, but got base_model "
            f"{genome.base_model} and {len(experts)} others; picking two models by weight is not supported"
        )
    names = short_names(experts, taken=["base"])
    notes = [f"genome.models: bunch.experts {', '.join(names.values())}"]
    if not genome.base_model:
        notes.append("genome.base_model: none is given, so set bunch.base=MODEL")
        return {"experts": {name: {"model": model} for model, name in names.items()}}, notes
    notes.append("genome.base_model: bunch.base")
    if genome.base_model in genome.models and genome.merge_method == "linear":
        notes.append("genome.models: the base is listed, but as bunch.base it has no coefficient of its own")
    return {"base": genome.base_model, "experts": {name: {"model": model} for model, name in names.items()}}, notes


def _merge(genome: _Genome) -> tuple[dict[str, Any], list[str]]:
    """The section `merge`."""
    method = METHODS[genome.merge_method]
    merge: dict[str, Any] = {"method": method.name, "groups": _GROUPS[genome.layer_granularity]}
    notes = [f"genome.merge_method: merge.method {method.name}"]
    notes.append(
        f"genome.layer_granularity: merge.groups {merge['groups']}"
        + ("; embeddings, final norm and head have coefficients of their own" if genome.layer_granularity else "")
    )
    merge |= _normalize(genome, method, notes)
    if any(parameter.name == "density" for parameter in method.parameters):
        notes.append("density: stays at merge.parameters.density (default 1); it is not searched with the weights")
    if not genome.allow_negative_weights:
        notes.append("genome.allow_negative_weights: replaced by search.bound, so coefficients may be negative")
    if genome.tokenizer_source:
        notes.append("genome.tokenizer_source: replaced; the merged model takes the aligned model's tokenizer")
    return merge, notes


def _normalize(genome: _Genome, method: Method, notes: list[str]) -> dict[str, Any]:
    defaults = {parameter.name: parameter.default for parameter in method.parameters}
    wanted = method.name in _NORMALIZED if genome.normalize is None else genome.normalize
    if defaults.get("normalize", False) == wanted:
        return {}
    if "normalize" not in defaults:
        notes.append(f"genome.normalize: {method.name} has no such parameter, it makes no difference")
        return {}
    notes.append(f"genome.normalize: merge.parameters.normalize {str(wanted).lower()}")
    return {"parameters": {"normalize": wanted}}


def _tasks(evolve: _Evolve) -> tuple[dict[str, Any], list[str]]:
    """The tasks as terms of the objective."""
    if not evolve.tasks:
        return {}, []
    shared: dict[str, Any] = {"chat": evolve.apply_chat_template, "multiturn": evolve.fewshot_as_multiturn}
    notes = [f"tasks: objective {', '.join(task.name for task in evolve.tasks)}"]
    if evolve.limit is not None:
        shared["examples"] = evolve.limit
        notes.append(f"limit: examples {evolve.limit} of each task, others for validation")
    if evolve.num_fewshot is not None:
        shared["num_fewshot"] = evolve.num_fewshot
        notes.append(f"num_fewshot: num_fewshot {evolve.num_fewshot} of each task")
    notes.append("shuffle: docs are always drawn from a task's training split, by a fixed seed")
    terms = {
        task.name: {"task": task.name, "weight": task.weight, "metric": task.metric} | shared for task in evolve.tasks
    }
    return terms, notes


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values, those above stronger."""
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        merged[key] = _over(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged

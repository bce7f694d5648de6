"""A merge written down completely: which sources, which method, and every tensor's coefficients and settings."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from datagen.errors import ConfigError
from optimizer.merging.methods.base import Method, Value


@dataclass(frozen=True)
class TensorRecipe:
    """How one tensor is made.

    Attributes:
        base: name of the source that task vectors are taken against; None for methods without.
        experts: names of the other sources, in the order of the coefficients.
        coefficients: one per expert; or for each even block of the tensor's rows one per expert.
        settings: hyper-parameters that are not at their default: one value, or one per expert.
    """

    base: str | None
    experts: tuple[str, ...]
    coefficients: tuple[float, ...] | tuple[tuple[float, ...], ...]
    settings: Mapping[str, Value | tuple[Value, ...]] = field(default_factory=dict)

    def per_expert(self, what: str) -> tuple[float, ...]:
        """The coefficients of a tensor that is in one piece.

        Args:
            what: needs it to be.

        Raises:
            ConfigError: its blocks have coefficients of their own.
        """
        whole = tuple(one for one in self.coefficients if not isinstance(one, tuple))
        if len(whole) < len(self.coefficients):
            raise ConfigError(
                f"{what} has one coefficient per tensor and expert, but the recipe's groups are blocks; write the "
                f"whole model by `goodbunch merge`, or search with coarser groups"
            )
        return whole


@dataclass(frozen=True)
class Recipe(ABC):
    """What `goodbunch merge` makes.

    Attributes:
        method: how sources become one tensor.
        models: source name -> folder, Hugging Face name, or `model+adapter`.
        base: name of the source that gives config.json and the order of tensors: the base, else the first model.
        tokenizer: name of the source whose tokenizer and chat template are kept.
        dtype: what sources are cast to before merging, as torch names it; empty keeps their common type.
        out_dtype: what is written; empty for the type merged in.
        chat_template: a Jinja template that replaces the tokenizer's; empty keeps it.
        seed: of random masks.
        notes: what the reader of the recipe should be told: keys that make no difference, and the like.
    """

    method: Method
    models: Mapping[str, str]
    base: str
    tokenizer: str
    dtype: str = ""
    out_dtype: str = ""
    chat_template: str = ""
    seed: int = 0
    notes: tuple[str, ...] = ()

    @abstractmethod
    def resolve(self, names: Sequence[str]) -> dict[str, TensorRecipe]:
        """Every tensor's own recipe.

        Args:
            names: of all tensors to be made.

        Raises:
            ConfigError: the recipe does not fit such a model.
        """


def beyond_defaults(
    method: Method, given: Mapping[str, Value | Sequence[Value]], experts: int
) -> dict[str, Value | tuple[Value, ...]]:
    """Hyper-parameters as a `TensorRecipe` keeps them: without those at their default.

    Raises:
        ConfigError: a parameter is unknown, or has not one value per expert.
    """
    defaults = method.settings({}, experts)
    return {name: value for name, value in method.settings(given, experts).items() if value != defaults[name]}

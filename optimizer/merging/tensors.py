"""The sources of one tensor, as methods and kernels see them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import torch

from optimizer.merging import native


@dataclass(frozen=True)
class Inputs:
    """Base and experts of one tensor, all of one shape; element types may differ.

    Attributes:
        base: None for methods that use none.
        experts: in the order of the coefficients.
        dtype: the type merged in: ranks of trims are taken in it, as the field's files define them; sums never are,
            they are float32.
        name: of the tensor; with `sources` and `seed` it decides random masks, and nothing else does.
        sources: names of the experts.
        seed: of random masks.
    """

    base: torch.Tensor | None
    experts: Sequence[torch.Tensor]
    dtype: torch.dtype
    name: str = ""
    sources: tuple[str, ...] = ()
    seed: int = 0

    @classmethod
    def of(
        cls, base: torch.Tensor | None, experts: Sequence[torch.Tensor], dtype: torch.dtype | None = None
    ) -> "Inputs":
        """Sources merged in a given type, by default their common one; names are numbers."""
        given = [*([] if base is None else [base]), *experts]
        names = tuple(str(i) for i in range(len(experts)))
        return cls(base, tuple(experts), dtype or common_dtype([one.dtype for one in given]), sources=names)

    @property
    def all(self) -> tuple[torch.Tensor, ...]:
        """The base, if any, then the experts."""
        return (*([] if self.base is None else [self.base]), *self.experts)

    @cached_property
    def flat(self) -> "Inputs":
        """The same with one dimension."""
        return self.map(lambda tensor: tensor.reshape(-1))

    @cached_property
    def alike(self) -> "Inputs":
        """The same with the base as the first expert."""
        return replace(self, base=None, experts=self.all)

    @cached_property
    def native(self) -> native.Sources | None:
        """As the native kernels take them, if they do."""
        return native.Sources(self.base, self.experts) if native.usable(*self.all) else None

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Inputs":
        """The same with every tensor changed."""
        base = None if self.base is None else change(self.base)
        return replace(self, base=base, experts=tuple(change(expert) for expert in self.experts))

    def part(self, begin: int, end: int) -> "Inputs":
        """Elements of flat tensors, or rows."""
        return self.map(lambda tensor: tensor[begin:end])

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self._any.device

    @property
    def shape(self) -> torch.Size:
        """Of every one of them."""
        return self._any.shape

    @property
    def columns(self) -> int:
        """Elements of the last dimension, which is a row for methods that go by rows."""
        return self.shape[-1] if self.shape else 1

    @property
    def _any(self) -> torch.Tensor:
        return self.experts[0] if self.base is None else self.base

    @property
    def needed_base(self) -> torch.Tensor:
        """The base, for methods that cannot do without."""
        if self.base is None:
            raise ValueError("a method that needs a base must be given one; Method.check tells this before any work")
        return self.base

    def vector(self, expert: int) -> torch.Tensor:
        """A task vector in float32."""
        return self.experts[expert].float() - self.needed_base.float()


def common_dtype(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    """The type that holds all given ones."""
    return reduce(torch.promote_types, dtypes)

"""The bank: the sources of a merge where they are wanted, prepared once, so that a merge is one pass over memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, overload

import numpy as np
import numpy.typing as npt
import torch

from optimizer.merging.kernels import Kernel
from optimizer.merging.methods import Method
from optimizer.merging.methods.base import Settings, Value
from optimizer.merging.tensors import Inputs, common_dtype

Residency = Literal["device", "host", "disk"]

#: Coefficients of a tensor: [experts], or [blocks, experts].
Weights = Sequence[float] | Sequence[Sequence[float]] | npt.NDArray[np.float64]

#: Bytes of source rows that a merge from disk holds at once, over all sources.
_AT_ONCE = 256 << 20


class Source(Protocol):
    """What a bank needs of a model."""

    @property
    def name(self) -> str:
        """Of the source."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Tensor name -> shape."""

    @property
    def dtypes(self) -> Mapping[str, torch.dtype]:
        """Tensor name -> type."""

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor."""

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows of one tensor."""


@dataclass
class Bank:
    """Merges any tensor of a model for any coefficients.

    What does not depend on the coefficients (trims, masks, angles) is done when a tensor is first merged, and kept.

    Attributes:
        method: of the merge.
        base: what task vectors are taken against; None for methods without.
        experts: the other sources, in the order of the coefficients.
        given: hyper-parameters that are not at their default: one value, or one per expert.
        dtype: what sources are cast to before merging; None keeps their common type, tensor by tensor.
        residency: where sources are kept: on the `device`; on the `host`, pinned and copied over for each merge; or on
            `disk`, read for each merge in parts, so that memory does not grow with the number of sources.
        device: where merging happens.
        seed: of random masks.
    """

    method: Method
    base: Source | None
    experts: Sequence[Source]
    given: Mapping[str, Value | Sequence[Value]] = field(default_factory=dict)
    dtype: torch.dtype | None = None
    residency: Residency = "device"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0

    def __post_init__(self) -> None:
        self.method.check(len(self.experts), self.base is not None)
        self._settings: Settings = self.method.settings(self.given, len(self.experts))
        #: How often hyper-parameters were changed.
        self.tuned = 0
        self._kept: dict[str, Inputs] = {}
        self._kernels: dict[str, Kernel] = {}

    def tune(self, settings: Mapping[str, Value]) -> bool:
        """Changes hyper-parameters; what was prepared with others is dropped.

        Args:
            settings: name -> value, the same for all experts.

        Returns:
            Whether anything has changed.
        """
        changed = self.method.settings({**self.given, **settings}, len(self.experts))
        if changed == self._settings:
            return False
        self._settings, self.tuned = changed, self.tuned + 1
        self._kernels.clear()
        return True

    @property
    def sources(self) -> list[Source]:
        """The base, if any, then the experts."""
        return [*([] if self.base is None else [self.base]), *self.experts]

    @property
    def model_dtype(self) -> torch.dtype:
        """What a whole merged model is held in."""
        return self.dtype or floating_dtype(self.sources)

    def dtype_of(self, name: str) -> torch.dtype:
        """What a tensor is merged in, and the type of the result."""
        found = common_dtype([source.dtypes[name] for source in self.sources])
        return self.dtype if self.dtype and found.is_floating_point else found

    def merge(self, name: str, coefficients: Weights, out: torch.Tensor) -> torch.Tensor:
        """Writes one merged tensor.

        Args:
            name: of the tensor. What is not of floating point is copied from the first source.
            coefficients: [experts]; or [blocks, experts], for even blocks of rows as `row_ends` cuts them. Methods that
                go by rows take a tensor of one dimension for one row, which cannot be cut.
            out: of the sources' shape and any floating type; what it held is overwritten.

        Returns:
            `out`.
        """
        if not out.dtype.is_floating_point:
            return out.copy_(self.sources[0].tensor(name))
        wanted = torch.as_tensor(coefficients, dtype=torch.float64)
        parts = self._row_parts(name) if self.residency == "disk" else []
        if len(parts) < 2:
            inputs = self.inputs(name)
            if parts:
                inputs = replace(inputs, experts=list(inputs.experts))  # few enough to be read once
            return _merge(self._kernel(inputs), inputs, wanted, out, (0, _rows(out.shape)))
        kernel = self.kernel(name)
        for begin, end in parts:
            _merge(kernel, self._rows(name, begin, end), wanted, out, (begin, end))
        return out

    def gradient(self, name: str, coefficients: Weights, gradient: torch.Tensor) -> torch.Tensor:
        """D loss / d coefficients of one tensor, of their shape, float64, where the sources are or on the CPU.

        Args:
            name: of the tensor.
            coefficients: where it is taken, [experts] or [blocks, experts], as for `merge`.
            gradient: of the loss by the merged tensor.
        """
        at = torch.as_tensor(coefficients, dtype=torch.float64)
        kernel, inputs = self.kernel(name), self.inputs(name)
        if at.dim() == 1:
            return kernel.gradient(inputs, at, gradient)
        per_row = gradient.numel() // max(1, _rows(gradient.shape))
        ends = [end * per_row for end in row_ends(_rows(gradient.shape), len(at))]
        return kernel.gradient_blocks(inputs, at, ends, gradient)

    def merged(
        self, coefficients: Mapping[str, Weights], dtype: torch.dtype | None = None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """All merged tensors, one at a time.

        Args:
            coefficients: tensor name -> [experts] or [blocks, experts], as for `merge`.
            dtype: of the result; by default what is merged in.

        Yields:
            Name and merged tensor, on the device.
        """
        for name, each in coefficients.items():
            own = self.dtype_of(name)
            made = dtype if dtype and own.is_floating_point else own
            shape = self.sources[0].shapes[name]
            yield name, self.merge(name, each, torch.empty(shape, dtype=made, device=self.device))

    def kernel(self, name: str) -> Kernel:
        """What merges a tensor, prepared when first asked for."""
        return self._kernels[name] if name in self._kernels else self._kernel(self.inputs(name))

    def _kernel(self, inputs: Inputs) -> Kernel:
        if inputs.name not in self._kernels:
            self._kernels[inputs.name] = self.method.prepare(inputs, self._settings)
        return self._kernels[inputs.name]

    def forget(self, name: str) -> None:
        """Drops what was prepared for a tensor, for those who merge each only once."""
        self._kernels.pop(name, None)

    def inputs(self, name: str) -> Inputs:
        """The sources of one tensor, on the device."""
        if self.residency == "disk":
            base = None if self.base is None else self._cast(self.base.tensor(name), name).to(self.device)
            return self._inputs(name, base, _Read(self, name))
        if name not in self._kept:
            tensors = [self._resident(self._cast(source.tensor(name), name)) for source in self.sources]
            base = None if self.base is None else tensors[0]
            self._kept[name] = self._inputs(name, base, tensors[self.base is not None :])
        kept = self._kept[name]
        if self.residency == "device":
            return kept
        return kept.map(lambda tensor: tensor.to(self.device, non_blocking=True))

    def _inputs(self, name: str, base: torch.Tensor | None, experts: Sequence[torch.Tensor]) -> Inputs:
        return Inputs(base, experts, self.dtype_of(name), name, tuple(one.name for one in self.experts), self.seed)

    def _resident(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.residency == "device":
            # A tensor of a memory-mapped file is copied, so that its file may change or go.
            return tensor.to(self.device, copy=True)
        return tensor.pin_memory() if self.device.type == "cuda" else tensor.clone()

    def _cast(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        return tensor if self.dtype is None else tensor.to(self.dtype_of(name))

    def _rows(self, name: str, begin: int, end: int) -> Inputs:
        parts = [self._cast(source.rows(name, begin, end), name).to(self.device) for source in self.sources]
        return self._inputs(name, None if self.base is None else parts[0], parts[self.base is not None :])

    def _row_parts(self, name: str) -> list[tuple[int, int]]:
        shape = self.sources[0].shapes[name]
        if len(shape) < 2:  # small, and one row for methods that go by rows
            return [(0, shape[0] if shape else 1)]
        row = torch.Size(shape[1:]).numel() * self.dtype_of(name).itemsize * len(self.sources)
        step = max(1, _AT_ONCE // row)
        return [(begin, min(shape[0], begin + step)) for begin in range(0, shape[0], step)]


def row_ends(rows: int, blocks: int) -> list[int]:
    """Where each of so many blocks of a tensor's rows ends; they are even but for one row."""
    return [(block + 1) * rows // blocks for block in range(blocks)]


def _merge(
    kernel: Kernel, inputs: Inputs, coefficients: torch.Tensor, out: torch.Tensor, part: tuple[int, int]
) -> torch.Tensor:
    """Merges some rows of a tensor.

    Args:
        inputs: these rows.
        coefficients: of the whole tensor, [experts] or [blocks, experts].
        out: the whole tensor.
        part: its first row, and the one after its last.
    """
    rows, (begin, end) = _rows(out.shape), part
    target = out if (begin, end) == (0, rows) else out[begin:end]
    per_row = out.numel() // max(1, rows)
    if coefficients.dim() == 1:
        return kernel.merge(inputs, coefficients, target, begin * per_row)
    ends = row_ends(rows, len(coefficients))
    met = [block for block, last in enumerate(ends) if last > begin and (block == 0 or ends[block - 1] < end)]
    own = [(min(end, ends[block]) - begin) * per_row for block in met]
    return kernel.merge_blocks(inputs, coefficients[met], own, target, begin * per_row)


def _rows(shape: Sequence[int]) -> int:
    return shape[0] if shape else 1


def floating_dtype(sources: Sequence[Source]) -> torch.dtype:
    """The type that holds every weight of some models."""
    found = {dtype for source in sources for dtype in source.dtypes.values() if dtype.is_floating_point}
    return common_dtype(sorted(found, key=str))


class _Read(Sequence[torch.Tensor]):
    """A tensor of every expert, read from disk when looked at and dropped with the look."""

    def __init__(self, bank: Bank, name: str) -> None:
        self._bank, self._name = bank, name

    def __len__(self) -> int:
        return len(self._bank.experts)

    @overload
    def __getitem__(self, index: int) -> torch.Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[torch.Tensor]: ...

    def __getitem__(self, index: int | slice) -> torch.Tensor | Sequence[torch.Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        tensor = self._bank.experts[index].tensor(self._name)
        return self._bank._cast(tensor, self._name).to(self._bank.device)

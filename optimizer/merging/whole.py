"""Merges of a whole live model, tensor by tensor; on a GPU launched together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from optimizer.merging.bank import Bank, Weights
from optimizer.merging.kernels import Kernel
from optimizer.merging.tensors import Inputs

#: Makes of some launches one that does the same again.
Record = Callable[[Callable[[], None]], Callable[[], None]]


@dataclass(frozen=True)
class _Merge:
    """One tensor's.

    Attributes:
        weights: where those that the kernel takes lie, in memory that the recording reads.
    """

    kernel: Kernel
    inputs: Inputs
    out: torch.Tensor
    weights: torch.Tensor


class WholeMerge:
    """Merges all tensors of a model in place.

    On a GPU it takes longer to launch the merges of hundreds of tensors than to do them. So they are recorded once, as
    a CUDA graph, and from then on a merge is a copy of some hundred numbers and one launch.

    Args:
        bank: of the sources.
        live: tensor name -> what is merged into; it must stay where it is.
        record: how launches are recorded; none to launch them one by one.
    """

    def __init__(self, bank: Bank, live: Mapping[str, torch.Tensor], record: Record | None = None) -> None:
        self._bank, self._live = bank, live
        kept = bank.residency == "device" and all(out.is_floating_point() for out in live.values())
        self._record = record if kept else None
        self._merges: list[_Merge] = []
        self._held = torch.empty(0)
        self._play: Callable[[], None] | None = None
        self._tuned = -1

    def merge(self, coefficients: Mapping[str, Weights]) -> None:
        """Writes the merged model.

        Args:
            coefficients: tensor name -> what `Bank.merge` takes.
        """
        with torch.no_grad():
            # What a first merge prepares cannot be recorded; nor can coefficients by block.
            if self._record is not None and self._tuned == self._bank.tuned:
                at = [torch.as_tensor(coefficients[name], dtype=torch.float64) for name in self._live]
                if all(one.dim() == 1 for one in at):
                    self._replay(at, self._record)
                    return
            for name, out in self._live.items():
                self._bank.merge(name, coefficients[name], out)
            self._tuned, self._play = self._bank.tuned, None

    def _replay(self, coefficients: list[torch.Tensor], record: Record) -> None:
        if self._play is None:
            self._merges = list(self._prepared(coefficients))
        single = [each.kernel.weights(at).float() for each, at in zip(self._merges, coefficients, strict=True)]
        self._held.copy_(torch.cat([one.reshape(-1) for one in single]), non_blocking=True)
        if self._play is None:
            self._run()  # what is compiled and sent there once cannot be recorded
            self._play = record(self._run)
        self._play()
        for each, weights in zip(self._merges, single, strict=True):
            if (index := each.kernel.copied(weights)) is not None:
                each.out.copy_(each.inputs.all[index])

    def _prepared(self, coefficients: list[torch.Tensor]) -> list[_Merge]:
        kernels = [self._bank.kernel(name) for name in self._live]
        shapes = [kernel.weights(at).shape for kernel, at in zip(kernels, coefficients, strict=True)]
        self._held = torch.empty(sum(map(torch.Size.numel, shapes)), device=self._bank.device)
        parts = torch.split(self._held, list(map(torch.Size.numel, shapes)))
        return [
            _Merge(kernel, self._bank.inputs(name), out, part.view(shape))
            for kernel, (name, out), part, shape in zip(kernels, self._live.items(), parts, shapes, strict=True)
        ]

    def _run(self) -> None:
        for each in self._merges:
            each.kernel.run(each.inputs, each.weights, each.out)


def as_graph(launches: Callable[[], None]) -> Callable[[], None]:
    """Records launches as a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launches()
    replay: Callable[[], None] = graph.replay
    return replay

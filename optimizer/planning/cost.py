"""Seconds of merges, passes and steps: operations and bytes over what a device does of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from optimizer.planning.rates import Rates, layer_operations
from optimizer.planning.shape import Shape
from optimizer.planning.work import Load, Study

#: How often something as large as the logits is written and read in a pass, forward or backward: forward they are made,
#: then made into log-probabilities, and searched for the largest; backward the gradients of both are made.
_WRITTEN, _READ = 2, 3

#: Bytes up to which the C library gives out memory again that was used before (mallopt(3), M_MMAP_THRESHOLD); what is
#: larger comes from the system, which clears it page by page.
_REUSED = 32 << 20

_SINGLE = 4


@dataclass(frozen=True)
class Cost:
    """What a search's parts take.

    Attributes:
        shape: of the model.
        rates: of the device.
        width: bytes of one of the live model's numbers.
        sources: bytes of all sources.
        link: bytes per second that sources come over at, where they are not on the device.
        checkpointing: whether a step passes through its layers twice.
    """

    shape: Shape
    rates: Rates
    width: float
    sources: float
    link: float | None = None
    checkpointing: bool = False

    @property
    def model(self) -> float:
        """Bytes of the live model."""
        return self.shape.parameters * self.width

    @property
    def merge(self) -> float:
        """Seconds of a merge: every source is read once and the model is written."""
        return self.rates.merge.seconds(len(self.shape.tensors), self.sources + self.model) + self._brought

    @property
    def slopes(self) -> float:
        """Seconds of a step's dot products: every source and gradient is read once; a tied head has one of its own."""
        twice = 1 + (self.shape.tied * self._embeddings / self.shape.parameters)
        moved = (self.sources + self.model) * twice
        return self.rates.slopes.seconds(len(self.shape.tensors), moved) + self._brought * twice

    @property
    def _brought(self) -> float:
        return self.sources / self.link if self.link else 0.0

    @property
    def _embeddings(self) -> float:
        return float(self.shape.vocabulary * self.shape.hidden)

    def operations(self, load: Load) -> float:
        """Of a forward pass over a batch: the layers at every token, the head at every answer token."""
        layer = layer_operations(self.shape.layer, self.shape.attention, load)
        return self.shape.layers * layer + 2 * self._embeddings * load.answers

    def forward(self, load: Load) -> float:
        """Seconds of a forward pass: issuing, operations and logits."""
        return (
            self.rates.around
            + self.rates.forward.seconds(self.shape.layers, self.operations(load))
            + self._through_logits(load)
        )

    def backward(self, load: Load) -> float:
        """Seconds of a backward pass: twice the operations, and the gradients of embeddings and head are new memory."""
        again = self.rates.forward.seconds(self.shape.layers, self.operations(load)) if self.checkpointing else 0.0
        return (
            self.rates.around_back
            + again
            + self.rates.backward.seconds(self.shape.layers, 2 * self.operations(load))
            + self._through_logits(load)
            + self._written(self._embeddings * self.width, 2)
        )

    def step(self, load: Load) -> float:
        """Seconds of a descent's step."""
        return self.merge + self.forward(load) + self.backward(load) + self.slopes

    def trial(self, loads: Sequence[Load]) -> float:
        """Seconds of a merge and of forward passes over some batches."""
        return self.merge + sum(map(self.forward, loads))

    def study(self, study: Study) -> float:
        """Seconds of a study, without what its merges say."""
        trials = study.trials * self.trial([*study.search, *study.validation])
        return trials + (study.steps * self.step(study.step) if study.step else 0.0)

    def _through_logits(self, load: Load) -> float:
        """Seconds of what is done to the logits in a pass."""
        size = load.answers * self.shape.vocabulary * _SINGLE
        return self._written(size, _WRITTEN) + _READ * size / self.rates.merge.rate

    def _written(self, size: float, times: float) -> float:
        """Seconds to write a tensor of so many bytes, or several."""
        return times * size / (self.rates.fresh if size > _REUSED else self.rates.merge.rate)

"""Seconds of merges, passes and steps: operations and bytes over what a device does of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from optimizer.planning.rates import Parts, Rates, layer_operations
from optimizer.planning.shape import Shape
from optimizer.planning.work import Load, Study

#: How often something as large as the logits is written and read in a pass, forward or backward: forward they are made,
#: then made into log-probabilities, and searched for the largest; backward the gradients of both are made.
_WRITTEN, _READ = 2, 3

#: Bytes up to which the C library gives out memory again that was used before (mallopt(3), M_MMAP_THRESHOLD); what is
#: larger comes from the system, which clears it page by page.
_REUSED = 32 << 20

_SINGLE = 4

#: Numbers of the model's type that a Llama's layer reads and writes element by element, for each of the residual stream
#: (two norms by way of float32, two sums), of queries and keys that are rotated, of heads that are turned to another
#: order, of the mlp.
_NORMS, _ROTATED, _TURNED, _INNER = 42, 11, 4, 5


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
        return self._merge.taken(self.rates.ahead)

    @property
    def slopes(self) -> float:
        """Seconds of a step's dot products: every source and gradient is read once; a tied head has one of its own."""
        return self._slopes.taken(self.rates.ahead)

    @property
    def _merge(self) -> Parts:
        moved = self.rates.merge.parts(len(self.shape.tensors), self.sources + self.model)
        return moved.plus(Parts(0.0, self._brought))

    @property
    def _slopes(self) -> Parts:
        twice = 1 + (self.shape.tied * self._embeddings / self.shape.parameters)
        moved = self.rates.slopes.parts(len(self.shape.tensors), (self.sources + self.model) * twice)
        return moved.plus(Parts(0.0, self._brought * twice))

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
        """Seconds of a forward pass: issuing, operations, what is done element by element, and logits."""
        return self._forward(load).taken(self.rates.ahead)

    def backward(self, load: Load) -> float:
        """Seconds of a backward pass: twice the operations, and the gradients of embeddings and head are new memory."""
        return self._backward(load).taken(self.rates.ahead)

    def step(self, load: Load) -> float:
        """Seconds of a descent's step."""
        parts = self._merge.plus(self._forward(load), self._backward(load), self._slopes)
        return parts.taken(self.rates.ahead)

    def _forward(self, load: Load) -> Parts:
        layers = self.rates.forward.parts(self.shape.layers, self.operations(load))
        return layers.plus(Parts(self.rates.around, self._passing(load) + self._through_logits(load)))

    def _backward(self, load: Load) -> Parts:
        layers = self.rates.backward.parts(self.shape.layers, 2 * self.operations(load))
        written = self._through_logits(load) + self._written(self._embeddings * self.width, 2)
        found = layers.plus(Parts(self.rates.around_back, 2 * self._passing(load) + written))
        if not self.checkpointing:
            return found
        again = self.rates.forward.parts(self.shape.layers, self.operations(load))
        return found.plus(again, Parts(0.0, self._passing(load)))

    def _passing(self, load: Load) -> float:
        """Seconds of what layers do element by element in a forward pass, where products are so fast that it counts."""
        heads, keys = self.shape.attention, self.shape.key_value * self.shape.head
        numbers = _NORMS * self.shape.hidden + _ROTATED * (heads + keys) + _TURNED * heads + _INNER * self.shape.inner
        return load.tokens * self.shape.layers * numbers * self.width / self.rates.passing

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

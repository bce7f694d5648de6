"""What a search holds in memory, by residency: on the device, and on the host beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from optimizer.config import MergeConfig
from optimizer.merging.methods import METHODS
from optimizer.merging.methods.task_vectors import TaskVectorMethod, by_rank, random
from optimizer.planning.shape import Shape
from optimizer.planning.work import Load

#: Bytes of a GPU that libraries take in each process, besides what is asked for.
CONTEXT = 1e9

#: Numbers that a Llama's layer keeps for a backward pass: of the residual stream, of keys and values, of the mlp. Each
#: of two norms keeps what it is given, what it made of it and what that is multiplied to; attention keeps its queries,
#: keys, values and result; the mlp both of its halves, the activation and their product.
_STREAM, _KEYS, _INNER = 8, 2, 4

#: Float32 copies of the logits: themselves, their logarithms, the gradient.
_LOGITS = 3

_SINGLE = 4


class Held(NamedTuple):
    """Bytes that a stage of a search holds.

    Attributes:
        sources: all of them, or what is brought over at a time.
        masks: one bit for each weight and expert, of methods that drop weights at random.
        model: the live one.
        gradient: the largest, since there is never more than one.
        activations: what a backward pass needs.
        logits: at the answers.
        host: sources that are kept on the host, beside a GPU.
    """

    sources: float
    masks: float
    model: float
    gradient: float
    activations: float
    logits: float
    host: float

    @property
    def device(self) -> float:
        """On the device, at most."""
        return self.sources + self.masks + self.model + self.gradient + self.activations + self.logits


@dataclass(frozen=True)
class Scoring:
    """Merging and scoring in one process.

    Attributes:
        shape: of the model.
        merge: how it is merged.
        sources: bytes of each source, as it is kept.
        width: bytes of one of the live model's numbers.
        steps: batches that gradients are taken on.
        loads: batches that are scored.
        checkpointing: whether activations are computed twice rather than kept.
        cpu: whether device and host are the same.
    """

    shape: Shape
    merge: MergeConfig
    sources: Sequence[float]
    width: float
    steps: Sequence[Load]
    loads: Sequence[Load]
    checkpointing: bool
    cpu: bool

    def held(self) -> Held:
        """What it holds."""
        whole = sum(self.sources)
        # What is not on the device is brought there tensor by tensor.
        brought = whole * self.shape.largest / self.shape.parameters
        resident = self.merge.residency == "device" or (self.cpu and self.merge.residency == "host")
        # A matrix is merged from disk in parts, but its dot products take all of it.
        return Held(
            sources=whole if resident else brought,
            masks=self.shape.parameters / 8 * (len(self.sources) - 1) if self._drops_at_random else 0.0,
            model=self.shape.parameters * self.width,
            gradient=self.shape.largest * self.width if self.steps else 0.0,
            activations=max([*map(self._kept, self.steps), *map(self._passing, self.loads)], default=0.0),
            logits=max((self._logits(load) for load in (*self.steps, *self.loads)), default=0.0),
            host=whole if self.merge.residency == "host" and not self.cpu else 0.0,
        )

    def _kept(self, load: Load) -> float:
        """Bytes of activations that a step keeps."""
        shape = self.shape
        layer = _STREAM * shape.hidden + _KEYS * shape.key_value * shape.head + _INNER * shape.inner
        if self.checkpointing:
            return load.tokens * self.width * (shape.layers * shape.hidden + layer)
        return load.tokens * self.width * shape.layers * layer

    def _passing(self, load: Load) -> float:
        """Bytes of a layer's activations in a pass that keeps none."""
        return load.tokens * self.width * (_STREAM * self.shape.hidden + _INNER * self.shape.inner)

    def _logits(self, load: Load) -> float:
        return _LOGITS * load.answers * self.shape.vocabulary * _SINGLE

    @property
    def _drops_at_random(self) -> bool:
        method = METHODS[self.merge.method]
        if not isinstance(method, TaskVectorMethod) or method.trim not in (random, by_rank):
            return False
        density = method.settings(self.merge.parameters, len(self.sources) - 1)["density"]
        return any(one < 1 for one in (density if isinstance(density, tuple) else (density,)))

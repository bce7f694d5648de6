"""How fast work is done: by a GPU's data sheet, or as a probe of two seconds finds this CPU.

Every kind of work takes so long for each piece, and so long for each byte or operation (`Line`). On large models the
second counts, which makes this a roofline (arXiv 2402.16363); on tiny ones the first, since issuing an operation takes
longer than what it calculates.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from datagen.arithmetic import quick_products
from datagen.planning.hardware import Device
from optimizer.config import MergeConfig
from optimizer.merging.bank import Bank
from optimizer.merging.methods import METHODS
from optimizer.merging.space import BLOCK
from optimizer.planning.shape import Shape, llama_tensors
from optimizer.planning.work import Load

#: Seconds that a host takes to issue a GPU's work: a layer's forward pass; its backward pass; a tensor's merge, most of
#: which is recorded; its dot products. As measured beside an H200, see docs/planning.md.
_FORWARD, _BACKWARD, _MERGE, _SLOPES = 0.7e-3, 1.9e-3, 25e-6, 190e-6

#: Shares of a data sheet's bandwidth and FLOP/s that are reached there: by merges, by dot products, by what a layer
#: does element by element, and by its products.
_MERGED, _DOTTED, _PASSED, _MULTIPLIED = 0.85, 0.66, 0.48, 0.78

#: Bytes per second between a host's pinned memory and its GPU: PCIe 4.0 with 16 lanes, less its overhead.
LINK = 25e9

#: Seconds that a probe measures for, and that its longest run takes, about.
_SECONDS, _LONGEST = 1.5, 0.1

#: Tokens of the smallest batch, and weights of the largest layer.
_FEW, _WEIGHTS = 8, 20_000_000

#: Share of a run's seconds that is left to bytes and operations at least, however long issuing seemed to take.
_LEFT = 0.2

#: Bytes that are written to memory that is new.
_FRESH = 1 << 26


@dataclass(frozen=True)
class Line:
    """Seconds that work takes.

    Attributes:
        each: of a piece, whatever its size.
        rate: bytes or operations per second.
    """

    each: float
    rate: float

    def parts(self, pieces: float, amount: float) -> "Parts":
        """Of several pieces, together so large."""
        return Parts(pieces * self.each, amount / self.rate)


class Parts(NamedTuple):
    """Seconds of some work.

    Attributes:
        issued: to begin all of it.
        worked: to do it.
    """

    issued: float
    worked: float

    def plus(self, *others: "Parts") -> "Parts":
        """Together with other work."""
        return Parts(*map(sum, zip(self, *others, strict=True)))

    def taken(self, ahead: bool) -> float:
        """In all, with `ahead` as in `Rates`."""
        return max(self) if ahead else sum(self)


@dataclass(frozen=True)
class Rates:
    """How fast a device works.

    Attributes:
        merge: tensors and bytes of sources and result.
        slopes: tensors and bytes of sources and gradient, for dot products.
        forward: layers and operations.
        backward: the same.
        around: seconds of a forward pass outside of layers.
        around_back: seconds of a backward pass outside of layers.
        fresh: bytes per second that are written to memory that was not used before.
        passing: bytes per second that layers move element by element; on a CPU `forward` and `backward` hold it.
        ahead: whether work is issued while earlier work is still done.
    """

    merge: Line
    slopes: Line
    forward: Line
    backward: Line
    around: float
    around_back: float
    fresh: float
    passing: float = float("inf")
    ahead: bool = False


def of_device(device: Device) -> Rates | None:
    """By the data sheet, of which a share is reached; none where it is silent."""
    if device.bandwidth is None or device.flops is None:
        return None
    return Rates(
        merge=Line(_MERGE, _MERGED * device.bandwidth),
        slopes=Line(_SLOPES, _DOTTED * device.bandwidth),
        forward=Line(_FORWARD, _MULTIPLIED * device.flops),
        backward=Line(_BACKWARD, _MULTIPLIED * device.flops),
        around=_FORWARD,
        around_back=_BACKWARD,
        fresh=_MERGED * device.bandwidth,
        passing=_PASSED * device.bandwidth,
        ahead=True,
    )


def probe(shape: Shape, merge: MergeConfig, experts: int, dtype: torch.dtype, load: Load) -> Rates:
    """What this CPU does with one layer of a model's shape: its merge, its passes, its dot products.

    A layer that is larger than a probe has time for is made narrower.

    Args:
        merge: how it is merged.
        experts: how many.
        dtype: of the live model.
        load: a batch as large as those of the search; of a larger one a part is measured.
    """
    layer = _layer_of(shape)
    narrow = [_Probe(dict(llama_tensors(64, 128, count, (2, 2, 32), 64)), (2, 2, 32), dtype) for count in (1, 5)]
    wide = _Probe(layer, (shape.heads, shape.key_value, shape.head), dtype)
    part, few = wide.affordable(load), Load(1, _FEW, 1)
    banks = _Banks(layer, merge, experts, dtype)
    runs: list[Callable[[], object]] = [
        *(partial(run, load) for run, load in ((wide.forward, part), (wide.both, part))),
        *(partial(run, few) for one in narrow for run in (one.forward, one.both)),
        *(partial(run, kind) for run in (banks.merge, banks.slopes) for kind in (False, True)),
        lambda: torch.empty(_FRESH // 4).fill_(1.0),
    ]
    forward, both, *rest, fresh = in_turn(runs, _SECONDS)
    one, five, merged, slopes = rest[0:2], rest[2:4], rest[4:6], rest[6:8]
    each, each_both = (max(0.0, deep - shallow) / 4 for shallow, deep in zip(one, five, strict=True))
    around, around_both = max(0.0, one[0] - each), max(0.0, one[1] - each_both)
    operations = layer_operations(wide.weights, wide.attention, part)
    backward = max(both - forward, _LEFT * both)
    return Rates(
        merge=banks.line(merged),
        slopes=banks.line(slopes),
        forward=Line(each, operations / max(forward - around - each, _LEFT * forward)),
        backward=Line(
            max(0.0, each_both - each),
            2 * operations / max(backward - (around_both - around) - (each_both - each), _LEFT * backward),
        ),
        around=around,
        around_back=max(0.0, around_both - around),
        fresh=_FRESH / fresh,
    )


def layer_operations(weights: float, attention: float, load: Load) -> float:
    """Floating-point operations of one layer's forward pass.

    Two for each weight and token; and 4 x width x width of attention for each sequence, half for the products of
    queries with keys, half for the sums of values.

    Args:
        weights: of the layer's matrices.
        attention: width of all heads together.
    """
    return load.tokens * (2 * weights + 4 * load.width * attention)


def _layer_of(shape: Shape) -> dict[str, tuple[int, ...]]:
    """One layer of a model's widths, narrower if it is too large for a probe, with tiny embeddings."""
    narrower = min(1.0, (_WEIGHTS / max(1, shape.layer)) ** 0.5)
    hidden, inner = (max(8, round(width * narrower / 8) * 8) for width in (shape.hidden, shape.inner))
    if narrower == 1.0:
        hidden, inner = shape.hidden, shape.inner
    heads = max(1, round(shape.heads * narrower))
    groups = max(1, shape.heads // shape.key_value)
    keys = max(1, heads // groups)
    return dict(llama_tensors(hidden, inner, 1, (keys * groups, keys, shape.head), 64))


class _Probe:
    """A model of a few layers that is run for its time."""

    def __init__(self, tensors: Mapping[str, tuple[int, ...]], heads: tuple[int, int, int], dtype: torch.dtype) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM
        from transformers.initialization import no_init_weights

        prefix = "model.layers.0."
        queries, hidden = tensors[f"{prefix}self_attn.q_proj.weight"]
        keys = tensors[f"{prefix}self_attn.k_proj.weight"][0]
        layers = sum(name.endswith("q_proj.weight") for name in tensors)
        config = LlamaConfig(
            vocab_size=tensors["model.embed_tokens.weight"][0],
            hidden_size=hidden,
            intermediate_size=tensors[f"{prefix}mlp.up_proj.weight"][0],
            num_hidden_layers=layers,
            num_attention_heads=queries // heads[2],
            num_key_value_heads=keys // heads[2],
            head_dim=heads[2],
            pad_token_id=None,
        )
        with no_init_weights():
            self._model: Any = LlamaForCausalLM(config).to(dtype).eval()
        for parameter in self._model.parameters():
            parameter.data.fill_(0.01)
            # As the scoring engine does it: a gradient is gone once it is made.
            parameter.register_post_accumulate_grad_hook(_forget)
        inside = [shape for name, shape in tensors.items() if name.startswith("model.layers.") and len(shape) > 1]
        self.weights = sum(rows * columns for rows, columns in inside) // layers
        self.attention = queries

    @torch.no_grad()
    def forward(self, load: Load) -> None:
        """A forward pass."""
        ids = _ids(load)
        with quick_products(self._model, ids.shape[1]):
            self._model(input_ids=ids, use_cache=False)

    def both(self, load: Load) -> None:
        """A forward and a backward pass."""
        ids = _ids(load)
        with quick_products(self._model, ids.shape[1]):
            self._model(input_ids=ids, use_cache=False).logits.sum().backward()

    def affordable(self, load: Load) -> Load:
        """As many of a batch's sequences as a measurement has time for, or a part of one."""
        width = min(load.width, 64)
        (taken,) = in_turn([lambda: self.forward(Load(1, width, 1))], 0.0)
        most = max(1.0, _LONGEST / taken) * width
        if most >= load.tokens:
            return load
        return Load(max(1, most // load.width), min(load.width, max(_FEW, most)), 1)


def _ids(load: Load) -> torch.Tensor:
    return torch.ones(max(1, round(load.rows)), max(1, round(load.width)), dtype=torch.long)


def _forget(parameter: torch.Tensor) -> None:
    parameter.grad = None


class _Source:
    """A source of random weights."""

    def __init__(self, number: int, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> None:
        self.name, self.shapes = str(number), dict(shapes)
        self.dtypes = dict.fromkeys(shapes, dtype)

    def tensor(self, name: str) -> torch.Tensor:
        shape, generator = self.shapes[name], torch.Generator().manual_seed(int(self.name))
        count = int(np.prod(shape))
        some = torch.randn(min(count, 1 << 16), generator=generator, dtype=torch.float32)
        return some.repeat(-(-count // len(some)))[:count].view(shape).to(self.dtypes[name])

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.tensor(name)[start:stop]


class _Banks:
    """A layer's tensors and as many tiny ones, which are merged for their time."""

    def __init__(
        self, layer: Mapping[str, tuple[int, ...]], merge: MergeConfig, experts: int, dtype: torch.dtype
    ) -> None:
        matrices = {name: shape for name, shape in layer.items() if name.startswith("model.layers.")}
        tiny = {f"tiny {name}": (8,) * len(shape) for name, shape in matrices.items()}
        sources = [_Source(number, matrices | tiny, dtype) for number in range(experts + 1)]
        self._bank = Bank(METHODS[merge.method], sources[0], sources[1:], merge.parameters, dtype)
        self._held = [{name: torch.ones(of[name], dtype=dtype) for name in of} for of in (tiny, matrices)]
        self._at = np.random.default_rng(0).normal(0.4, 0.2, (merge.blocks, experts)).tolist()
        self._cut, self._experts = merge.groups == BLOCK, experts

    def merge(self, large: bool) -> None:
        """Merges all tensors of a size."""
        for name, one in self._held[large].items():
            self._bank.merge(name, self._at if self._cut and one.dim() > 1 else self._at[0], one)

    def slopes(self, large: bool) -> None:
        """Takes all dot products of a size."""
        for name, one in self._held[large].items():
            self._bank.gradient(name, self._at if self._cut and one.dim() > 1 else self._at[0], one)

    def line(self, taken: Sequence[float]) -> Line:
        """From the seconds of tiny tensors and of the layer's."""
        moved = (self._experts + 2) * sum(one.nbytes for one in self._held[True].values())
        return Line(taken[0] / len(self._held[False]), moved / max(taken[1] - taken[0], _LEFT * taken[1]))


def in_turn(runs: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Median seconds of several calls, taken in turn so that a busy moment of the machine falls on all of them.

    Args:
        seconds: after which no further round begins; the first round, which finds things cold, does not count.
    """
    for run in runs:
        run()
    rounds: list[list[float]] = []
    begun = time.perf_counter()
    while not rounds or time.perf_counter() - begun < seconds:
        rounds.append([])
        for run in runs:
            since = time.perf_counter()
            run()
            rounds[-1].append(time.perf_counter() - since)
    return [statistics.median(column) for column in zip(*rounds, strict=True)]

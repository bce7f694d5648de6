"""What the default search takes on a device: steps, passes over all rows, memory, beside bytes and operations."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from benchmarks.measuring import in_turn
from benchmarks.shapes import Shape
from benchmarks.steps import examples_of, mean_loss, open_engine, points
from datagen.batches import pack, pad
from optimizer.engines.scoring import ScoringEngine
from optimizer.search_config import DescentConfig


@dataclass(frozen=True)
class Sizes:
    """Of the search.

    Attributes:
        experts: besides the base.
        terms: of the objective.
        rows: of each.
        tokens: of each row, of which the last third is the answer.
    """

    experts: int = 2
    terms: int = 4
    rows: int = 256
    tokens: int = 256

    @property
    def all_tokens(self) -> int:
        """Of a pass over all rows."""
        return self.terms * self.rows * self.tokens


def search_costs(
    shape: Shape, device: torch.device, sizes: Sizes, times: int, checkpointing: bool
) -> dict[str, object]:
    """Measures them on random weights, with coefficients by tensor.

    Args:
        times: rounds of each.
        checkpointing: as for `ScoringEngine`.
    """
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    engine = open_engine(shape, sizes.experts, torch.bfloat16, str(device), checkpointing=checkpointing)
    point = points(engine.space)
    engine.apply(point())  # what is drawn and prepared once
    rows = examples_of([sizes.tokens] * sizes.terms * sizes.rows, shape.vocabulary)
    batches, step = pack(rows), pad(rows, range(sizes.terms))
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def score() -> None:
        engine.apply(point())
        engine.score(batches)

    runs: list[Callable[[], object]] = [
        lambda: engine.apply(point()),
        lambda: engine.gradient(point(), step, mean_loss),
    ]
    merged, stepped = in_turn(runs, times, synchronize)
    (scored,) = in_turn([score], max(1, times // 5), synchronize)
    default = DescentConfig()
    found: dict[str, object] = {
        "sizes": asdict(sizes) | {"layers computed anew": checkpointing},
        "seconds": {"merge, in each": merged, "step": stepped, "pass over all rows": scored},
        "seconds of a default search": {
            f"{default.steps} steps and {default.trials} passes": default.steps * stepped + default.trials * scored,
            "25 passes": 25 * scored,
        },
        "reached": _reached(engine, shape, sizes, merged=merged, stepped=stepped, scored=scored),
    }
    if device.type == "cuda":
        found["peak device memory, bytes"] = torch.cuda.max_memory_allocated()
    print(json.dumps(found, indent=1))
    return found


def _reached(
    engine: ScoringEngine, shape: Shape, sizes: Sizes, *, merged: float, stepped: float, scored: float
) -> dict[str, object]:
    """Bytes and operations that each must at least move and do, and the rates that follow.

    A merge reads every source and writes the model. A step, after it, does three times the operations of a forward
    pass, and reads every source once more and each gradient, which it has written, for the dot products.
    """
    model = sum(parameter.nbytes for parameter in engine.model.parameters())
    merge_bytes = (sizes.experts + 2) * model
    step_bytes = merge_bytes + (sizes.experts + 3) * model
    forward = _operations(shape, sizes.tokens)
    in_step, in_pass = 3 * forward * sizes.terms, forward * sizes.terms * sizes.rows
    return {
        "merge": {"bytes": merge_bytes, "GB/s": merge_bytes / merged / 1e9},
        "step": {
            "bytes": step_bytes,
            "operations": in_step,
            "TFLOP/s, merge and dot products in the time": in_step / stepped / 1e12,
        },
        "pass over all rows": {"operations": in_pass, "TFLOP/s, merge in the time": in_pass / scored / 1e12},
    }


def _operations(shape: Shape, tokens: int) -> float:
    """Of a forward pass over one row: two for every weight and token, the head's for those of the answer alone."""
    head = shape.vocabulary * shape.hidden
    weights = sum(
        torch.Size(size).numel() for name, size in shape.tensors() if "embed" not in name and "head" not in name
    )
    attention = 2 * shape.layers * shape.hidden * tokens  # queries by keys and scores by values, half of them masked
    return float(2 * tokens * weights + tokens * attention + 2 * (tokens - tokens * 2 // 3) * head)

"""What the default search takes on a device: merges, steps, passes over all rows, the whole; beside what is planned."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import optuna
import torch

from benchmarks.measuring import Figure, in_turn, seconds
from benchmarks.planning import planned_shape, ratio
from benchmarks.shapes import Shape
from benchmarks.steps import examples_of, mean_loss, open_engine, points
from datagen.batches import Encoded, pack, pad
from datagen.planning.hardware import machine_at_hand
from optimizer.config import MergeConfig
from optimizer.executors.inline import InlineExecutor
from optimizer.objective.terms import Objective, Term
from optimizer.planning.cost import Cost
from optimizer.planning.memory import Scoring
from optimizer.planning.rates import of_device
from optimizer.planning.work import load_of
from optimizer.search.databases import open_storage
from optimizer.search.evaluating import Evaluator
from optimizer.search.problem import Problem
from optimizer.search.running import Task
from optimizer.search.study import equivalents, run_study
from optimizer.search_config import DescentConfig, SearchConfig

#: How far off a prediction may be, either way, and how long the default search of an 8B model may take, in seconds.
WITHIN, LONGEST = 1.3, 300.0

#: Rows of the validation split for each of the search split, as data configs have it by default.
_VALIDATION = 0.25


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


def search_costs(
    shape: Shape, device: torch.device, sizes: Sizes, times: int, checkpointing: bool
) -> tuple[list[Figure], dict[str, object]]:
    """Measures the parts of a search on random weights, with coefficients by tensor, and holds them against the plan.

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
    _reset_peak(device)

    def score() -> None:
        engine.apply(point())
        engine.score(batches)

    runs: list[Callable[[], object]] = [
        lambda: engine.apply(point()),
        lambda: engine.gradient(point(), step, mean_loss),
    ]
    merged, stepped = in_turn(runs, times, synchronize)
    peaks = {"step": _peak(device)}
    _reset_peak(device)
    (scored,) = in_turn([score], max(1, times // 5), synchronize)
    peaks["pass"] = _peak(device)
    measured = {"merge": merged, "step": stepped, "pass over all rows": scored}
    found: dict[str, object] = {
        "sizes": asdict(sizes) | {"layers computed anew": checkpointing},
        "seconds": measured,
        "peak device memory, bytes": peaks,
    }
    figures: list[Figure] = []
    planned = planned_shape(shape)
    found["reached"] = _reached(2 * planned.parameters, shape, sizes, merged=merged, stepped=stepped, scored=scored)
    bytes_each = [planned.parameters * 2.0] * (sizes.experts + 1)
    if rates := of_device(machine_at_hand().device) if device.type == "cuda" else None:
        cost = Cost(planned, rates, 2, sum(bytes_each), checkpointing=checkpointing)
        loads = list(map(load_of, batches))
        predicted = {
            "merge": cost.merge,
            "step": cost.step(load_of(step)),
            "pass over all rows": cost.trial(loads),
        }
        held = Scoring(planned, MergeConfig(), bytes_each, 2, [load_of(step)], loads, checkpointing, False).held()
        found["predicted, seconds"] = predicted
        found["predicted, bytes"] = held.device
        figures += [ratio(name, predicted[name], measured[name], WITHIN) for name in predicted]
        figures.append(ratio("memory", held.device, max(peaks.values()), WITHIN))
    return figures, found


def whole_search(
    shape: Shape, device: torch.device, sizes: Sizes, steps: int, checkpointing: bool
) -> tuple[list[Figure], dict[str, object]]:
    """Runs the default search of random models on random rows to its end; no trial is given up before its own.

    What the losses are makes no difference to what a search does then.

    Args:
        steps: of the descent.
        checkpointing: as for `ScoringEngine`.
    """
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    opened = open_engine(shape, sizes.experts, torch.bfloat16, str(device), checkpointing=checkpointing)
    config = SearchConfig(pruning=0.0, descent=DescentConfig(steps=steps, checkpointing=checkpointing))
    search, validation = (
        Objective([_term(number, int(share * sizes.rows), sizes, shape) for number in range(sizes.terms)])
        for share in (1.0, _VALIDATION)
    )
    problem = Problem(config, search, validation)
    task = Task(open_storage(None), problem, opened.space, InlineExecutor({"": Evaluator(opened, problem)}))
    _reset_peak(device)
    searched = []
    taken = seconds(lambda: searched.append(run_study("", task)), synchronize)
    trials = len(searched[0].trials)
    passes = equivalents(search, trials * search.sequences, config.descent.steps)
    found = {
        "sizes": asdict(sizes) | {"layers computed anew": checkpointing},
        "seconds": taken,
        "trials": trials,
        "steps": config.descent.steps,
        "forward-pass equivalents": passes,
        "seconds per equivalent": taken / passes,
        "peak device memory, bytes": _peak(device),
    }
    return [Figure("seconds of a whole default search", taken, LONGEST, at_least=False)], found


def _term(number: int, rows: int, sizes: Sizes, shape: Shape) -> Term:
    examples: list[Encoded] = examples_of([sizes.tokens] * max(1, rows), shape.vocabulary)
    return Term(str(number), 1.0, examples)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


def _reached(
    model: float, shape: Shape, sizes: Sizes, *, merged: float, stepped: float, scored: float
) -> dict[str, object]:
    """Bytes and operations that each must at least move and do, and the rates that follow.

    A merge reads every source and writes the model. A step, after it, does three times the operations of a forward
    pass, and reads every source once more and each gradient, which it has written, for the dot products.

    Args:
        model: its bytes.
    """
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

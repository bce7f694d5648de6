"""What `goodbunch plan` says of a search beside what the search then takes, on this CPU.

`python -m benchmarks.planning`, part of `make bench`, takes about eight minutes on two cores, and 9 GB. Nothing else
should run meanwhile: the probe and what is measured come one after the other.
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.measuring import Figure, in_turn, memory, peak, report, reset_peak, seconds
from benchmarks.shapes import SHAPES, Shape
from benchmarks.steps import LENGTHS, TOKENS_PER_BATCH, examples_of, mean_loss, open_engine, points, vocabulary_of
from benchmarks.zoos import Bench
from datagen.batches import pack, pad
from datagen.models.tensor_files import INDEX
from datagen.pipeline import open_inputs
from datagen.planning.hardware import machine_at_hand
from datagen.planning.sizes import size_of
from optimizer.config import MergeConfig
from optimizer.engines.scoring import ScoringEngine
from optimizer.planning.cost import Cost
from optimizer.planning.memory import Scoring
from optimizer.planning.plan import plan_search
from optimizer.planning.rates import probe
from optimizer.planning.shape import Shape as Planned
from optimizer.planning.shape import shape_of
from optimizer.planning.work import load_of, mean_load
from optimizer.search.study import run_study

#: How far off a prediction may be, either way.
WITHIN = 1.5

#: Weights of a shard.
_SHARD = 2_000_000_000

#: Steps of the zoo's search here.
STEPS = 128


def ratio(name: str, predicted: float, measured: float, within: float = WITHIN) -> Figure:
    """How far a prediction is off, either way."""
    return Figure(
        f"{name}: predicted / measured, or the inverse", max(predicted / measured, measured / predicted), within, False
    )


def zoo(seed: int) -> tuple[list[Figure], dict[str, object]]:
    """A zoo's step, trial and search."""
    bench = Bench.ready("natural", seed, f"search.descent.steps={STEPS}", "search.controls={}", "search.pruning=0")
    config, engine = bench.config, bench.engine()
    search, validation = bench.objective("search"), bench.objective("validation")
    point = points(engine.space)
    sizes = {model: size_of(model) for model in config.bunch.models().values()}
    inputs = open_inputs(config.bunch, config.data, config.seed)
    planned = plan_search(config, inputs, sizes, shape_of(config.bunch.base), machine_at_hand())
    main, cost = planned.work.studies[0], planned.cost
    if cost is None or main.step is None:
        raise RuntimeError("a descent on a CPU must have a cost")
    predicted = {
        "step": cost.step(main.step),
        "trial": cost.trial([*main.search, *main.validation]),
        "search": cost.study(main),
        "merge": cost.merge,
    }
    picks = iter(range(10**6))

    def step() -> None:
        number = next(picks)
        engine.gradient(point(), *search.step_batch([number % len(term.examples) for term in search.terms]))

    def trial() -> None:
        engine.apply(point())
        search.scores(engine)
        validation.scores(engine)

    def merge() -> None:
        engine.apply(point())

    measured = dict(zip(("step", "merge"), in_turn([step, merge], 40), strict=True))
    (measured["trial"],) = in_turn([trial], 3)
    measured["search"] = seconds(lambda: run_study("", bench.task(engine)))
    figures = [ratio(f"zoo, {name}", predicted[name], measured[name]) for name in ("step", "trial", "search")]
    return figures, {"predicted, s": predicted, "measured, s": measured, "rates": str(planned.rates)}


def planned_shape(shape: Shape) -> Planned:
    """A random model's sizes, as headers would tell them."""
    with tempfile.TemporaryDirectory() as folder:
        write_headers(shape, Path(folder))
        return shape_of(folder)


def write_headers(shape: Shape, folder: Path) -> None:
    """A bfloat16 checkpoint of a shape: headers as they were recorded, and holes in the place of its weights."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    for name, of in shape.tensors():
        if shards[-1] and sum(map(math.prod, shards[-1].values())) + math.prod(of) > _SHARD:
            shards.append({})
        shards[-1][name] = of
    files = {f"model-{number:05d}.safetensors": tensors for number, tensors in enumerate(shards, 1)}
    for file, tensors in files.items():
        _write_hollow(folder / file, tensors)
    weight_map = {name: file for file, tensors in files.items() for name in tensors}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(shape.config()))


def _write_hollow(path: Path, tensors: Mapping[str, tuple[int, ...]]) -> None:
    entries, begin = {}, 0
    for name, of in tensors.items():
        end = begin + 2 * math.prod(of)
        entries[name] = {"dtype": "BF16", "shape": list(of), "data_offsets": [begin, end]}
        begin = end
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + begin)


def large(shape: Shape, experts: int, dtype: torch.dtype) -> tuple[list[Figure], dict[str, object]]:
    """A step and a trial of random models, and a step's memory."""
    engine = open_engine(shape, experts, dtype)
    vocabulary, point = vocabulary_of(engine), points(engine.space)
    step = pad(examples_of(LENGTHS, vocabulary), range(len(LENGTHS)))
    trial = pack(examples_of(LENGTHS, vocabulary), TOKENS_PER_BATCH)
    sizes, merge = planned_shape(shape), MergeConfig(dtype=_NAMES[dtype])
    loads = list(map(load_of, trial))

    def score() -> None:
        engine.apply(point())
        engine.score(trial)

    engine.apply(point())  # sources are drawn when they are first merged
    rates = probe(sizes, merge, experts, dtype, mean_load(loads))
    sources = [sizes.parameters * float(dtype.itemsize)] * (experts + 1)
    cost = Cost(sizes, rates, dtype.itemsize, sum(sources))
    predicted = {
        "step": cost.step(load_of(step)),
        "trial": cost.trial(loads),
        "merge": cost.merge,
        "slopes": cost.slopes,
    }
    runs: Sequence[Callable[[], object]] = [partial(engine.gradient, point(), step, mean_loss), score]
    measured = dict(zip(("step", "trial"), in_turn(runs, 2), strict=True))
    held = Scoring(sizes, merge, sources, dtype.itemsize, [load_of(step)], loads, False, True).held()
    predicted_bytes = held.gradient + held.activations + held.logits
    measured_bytes = step_bytes(engine, lambda: engine.gradient(point(), step, mean_loss))
    figures = [ratio(f"{_NAMES[dtype]}, {name}", predicted[name], measured[name]) for name in ("step", "trial")]
    figures.append(ratio(f"{_NAMES[dtype]}, memory of a step", predicted_bytes, measured_bytes))
    details: dict[str, object] = {
        "predicted, s": predicted,
        "measured, s": measured,
        "rates": str(rates),
        "bytes of a step": {"predicted": predicted_bytes, "measured": measured_bytes},
    }
    return figures, details


def step_bytes(engine: ScoringEngine, run: Callable[[], object]) -> float:
    """Most bytes that a step takes beside sources and model."""
    before = memory()
    reset_peak()
    run()
    return peak() - before


_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def main() -> int:
    """Measures everything; exit code 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=int, default=1, help="seed of a natural zoo")
    parser.add_argument("--shape", default="0.5B", choices=SHAPES)
    parser.add_argument("--experts", type=int, default=2)
    parser.add_argument("--only", choices=["zoo", "shape"], help="measure one of the two, write nothing")
    given = parser.parse_args()
    figures: list[Figure] = []
    details: dict[str, object] = {}
    if given.only != "shape":
        found, details["zoo"] = zoo(given.zoo)
        figures += found
    if given.only != "zoo":
        found, details["shape"] = large(SHAPES[given.shape], given.experts, torch.float32)
        figures += found
    if given.only:
        print(json.dumps(details, indent=1), *figures, sep="\n")
        return 0
    return 0 if report("planning", figures, details, given.shape) else 1


if __name__ == "__main__":
    sys.exit(main())

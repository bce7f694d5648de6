"""A trial and a step of the descent beside bare passes over the same tokens, and what a step takes of memory.

`python -m benchmarks.steps`, part of `make bench`, takes about ten minutes on two cores, and 12 GB. Nothing else should
run meanwhile. Its trial is a small one: a merge is one pass over the sources, whatever number of rows follows, so that
its share of a trial falls with every row. Times are taken in float32: a processor without instructions for bfloat16
multiplies it several times slower than float32, and `--types bfloat16` is for those that have them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.measuring import Figure, in_turn, memory, peak, report, reset_peak
from benchmarks.shapes import SHAPES, Random, Shape
from datagen.batches import Batch, Encoded, pack, pad
from optimizer.bunch import Bunch, Source
from optimizer.engines.outputs import Outputs
from optimizer.engines.scoring import ScoringEngine
from optimizer.merging.bank import Bank
from optimizer.merging.methods import METHODS
from optimizer.merging.space import Coefficients, Space

#: Tokens of the examples of a step, one example per term; the last third of each is its answer.
LENGTHS = (60, 77, 94, 111, 128)

#: The same for memory, by type: few where multiplying may take long.
LENGTHS_OF_MEMORY = {"float32": (64,) * 5, "bfloat16": (8,) * 5}

#: Batches of a trial hold so many tokens: all logits of bare passes must fit as well.
TOKENS_PER_BATCH = 1024


@dataclass(frozen=True)
class RandomBunch(Bunch):
    """A bunch of random models that lie in no files but the base's config.json."""

    tensors: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Tensor names."""
        return self.tensors


def open_engine(
    shape: Shape,
    experts: int,
    dtype: torch.dtype,
    device: str = "cpu",
    method: str = "task_arithmetic",
    checkpointing: bool = False,
) -> ScoringEngine:
    """An engine over random models."""
    sources = [Random(shape, number, device) for number in range(experts + 1)]
    settings = {} if method == "task_arithmetic" else {"density": 0.4}
    bank = Bank(METHODS[method], sources[0], sources[1:], settings, dtype=dtype, device=torch.device(device))
    names = tuple(sources[0].shapes)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(shape.config()))
        bunch = RandomBunch(Source("base", folder), (), "", "base", names)
        return ScoringEngine(
            bunch, Space.named([one.name for one in sources[1:]], names, "tensor"), bank, checkpointing
        )


def points(space: Space) -> Callable[[], Coefficients]:
    """Coefficients that are new at every call."""
    drawn = np.random.default_rng(0)
    return lambda: drawn.normal(0.4, 0.2, space.shape)


def examples_of(lengths: Sequence[int], vocabulary: int) -> list[Encoded]:
    """Random tokens, of which the last third is to be answered."""
    drawn = np.random.default_rng(1)
    rows = [drawn.integers(3, vocabulary, length).tolist() for length in lengths]
    return [(row[: len(row) * 2 // 3], row[len(row) * 2 // 3 :]) for row in rows]


def bare_model(engine: ScoringEngine) -> torch.nn.Module:
    """The same model as transformers makes it, over the same memory; gradients are dropped when they are made."""
    model: torch.nn.Module = type(engine.model)(engine.model.config).eval()
    live = dict(engine.model.named_parameters())
    for name, parameter in model.named_parameters():
        parameter.data = live[name].data
        parameter.register_post_accumulate_grad_hook(lambda one: setattr(one, "grad", None))  # type: ignore[no-untyped-call]
    return model


def times(engine: ScoringEngine, tokens: int, rounds: int) -> tuple[list[Figure], dict[str, object]]:
    """Trials and steps against bare passes, as transformers makes them: with all logits, and all weight gradients."""
    vocabulary, point, bare = vocabulary_of(engine), points(engine.space), bare_model(engine)
    step = pad(examples_of(LENGTHS, vocabulary), range(len(LENGTHS)))
    lengths = [LENGTHS[i % len(LENGTHS)] for i in range(tokens * len(LENGTHS) // sum(LENGTHS))]
    trial = pack(examples_of(lengths, vocabulary), TOKENS_PER_BATCH)

    def score() -> None:
        engine.apply(point())
        engine.score(trial)

    @torch.no_grad()
    def forward() -> None:
        for batch in trial:
            bare(input_ids=batch.inputs, use_cache=False)

    stepped, both, scored, forwarded = in_turn(
        [lambda: engine.gradient(point(), step, mean_loss), partial(backward, bare, step), score, forward], rounds
    )
    (merged, dots) = in_turn([lambda: engine.apply(point()), partial(dot_products, engine)], 3)
    details = {
        "seconds": {
            "trial": scored,
            "bare forward pass": forwarded,
            "step": stepped,
            "bare forward and backward pass": both,
            "merge, in each": merged,
            "dot products, in a step": dots,
        },
        "tokens, padding included": {
            "trial": sum(batch.inputs.numel() for batch in trial),
            "step": step.inputs.numel(),
        },
    }
    return [
        Figure("trial / bare forward pass over its tokens", scored / forwarded, 1.10, False),
        Figure("trial / trial without its merge", scored / (scored - merged), 1.10, False),
        Figure("step / bare forward and backward pass over its tokens", stepped / both, 1.25, False),
        Figure("step / step without merge and dot products", stepped / (stepped - merged - dots), 1.25, False),
    ], details


def mean_loss(outputs: Outputs) -> tuple[torch.Tensor, torch.Tensor]:
    """One loss of all examples, and which are right."""
    return (outputs.losses / outputs.tokens).mean(), outputs.exact


def backward(bare: torch.nn.Module, batch: Batch) -> None:
    """Forward and backward by transformers' own loss."""
    bare(input_ids=batch.inputs, labels=batch.labels, use_cache=False).loss.backward()


def dot_products(engine: ScoringEngine) -> None:
    """Those of a step, by themselves."""
    for name, parameter in engine._live.items():
        engine._bank.gradient(name, [0.5] * len(engine.space.experts), parameter.data)


def step_memory(engine: ScoringEngine, lengths: Sequence[int]) -> dict[str, float]:
    """Bytes that a step takes beside sources and model, and what is inevitable of them."""
    point = points(engine.space)
    engine.apply(point())
    batch = pad(examples_of(lengths, vocabulary_of(engine)), range(len(lengths)))
    engine.gradient(point(), batch, mean_loss)  # what is allocated once
    largest = max(engine._live.values(), key=torch.Tensor.numel)
    factors = [torch.ones(batch.inputs.numel(), size, dtype=largest.dtype) for size in largest.shape]
    return {
        "step": _taken(lambda: engine.gradient(point(), batch, mean_loss)),
        "activations": _taken(lambda: engine._outputs(batch, {})),
        "largest gradient": _taken(lambda: factors[0].T @ factors[1]),
        "of which the tensor": largest.nbytes,
        "tokens": batch.inputs.numel(),
    }


def _taken(run: Callable[[], object]) -> int:
    """Most bytes in memory while it runs and its result is there, less those before."""
    before = memory()
    reset_peak()
    run()
    return peak() - before


def rates() -> dict[str, float]:
    """GFLOP/s of a product in the shape of a layer's, by type."""
    found = {}
    for name in LENGTHS_OF_MEMORY:
        rows, weight = (torch.ones(size, 896, dtype=getattr(torch, name)) for size in (256, 4864))
        (taken,) = in_turn([lambda rows=rows, weight=weight: rows @ weight.T], 3)  # type: ignore[misc]
        found[name] = 2 * rows.numel() * weight.shape[0] / taken / 1e9
    return found


def vocabulary_of(engine: ScoringEngine) -> int:
    """Tokens of the model."""
    return int(engine.model.config.vocab_size)


def memories(shape: str, experts: int) -> tuple[list[Figure], dict[str, object]]:
    """What a step takes, by type and with layers that are computed anew, each in a process of its own."""
    figures: list[Figure] = []
    details: dict[str, object] = {}
    for dtype, again in (("float32", ""), ("float32", "again"), ("bfloat16", "")):
        found = _in_a_process("--memory", dtype, again, "--shape", shape, "--experts", experts)
        name = f"{dtype}, layers computed anew" if again else dtype
        details[name] = found
        inevitable = found["activations"] + found["largest gradient"]
        figures.append(
            Figure(f"memory of a step in {name} / activations + one gradient", found["step"] / inevitable, 1.05, False)
        )
        if again:
            kept = details[dtype]["step"]  # type: ignore[index]
            figures.append(
                Figure("memory of a step with layers computed anew / kept", found["step"] / kept, 1.0, False)
            )
    return figures, {"bytes beside sources and model": details}


def _in_a_process(*arguments: object) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.steps", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    """Measures everything; exit code 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="0.5B", choices=SHAPES)
    parser.add_argument("--experts", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=1024, help="of a trial")
    parser.add_argument("--times", type=int, default=2, help="rounds of each time")
    parser.add_argument("--types", nargs="+", default=["float32"], choices=LENGTHS_OF_MEMORY, help="times are taken in")
    parser.add_argument("--methods", nargs="+", default=["task_arithmetic", "ties"], choices=METHODS)
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    shape = SHAPES[given.shape]
    if given.memory:
        dtype, again = given.memory
        engine = open_engine(shape, given.experts, getattr(torch, dtype), checkpointing=bool(again))
        print(json.dumps(step_memory(engine, LENGTHS_OF_MEMORY[dtype])))
        return 0
    figures, details = memories(given.shape, given.experts)
    details |= {"experts": given.experts, "GFLOP/s of products": rates()}
    for dtype in given.types:
        for method in given.methods:
            engine = open_engine(shape, given.experts, getattr(torch, dtype), method=method)
            own, details[f"{method}, {dtype}"] = times(engine, given.tokens, given.times)
            figures += [replace(figure, name=f"{method}, {dtype}: {figure.name}") for figure in own]
            del engine
    return 0 if report("steps", figures, details, given.shape) else 1


if __name__ == "__main__":
    sys.exit(main())

"""On a GPU, with random weights: merging against a plain copy, a search's parts against the plan, the default search.

`python -m benchmarks.gpu` takes about ten minutes on an H200: merging 8B-shaped weights takes 100 GB of device memory,
searching them 90. `--parts merging` needs torch, safetensors and transformers alone. `--shape tiny --device cpu
--rows 8 --steps 16` runs the same code anywhere. Each part writes a results file of its own,
named after the GPU.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from itertools import count

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.measuring import Figure, in_turn, report, seconds
from benchmarks.shapes import SHAPES, Random, Shape
from optimizer.merging.bank import Bank
from optimizer.merging.methods import METHODS
from optimizer.merging.whole import WholeMerge, as_graph

PARTS = ("merging", "costs", "search")
WEIGHTS = (0.5, 0.3, 0.4)
METHOD_SETTINGS: dict[str, dict[str, float]] = {"task_arithmetic": {}, "ties": {"density": 0.4}}
ASKED = {"task_arithmetic": 0.85, "ties": 0.6}


def main() -> int:
    """Measures everything; exit code 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="8B", choices=SHAPES)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--tokens", type=int, default=65536, help="of the forward pass that a trial of merging is")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--rows", type=int, default=256, help="of each of the search's terms")
    parser.add_argument("--steps", type=int, default=1024, help="of the search's descent; a default search has 1024")
    parser.add_argument("--checkpointing", action="store_true", help="search with layers that are computed anew")
    given = parser.parse_args()
    shape, device = SHAPES[given.shape], torch.device(given.device)
    on = torch.cuda.get_device_name().removeprefix("NVIDIA ").split()[0].lower() if device.type == "cuda" else "cpu"
    met = True
    for part in given.parts:
        if part == "merging":
            found = merging(shape, device, given.tokens, given.times)
        else:
            from benchmarks.search_costs import Sizes, search_costs, whole_search  # of which merging needs nothing

            sizes = Sizes(rows=given.rows)
            if part == "costs":
                found = search_costs(shape, device, sizes, given.times, given.checkpointing)
            else:
                found = whole_search(shape, device, sizes, given.steps, given.checkpointing)
        met &= report(f"gpu-{part}-{given.shape}-{on}", *found, given.shape)
    return 0 if met else 1


def merging(shape: Shape, device: torch.device, tokens: int, times: int) -> tuple[list[Figure], dict[str, object]]:
    """Time, bandwidth, and the share of a trial that merging takes.

    Args:
        tokens: of the trial's forward pass.
        times: rounds of each time.
    """
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    model = _model(shape, device)
    live = dict(model.named_parameters())
    size = sum(parameter.nbytes for parameter in live.values())
    forward = _forward(model, shape, tokens, device)
    forward()
    pass_seconds = seconds(forward, synchronize)
    sources = [Random(shape, i, str(device)) for i in range(4)]
    record = as_graph if device.type == "cuda" else None
    figures: list[Figure] = []
    details: dict[str, object] = {"forward pass, seconds": pass_seconds, "bytes of a model": size}
    for method, settings in METHOD_SETTINGS.items():
        bank = Bank(METHODS[method], sources[0], sources[1:], settings, device=device)

        whole = WholeMerge(bank, {name: one.data for name, one in live.items()}, record)
        factors = count(1)

        def merge(whole: WholeMerge = whole, factors: Iterator[int] = factors) -> None:
            factor = 1 + next(factors) / 1000
            whole.merge(dict.fromkeys(live, tuple(weight * factor for weight in WEIGHTS)))

        def copy(bank: Bank = bank) -> None:
            with torch.no_grad():
                for name, parameter in live.items():
                    for source in bank.inputs(name).all:
                        parameter.data.copy_(source)

        first = seconds(merge, synchronize)
        merged, copied = in_turn([merge, copy], times, synchronize)
        rates = {"merge": 5 * size / merged / 1e9, "copy": 8 * size / copied / 1e9}
        details[method] = {"first merge": first, "merge": merged, "copy": copied, "GB/s": rates}
        figures.append(
            Figure(f"bandwidth of {method}, 3 experts / of a copy", rates["merge"] / rates["copy"], ASKED[method])
        )
        share = merged / (merged + pass_seconds)
        figures.append(Figure(f"share of a trial that {method} takes", share, 0.02, at_least=False))
        del bank, whole, merge, copy  # the functions hold the bank as well
    if device.type == "cuda":
        details["peak device memory, bytes"] = torch.cuda.max_memory_allocated()
    return figures, details


def _model(shape: Shape, device: torch.device) -> torch.nn.Module:
    values = {key: value for key, value in shape.config().items() if key not in ("torch_dtype", "architectures")}
    with device:
        model: torch.nn.Module = AutoModelForCausalLM.from_config(LlamaConfig(**values), dtype=torch.bfloat16)
    return model.eval()


def _forward(model: torch.nn.Module, shape: Shape, tokens: int, device: torch.device) -> Callable[[], None]:
    width = min(2048, tokens)
    rows = torch.randint(0, shape.vocabulary, (tokens // width, width), device=device)

    @torch.no_grad()
    def run() -> None:
        for batch in torch.split(rows, 4):
            model(input_ids=batch, use_cache=False, logits_to_keep=1)

    return run


if __name__ == "__main__":
    sys.exit(main())

"""Merging: bandwidth, trials, memory and whole commands, each beside what it is compared with.

Run it by `make bench`, which takes about seven minutes, most of them mergekit's. Nothing else should run meanwhile.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml

from benchmarks.measuring import Figure, in_turn, memory, peak, report, reset_peak, seconds
from benchmarks.shapes import SHAPES, write_models
from datagen.models.opening import open_weights
from optimizer.bunch import Source
from optimizer.merging.bank import Bank, Residency
from optimizer.merging.kernels import Kernel
from optimizer.merging.methods import METHODS
from optimizer.merging.methods.base import coefficients_of
from optimizer.merging.tensors import Inputs

#: Where 0.5B-shaped models are kept between runs.
CACHE = Path(".cache/bench")

#: Method, experts, and what its bandwidth must be of a copy's.
CASES = (("task_arithmetic", 1, 0.7), ("task_arithmetic", 3, 0.7), ("task_arithmetic", 7, 0.7), ("ties", 3, 0.4))

WEIGHTS = (0.5, 0.3, 0.4, 0.2, -0.1, 0.6, 0.3)
TIES = {"density": 0.4}


def bank_of(method: str, folders: list[Path], residency: Residency = "device") -> Bank:
    """A bank over folders, base first."""
    base, *experts = (Source(folder.name, str(folder)) for folder in folders)
    return Bank(METHODS[method], base, experts, TIES if method == "ties" else {}, residency=residency)


def merge_all(bank: Bank, live: dict[str, torch.Tensor]) -> None:
    """One trial's merge."""
    for name, out in live.items():
        bank.merge(name, WEIGHTS[: len(bank.experts)], out)


def bandwidth(folders: list[Path], times: int) -> tuple[list[Figure], dict[str, object]]:
    """(a) Merging against a plain copy of the same bytes, all in memory."""
    models = [open_weights(str(folder)) for folder in folders]
    held = {name: [model.tensor(name).clone() for model in models] for name in models[0].headers}
    live = {name: torch.empty_like(tensors[0]) for name, tensors in held.items()}
    size = sum(tensor.nbytes for tensor in live.values())
    figures: list[Figure] = []
    details: dict[str, object] = {}
    for name, experts, asked in CASES:
        method = METHODS[name]
        inputs = {key: Inputs.of(tensors[0], tensors[1 : experts + 1]) for key, tensors in held.items()}
        settings = method.settings(TIES if name == "ties" else {}, experts)
        kernels = {key: method.prepare(one, settings) for key, one in inputs.items()}
        weights = coefficients_of(WEIGHTS[:experts])

        def merge(kernels: dict[str, Kernel] = kernels, inputs: dict[str, Inputs] = inputs) -> None:
            for key, out in live.items():
                kernels[key].merge(inputs[key], weights, out)  # noqa: B023 - called before the next round

        def copy(inputs: dict[str, Inputs] = inputs, sources: int = experts + 1) -> None:
            # Source by source: an output that is written again at once would still be in a cache.
            for i in range(sources):
                for key, out in live.items():
                    out.copy_(inputs[key].all[i])

        merged, copied = in_turn([merge, copy], times)
        rates = {"merge": (experts + 2) * size / merged / 1e9, "copy": 2 * (experts + 1) * size / copied / 1e9}
        details[f"{name}, {experts} experts"] = {"GB/s": rates, "seconds": {"merge": merged, "copy": copied}}
        figures.append(
            Figure(f"bandwidth of {name}, {experts} experts / of a copy", rates["merge"] / rates["copy"], asked)
        )
    return figures, details


def trial(folders: list[Path]) -> tuple[list[Figure], dict[str, object]]:
    """(b) A TIES trial after the first against mergekit's TIES, both in this process and from memory."""
    bank = bank_of("ties", folders)
    live = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in bank.sources[0].shapes.items()}
    first = seconds(lambda: merge_all(bank, live))
    (later,) = in_turn([lambda: merge_all(bank, live)], 3)

    from mergekit.merge_methods import merge_tensors

    parameters = {"weight": list(WEIGHTS[: len(bank.experts)]), **TIES}

    def peer() -> None:
        for name in live:
            merge_tensors(list(bank.inputs(name).all), "ties", parameters=parameters, base_index=0)

    theirs = seconds(peer)
    figure = Figure("mergekit's TIES / a TIES trial after the first", theirs / later, 50)
    return [figure], {"TIES seconds": {"first trial": first, "later trials": later, "mergekit": theirs}}


def footprint(residency: Residency, method: str, folders: list[Path]) -> dict[str, float]:
    """Peak memory of a bank that merges a whole model into one buffer; to be run in a process of its own."""
    bank = bank_of(method, folders, residency)
    shapes = bank.sources[0].shapes
    largest = max(torch.Size(shape).numel() for shape in shapes.values())
    before = memory()
    reset_peak()
    buffer = torch.empty(largest, dtype=torch.bfloat16)
    for _ in range(2):
        for name, shape in shapes.items():
            bank.merge(name, WEIGHTS[: len(bank.experts)], buffer[: torch.Size(shape).numel()].view(shape))
    size = sum((folder / "model.safetensors").stat().st_size for folder in folders)
    return {"peak": float(peak() - before), "sources": float(size)}


def residencies(folders: list[Path]) -> tuple[list[Figure], dict[str, object]]:
    """(c) Peak memory: of `device` over the bytes of the sources, of `disk` by the number of experts."""
    found = {
        (residency, method, experts): _in_a_process(residency, method, folders[: experts + 1])
        for residency, counts in (("device", (3,)), ("disk", (1, 3, 7)))
        for method in ("task_arithmetic", "ties")
        for experts in counts
    }
    figures: list[Figure] = []
    for method in ("task_arithmetic", "ties"):
        held = found["device", method, 3]
        figures.append(
            Figure(
                f"peak memory of {method} on `device` / bytes of the sources",
                held["peak"] / held["sources"],
                1.15,
                False,
            )
        )
        growth = found["disk", method, 7]["peak"] / found["disk", method, 1]["peak"]
        figures.append(Figure(f"peak memory of {method} on `disk`, 7 experts / 1", growth, 1.1, False))
    return figures, {"memory": {" ".join(map(str, key)): value for key, value in found.items()}}


def commands(folders: list[Path], folder: Path) -> tuple[list[Figure], dict[str, object]]:
    """(d) `goodbunch merge` against `mergekit-yaml` on the same files, whole processes."""
    figures: list[Figure] = []
    details: dict[str, object] = {}
    for method, asked, times in (("linear", 2, 3), ("ties", 20, 1)):
        recipe = folder / f"{method}.yml"
        recipe.write_text(yaml.safe_dump(_mergekit_file(method, folders)))
        binaries = Path(sys.executable).parent
        ours = [str(binaries / "goodbunch"), "merge", str(recipe), "--out", str(folder / "ours"), "--force"]
        theirs = [str(binaries / "mergekit-yaml"), str(recipe), str(folder / "theirs")]
        (mine,) = in_turn([lambda ours=ours: _run(ours)], 3)  # type: ignore[misc]
        peer = min(seconds(lambda theirs=theirs: _run(theirs)) for _ in range(times))  # type: ignore[misc]
        details[method] = {"goodbunch merge": mine, "mergekit-yaml": peer}
        figures.append(Figure(f"mergekit-yaml / goodbunch merge, {method}", peer / mine, asked))
        if odd := _differing(folder / "ours", folder / "theirs"):
            details[f"{method}: elements that differ"] = odd
    return figures, {"whole commands, seconds": details}


def _mergekit_file(method: str, folders: list[Path]) -> dict[str, object]:
    base, *experts = (str(folder.resolve()) for folder in folders)
    own = TIES if method == "ties" else {}
    models = [{"model": one, "parameters": {"weight": w, **own}} for one, w in zip(experts, WEIGHTS, strict=False)]
    file: dict[str, object] = {"merge_method": method, "models": models, "dtype": "bfloat16"}
    return file | ({"base_model": base} if method == "ties" else {})


def _differing(ours: Path, theirs: Path) -> dict[str, float]:
    """Share of the elements whose bits differ, over all tensors."""
    mine, peer = open_weights(str(ours)), open_weights(str(theirs))
    differ = sum(int(torch.count_nonzero(mine.tensor(name) != peer.tensor(name))) for name in mine.headers)
    return {"share": differ / sum(torch.Size(header.shape).numel() for header in mine.headers.values())}


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603


def _in_a_process(residency: str, method: str, folders: list[Path]) -> dict[str, float]:
    names = [str(folder) for folder in folders]
    command = [sys.executable, "-m", "benchmarks.merging", "--footprint", residency, method, *names]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    """Measures everything; exit code 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="0.5B", choices=SHAPES)
    parser.add_argument("--times", type=int, default=7, help="rounds of each bandwidth")
    parser.add_argument("--parts", nargs="+", choices=("bandwidth", "trial", "memory", "commands"), help="default: all")
    parser.add_argument("--footprint", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.footprint:
        residency, method, *names = given.footprint
        print(json.dumps(footprint(residency, method, [Path(name) for name in names])))
        return 0
    folders = write_models(SHAPES[given.shape], CACHE / given.shape, 7)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        parts = {
            "bandwidth": lambda: bandwidth(folders, given.times),
            "trial": lambda: trial(folders[:4]),
            "memory": lambda: residencies(folders),
            "commands": lambda: commands(folders[:4], Path(folder)),
        }
        met = [report(f"merging-{part}", *parts[part](), shape=given.shape) for part in given.parts or parts]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Times, memory, and the file that results are written to."""

import ctypes
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figure:
    """One measured figure beside what is asked of it.

    Attributes:
        name: what was measured.
        value: the figure.
        asked: the bound.
        at_least: whether the figure must not be below the bound, rather than not above.
    """

    name: str
    value: float
    asked: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether the bound is kept."""
        return self.value >= self.asked if self.at_least else self.value <= self.asked


def seconds(run: Callable[[], object], synchronize: Callable[[], object] = lambda: None) -> float:
    """Of one call."""
    synchronize()
    begun = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - begun


def in_turn(
    runs: Sequence[Callable[[], object]], times: int, synchronize: Callable[[], object] = lambda: None
) -> list[float]:
    """Median seconds of several calls, taken in turn so that a busy moment of the machine falls on all of them."""
    for run in runs:
        run()
    measured = [[seconds(run, synchronize) for run in runs] for _ in range(times)]
    return [statistics.median(column) for column in zip(*measured, strict=True)]


def memory() -> int:
    """Bytes of this process that are in memory now; what was freed is first given back to the system."""
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def reset_peak() -> None:
    """Starts a new measurement of the peak."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Most bytes that this process had in memory since then."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def report(name: str, figures: Sequence[Figure], details: dict[str, object], shape: str = "") -> bool:
    """Prints the figures and writes them with all that belongs to them.

    Args:
        name: of the results file.
        figures: what was measured beside what is asked.
        details: what the figures were made from.
        shape: of the models, if there are any.

    Returns:
        Whether all bounds are kept.
    """
    for figure in figures:
        sign = ">=" if figure.at_least else "<="
        print(f"{'ok  ' if figure.met else 'MISS'} {figure.name}: {figure.value:.4g} (asked {sign} {figure.asked:g})")
    RESULTS.mkdir(exist_ok=True)
    written = {
        "figures": [{**figure.__dict__, "met": figure.met} for figure in figures],
        "details": details,
        "shape": shape,
        "machine": machine(),
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(written, indent=1) + "\n")
    return all(figure.met for figure in figures)


def machine() -> dict[str, object]:
    """What it ran on."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    models = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": version("torch"),
        "day": time.strftime("%Y-%m-%d"),
    }

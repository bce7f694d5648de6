"""The CPU kernels of native.cpp: built once per machine with its own compiler, called on raw memory.

Without a compiler everything still runs, by the torch formulas, with the same bits but some five times slower.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from optimizer.merging.masks import Band

_SOURCE = Path(__file__).with_name("native.cpp")
_COMPILERS = ("c++", "g++", "clang++")
_FLAGS = (
    *"-std=c++17 -O3 -march=native -shared -fPIC -pthread".split(),
    *"-ffp-contract=off -fno-trapping-math -fno-math-errno".split(),
)

_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

#: Elements whose matches are counted together when one of them is looked for.
_PART = 1 << 20

#: Below so many elements per thread, handing work out costs more than it saves.
_PER_THREAD = 1 << 17


class _Band(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_float) for name in ("floor_head", "floor_tail", "ceiling_head", "ceiling_tail")),
        ("floor_cut", ctypes.c_int64),
        ("ceiling_cut", ctypes.c_int64),
    ]


class _Merge(ctypes.Structure):
    _fields_ = [
        ("experts", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("base", "sources", "types")),
        ("key_type", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("bands", "bits", "rescale", "weights")),
        ("consensus", ctypes.c_int),
        ("normalize", ctypes.c_int),
        ("divisor", ctypes.c_float),
        ("scale", ctypes.c_float),
        ("out", ctypes.c_void_p),
        ("out_type", ctypes.c_int),
    ]


def _pointer(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _pointers(tensors: Sequence[torch.Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _address(array: Any) -> int | None:
    return None if array is None else ctypes.addressof(array)


def _band(band: Band) -> _Band:
    return _Band(*band.floor, *band.ceiling, band.floor_cut, band.ceiling_cut)


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where there is no compiler."""
    compiler = next((found for name in _COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        logging.getLogger(__name__).warning("no C++ compiler found: merging on the CPU will be slower; install g++")
        return None
    machine = f"{_SOURCE.read_text()} {_FLAGS} {compiler} {platform.machine()} {_cpu()}"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "goodbunch"
    built = folder / f"native-{hashlib.sha256(machine.encode()).hexdigest()[:16]}.so"
    if not built.is_file() and not _build(compiler, built):
        return None
    return ctypes.CDLL(str(built))


def usable(*tensors: torch.Tensor) -> bool:
    """Whether the kernels take these tensors."""
    return (
        all(t.device.type == "cpu" and t.dtype in _TYPES and t.is_contiguous() for t in tensors)
        and library() is not None
    )


@dataclass(frozen=True)
class Blocks:
    """Coefficients by block of elements.

    Attributes:
        weights: [blocks, experts], float32.
        ends: index of the element after each block, [blocks].
        first: index of the first element in the whole tensor, on which trims depend.
    """

    weights: torch.Tensor
    ends: Sequence[int]
    first: int = 0

    @property
    def fields(self) -> dict[str, int]:
        """Of a call."""
        return {"weights": self.weights.data_ptr()}

    @property
    def tail(self) -> tuple[ctypes.c_int64, ctypes.c_int64, Any]:
        """Of a call's arguments."""
        return ctypes.c_int64(self.first), ctypes.c_int64(len(self.ends)), (ctypes.c_int64 * len(self.ends))(*self.ends)


class Sources:
    """Base and experts of a tensor as the kernels take them.

    Args:
        base: contiguous, as the experts are; None where there is none.
        experts: at least one.
    """

    def __init__(self, base: torch.Tensor | None, experts: Sequence[torch.Tensor]) -> None:
        types = [_TYPES[tensor.dtype] for tensor in (experts[0] if base is None else base, *experts)]
        # Kept here, because a call only has their addresses.
        self._held = (base, experts, _pointers(experts), (ctypes.c_int * len(types))(*types))
        sources, types_at = (ctypes.addressof(array) for array in self._held[2:])
        self.fields = {"experts": len(experts), "base": _pointer(base), "sources": sources, "types": types_at}


class Trims:
    """What `TaskVectors` holds, as the kernels take it."""

    def __init__(
        self,
        bands: Sequence[Band] | None = None,
        bits: Sequence[torch.Tensor] | None = None,
        rescale: torch.Tensor | None = None,
        consensus: bool = False,
        normalize: bool = False,
        scale: float = 1.0,
    ) -> None:
        banded = (_Band * len(bands))(*(_band(band) for band in bands)) if bands else None
        masks = _pointers(bits) if bits else None
        self._held = (banded, bits, masks, rescale)
        self.fields = {
            "bands": _address(banded),
            "bits": _address(masks),
            "rescale": _pointer(rescale),
            "consensus": consensus,
            "normalize": normalize,
            "scale": scale,
        }


PLAIN = Trims()


def task_vectors(sources: Sources, trims: Trims, dtype: torch.dtype, blocks: Blocks, out: torch.Tensor) -> None:
    """`formulas.task_vectors`, written into `out`.

    Args:
        dtype: that magnitudes are compared in.
    """
    call = _Merge(**sources.fields, **trims.fields, key_type=_TYPES[dtype], **blocks.fields, **_target(out))
    _run("task_vectors", call, out.numel(), *blocks.tail)


def weighted_sum(sources: Sources, weights: torch.Tensor, out: torch.Tensor, divisor: float | None) -> None:
    """`formulas.weighted_sum`, written into `out`."""
    divided = {"normalize": divisor is not None, "divisor": 1.0 if divisor is None else divisor}
    call = _Merge(**sources.fields, **divided, weights=weights.data_ptr(), **_target(out))
    _run("weighted_sum", call, out.numel())


def dot_products(
    sources: Sources, trims: Trims, dtype: torch.dtype, blocks: Blocks, gradient: torch.Tensor
) -> torch.Tensor:
    """<gradient, what a weight multiplies> of every block and expert, [blocks, experts], float64.

    Weights multiply sources, or task vectors as they are trimmed and where they agree, less what they are divided by
    (with `consensus` and `normalize`).

    Args:
        dtype: that magnitudes are compared in.
    """
    call = _Merge(**sources.fields, **trims.fields, key_type=_TYPES[dtype], **blocks.fields)
    dots = torch.zeros(blocks.weights.shape, dtype=torch.float64)
    along = (_at(gradient), ctypes.c_int(_TYPES[gradient.dtype]))
    _run("dot_products", call, gradient.numel(), *blocks.tail, *along, _at(dots))
    return dots


def sample(base: torch.Tensor, expert: torch.Tensor, dtype: torch.dtype, step: int) -> torch.Tensor:
    """Every `step`-th magnitude of a task vector.

    Args:
        dtype: that magnitudes are rounded to.
    """
    keys = torch.empty(-(-base.numel() // step), dtype=torch.float32)
    call = _call(base, expert, dtype)
    _run("sample", call, keys.numel(), ctypes.c_int64(step), _at(keys))
    return keys


def between(
    base: torch.Tensor, expert: torch.Tensor, dtype: torch.dtype, floor: float, ceiling: float
) -> tuple[int, list[tuple[int, torch.Tensor]]]:
    """The magnitudes of a task vector that lie in an interval.

    Args:
        dtype: that magnitudes are rounded to.
        floor: least magnitude collected.
        ceiling: greatest magnitude collected.

    Returns:
        How many lie below; of each part of the tensor, where it begins and its magnitudes inside, in order of position.
    """
    # As large as the tensor, but memory is only taken where something is written.
    keys = torch.empty(base.numel(), dtype=torch.float32)
    counts = torch.zeros(-(-base.numel() // _PART), 3, dtype=torch.int64)
    call = _call(base, expert, dtype)
    edges = (ctypes.c_float(floor), ctypes.c_float(ceiling))
    _run("between", call, base.numel(), *edges, ctypes.c_int64(_PART), _at(keys), _at(counts))
    parts = [(begin, keys[begin:][:found]) for begin, _, found in counts.tolist()]
    return int(counts[:, 1].sum()), parts


def nth_equal(
    base: torch.Tensor, expert: torch.Tensor, dtype: torch.dtype, value: float, wanted: int, begin: int
) -> int:
    """Index of the `wanted`-th element, counted from 1 at `begin`, whose magnitude is `value`; -1 if there is none."""
    kernel = getattr(library(), "nth_equal")  # noqa: B009 - callers have asked `usable` whether there is one
    kernel.restype = ctypes.c_int64
    call = _call(base, expert, dtype)
    ends = (ctypes.c_int64(begin), ctypes.c_int64(base.numel()))
    found: int = kernel(ctypes.byref(call), *ends, ctypes.c_float(value), ctypes.c_int64(wanted))
    return found


def _run(name: str, call: _Merge, count: int, *tail: Any) -> None:
    """Calls a kernel on all elements, on as many threads as torch uses, without the interpreter's lock."""
    threads = max(1, min(torch.get_num_threads(), count // _PER_THREAD))
    getattr(library(), name)(ctypes.byref(call), ctypes.c_int64(threads), ctypes.c_int64(count), *tail)


def _at(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _call(base: torch.Tensor, expert: torch.Tensor, dtype: torch.dtype) -> _Merge:
    """A call that looks at one task vector."""
    sources = Sources(base, [expert])
    call = _Merge(**sources.fields, key_type=_TYPES[dtype])
    call.held = sources
    return call


def _target(out: torch.Tensor) -> dict[str, int]:
    return {"out": out.data_ptr(), "out_type": _TYPES[out.dtype]}


def _cpu() -> str:
    """What -march=native depends on, so that a home shared by machines holds one build for each."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text().partition("flags")[2].partition("\n")[0] if info.is_file() else ""
    return flags or platform.processor()


def _build(compiler: str, built: Path) -> bool:
    try:
        built.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=built.parent) as folder:
            beside = Path(folder) / built.name
            subprocess.run([compiler, *_FLAGS, str(_SOURCE), "-o", str(beside)], check=True, capture_output=True)  # noqa: S603
            beside.replace(built)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"") or str(error).encode()
        logging.getLogger(__name__).warning(
            "%s could not build the CPU kernels, merging will be slower: %s", compiler, said.decode().strip()[:300]
        )
        return False
    return True

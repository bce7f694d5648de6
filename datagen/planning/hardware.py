"""What models run on: devices by the figures of their data sheets, or what is at hand."""

import difflib
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from datagen.errors import ConfigError


@dataclass(frozen=True)
class Device:
    """A GPU, or the CPU with its memory.

    Attributes:
        name: as `--gpu` takes it.
        memory: in bytes.
        bandwidth: of the memory, in bytes per second; none where it is not known.
        flops: dense bfloat16 operations per second; none where they are not known.
        cpu: whether it is no GPU.
    """

    name: str
    memory: float
    bandwidth: float | None
    flops: float | None
    cpu: bool = False


@dataclass(frozen=True)
class Machine:
    """Devices of one kind.

    Attributes:
        source: where the figures come from.
    """

    device: Device
    count: int = 1
    source: str = "data sheet"


def _device(name: str, gigabytes: int, terabytes_per_second: float, teraflops: float) -> Device:
    return Device(name, gigabytes * 1e9, terabytes_per_second * 1e12, teraflops * 1e12)


#: Memory in GB of 1e9 bytes, of which a device has rather more; bandwidth in TB/s; dense bf16 TFLOP/s, accumulated in
#: float32. Data sheets print twice the latter, "with sparsity".
DEVICES = {
    device.name: device
    for device in (
        _device("A100-40GB", 40, 1.555, 312),
        _device("A100-80GB", 80, 2.039, 312),
        _device("H100", 80, 3.35, 989),  # SXM
        _device("H100-PCIe", 80, 2.0, 756),
        _device("H100-NVL", 94, 3.9, 835),
        _device("H200", 141, 4.8, 989),
        _device("B200", 180, 8.0, 2250),
        _device("L40S", 48, 0.864, 362),
        _device("L4", 24, 0.3, 121),
        _device("A10G", 24, 0.6, 70),  # TFLOP/s not verified, nor those of the 3090 and 5090
        _device("RTX-3090", 24, 0.936, 71),
        _device("RTX-4090", 24, 1.008, 165),
        _device("RTX-5090", 32, 1.792, 209),
        _device("MI300X", 192, 5.3, 1307),
    )
}

#: What a name means that says too little.
_MEANT = {"a100": "a10080gb"}

#: Words by which cards of other figures borrow a name.
_OTHER_CARDS = frozenset(("d", "laptop", "max", "mig"))


def find_machine(name: str) -> Machine:
    """The devices of a name such as `H200` or `4xA100-80GB`; case, spaces and dashes do not matter.

    Raises:
        ConfigError: no such device is known.
    """
    found = re.fullmatch(r"\s*(?:([1-9]\d*)\s*x\s*)?(.+)", name, re.IGNORECASE)
    count, wanted = (int(found[1] or 1), found[2]) if found else (1, name)
    by_letters = {_letters(known): device for known, device in DEVICES.items()}
    letters = _letters(wanted)
    if (device := by_letters.get(_MEANT.get(letters, letters))) is None:
        close = difflib.get_close_matches(letters, by_letters, n=1)
        hint = f"did you mean {by_letters[close[0]].name!r}? " if close else ""
        raise ConfigError(
            f"--gpu must name a known device, perhaps as 4xNAME, but got {name!r}; {hint}known: {', '.join(DEVICES)}"
        )
    return Machine(device, count)


def machine_at_hand() -> Machine:
    """The GPUs that `nvidia-smi` tells of, or else the CPU."""
    told = _asked_nvidia()
    return parse_nvidia(told) or _cpu()


def parse_nvidia(told: str) -> Machine | None:
    """The devices in the answer of `nvidia-smi --query-gpu=name,memory.total --format=csv,noheader,nounits`.

    Of several kinds the smallest is taken, since a model that is split gets an equal part onto each.
    """
    devices = []
    for line in told.splitlines():
        name, _, mebibytes = line.rpartition(",")
        if name and mebibytes.strip().isdigit():
            devices.append(_known_as(name.strip(), int(mebibytes) * 2**20))
    if not devices:
        return None
    smallest = min(devices, key=lambda device: device.memory)
    known = smallest.bandwidth is not None
    return Machine(smallest, len(devices), "nvidia-smi and data sheet" if known else "nvidia-smi")


def _known_as(name: str, memory: float) -> Device:
    """A card with the figures of its data sheet, if that is known, and the memory that it really has."""
    words = _words(name)
    fitting = [
        device
        for device in DEVICES.values()
        # Not every name tells 40 from 80 GB, but the memory does.
        if _words(device.name) - {"40gb", "80gb"} <= words and abs(memory / device.memory - 1) < 0.15
    ]
    if not fitting or words & _OTHER_CARDS:
        return Device(name, memory, None, None)
    return replace(max(fitting, key=lambda device: len(_words(device.name))), memory=memory)


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]|nvidia|geforce|amd|sxm\d?", "", name.lower())


def _asked_nvidia() -> str:
    if (program := shutil.which("nvidia-smi")) is None:
        return ""
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""  # a driver without a card


def _cpu() -> Machine:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    bandwidth, flops = measure()
    return Machine(Device(f"CPU, {cores} cores", _memory(), bandwidth, flops, cpu=True), 1, "measured just now")


def _memory() -> float:
    """Of the machine, or of the container if that has less."""
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        limit = float(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # none, or `max`
        return total
    return min(total, limit)


def measure(megabytes: int = 32, width: int = 512) -> tuple[float, float]:
    """What this CPU copies, in bytes per second, and multiplies, in float32 operations per second; in about 0.1 s.

    Args:
        megabytes: that are copied; more than caches hold.
        width: of the square matrices.
    """
    source = np.ones(megabytes * 2**20 // 8)
    target = np.empty_like(source)
    matrix = np.ones((width, width), np.float32)
    product = np.empty_like(matrix)
    copied, multiplied = [], []
    for _ in range(3):  # the first finds cold caches and sleeping threads
        begun = time.perf_counter()
        np.copyto(target, source)
        copied.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        np.matmul(matrix, matrix, out=product)
        multiplied.append(time.perf_counter() - begun)
    # What is copied is read and written.
    return 2 * source.nbytes / min(copied), 2 * width**3 / min(multiplied)

"""How plans are told: tables, numbers, times."""

from rich import box
from rich.filesize import decimal
from rich.table import Table

from datagen.planning.hardware import Machine

#: In the place of what is not known.
UNKNOWN = "?"


def new_table(*headings: str, texts: int = 1) -> Table:
    """A table whose first columns are texts, and the others numbers."""
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, heading in enumerate(headings):
        made.add_column(heading, justify="left" if i < texts else "right", no_wrap=heading == "model", overflow="fold")
    return made


def machine_line(machine: Machine) -> str:
    """What is planned for."""
    device = machine.device
    known = device.bandwidth is not None and device.flops is not None
    speed = f"{decimal(int(device.bandwidth or 0))}/s, {count(device.flops or 0)}FLOP/s" if known else "speed not known"
    return (
        f"planned for {machine.count} x {device.name}: {decimal(int(device.memory))} each, {speed} ({machine.source})"
    )


def devices(machine: Machine, used: int) -> str:
    """So many of a machine's devices."""
    return f"{used} x {machine.device.name}" if machine.count > 1 or used > 1 else machine.device.name


def count(number: float) -> str:
    """A large number, rounded."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            told = number / size
            return f"{told:.0f} {unit}" if told >= 100 else f"{told:.3g} {unit}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """A time, rounded."""
    if seconds < 1:
        return "< 1 s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 4 * 86400 else f"{seconds / 86400:.0f} days"

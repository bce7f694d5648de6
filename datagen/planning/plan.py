"""`goodbunch datagen --dry-run`: what a run will ask of whom, and the memory and time that it will take."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from rich import box
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from datagen.config import BunchConfig, EngineConfig
from datagen.data_config import DataConfig
from datagen.pipeline import Inputs
from datagen.planning.hardware import Machine
from datagen.planning.placement import DISK, WORKSPACE, Placement, place
from datagen.planning.sizes import Size
from datagen.planning.workload import CHARS_PER_TOKEN, GUARD_TEMPLATE, TEMPLATE, Kind, Work, kinds, works
from datagen.progress import console

#: Seconds that an engine takes to start, besides reading weights.
START = 30.0

_UNKNOWN = "?"


class Model(NamedTuple):
    """A model, and how it fits.

    Attributes:
        roles: what it is in the config: `base`, an expert's name, `guard`, ...
        placement: none where its size is not known, or a server has it.
    """

    reference: str
    roles: Sequence[str]
    size: Size
    placement: Placement | None


class Plan(NamedTuple):
    """What a run will do.

    Attributes:
        machine: none if a server answers, whose affair memory and time are.
        seconds: of each work, reading weights included; none where that cannot be told.
        starts: how often the engine starts at most: whenever a model follows that may have another shape.
    """

    engine: EngineConfig
    machine: Machine | None
    kinds: Sequence[Kind]
    works: Sequence[Work]
    models: Sequence[Model]
    seconds: Sequence[float | None]
    starts: int


def plan(
    bunch: BunchConfig,
    data: DataConfig,
    engine: EngineConfig,
    inputs: Inputs,
    sizes: Mapping[str, Size],
    machine: Machine | None,
) -> Plan:
    """What a run will do; nothing is read, loaded or measured for it.

    Args:
        inputs: what the files hold that the config names.
        sizes: model -> what it weighs; others are not known.
        machine: where it will run; none for a server.
    """
    todo = works(bunch, data, inputs, {model: size.template for model, size in sizes.items()})
    roles: dict[str, list[str]] = {}
    for role, model in (bunch.models() | data.models()).items():
        roles.setdefault(model, []).append(role)
    models = {}
    for name, own in roles.items():
        size = sizes.get(name, Size())
        models[name] = Model(name, own, size, None if machine is None else place(size, engine, machine))
    return Plan(
        engine=engine,
        machine=machine,
        kinds=kinds(data, inputs),
        works=todo,
        models=list(models.values()),
        seconds=[_seconds(work, models[work.model].placement) for work in todo],
        starts=1 + sum(_differ(models[one.model], models[other.model]) for one, other in pairwise(todo)),
    )


def _differ(one: Model, other: Model) -> bool:
    """Whether an engine must start anew for a model; others are swapped in place."""
    return one.reference != other.reference and (not one.size.shape or one.size.shape != other.size.shape)


def _seconds(work: Work, placement: Placement | None) -> float | None:
    if placement is None or not placement.fits:
        return None
    return placement.seconds(work.conversations, work.prompt / work.conversations, work.new)


def show(planned: Plan) -> None:
    """Prints a plan."""
    if planned.machine is not None:
        console.print(_machine_line(planned.machine), markup=False)
    console.print(_kinds_table(planned))
    console.print(_works_table(planned))
    if planned.machine is not None:
        console.print(_models_table(planned))
    for line in summary(planned):
        console.print(line, markup=False)


def summary(planned: Plan) -> Iterator[str]:
    """What it comes to, a line each."""
    conversations = sum(work.conversations for work in planned.works)
    prompt = sum(work.prompt for work in planned.works)
    new = sum(work.conversations * work.new for work in planned.works)
    asked = (
        f"at most {conversations} conversations, about {_count(prompt)} prompt tokens, at most {_count(new)} new ones"
    )
    if planned.machine is None:
        yield f"in all: {asked}; memory and time are the server's affair"
    else:
        yield f"in all: {asked}; {_time(planned)}"
        yield from _memory(planned, planned.machine)
        yield from _left_out(planned)
    yield from _assumptions(planned)


def _time(planned: Plan) -> str:
    known = [seconds for seconds in planned.seconds if seconds is not None]
    if not known:
        return "time not known"
    starts = 0.0 if planned.engine.kind == "transformers" else planned.starts * START
    told = f"about {_duration(sum(known) + starts)}"
    if starts:
        told += f", {_duration(starts)} of them for starting the engine at most {planned.starts} x"
    missing = len(planned.works) - len(known)
    return told + (f"; {missing} of {len(planned.works)} stages not counted" if missing else "")


def _memory(planned: Plan, machine: Machine) -> Iterator[str]:
    placed = [(model.reference, model.placement) for model in planned.models if model.placement is not None]
    if placed:
        name, largest = max(placed, key=lambda one: one[1].weights)
        room, taken = max(largest.room, 0), largest.devices * largest.taken
        full = int(room // (largest.cache * planned.engine.max_model_len))
        yield (
            f"memory: one model at a time, at most {decimal(int(largest.weights))} ({name}), of the "
            f"{decimal(int(taken))} that the engine takes of {_devices(machine, largest.devices)}; the KV cache has "
            f"{decimal(int(room))}, {room / taken:.0%}, enough for {full} conversations of full length"
        )
    for name, placement in placed:
        if remedy := placement.remedy():
            yield f"does not fit: {name}, {decimal(int(placement.weights))}; {remedy}"
    idle = machine.count - max((one.devices for _, one in placed), default=1)
    if idle > 0 and planned.engine.kind == "vllm":
        yield f"{idle} of {machine.count} devices stay idle; engine.tensor_parallel={machine.count} uses all"
    stored = {model.reference: model.size for model in planned.models if model.size.stored}
    disk = sum(size.stored or 0 for size in stored.values())
    missing = sum(size.stored or 0 for size in stored.values() if not size.here)
    yield f"disk: {decimal(int(disk))} of weights, {decimal(int(missing))} of them to be downloaded"


def _left_out(planned: Plan) -> Iterator[str]:
    if unknown := [model.reference for model in planned.models if model.placement is None]:
        yield f"left out of sizes and times, since neither files nor name tell their size: {', '.join(unknown)}"


def _assumptions(planned: Plan) -> Iterator[str]:
    yield (
        f"assumed: {CHARS_PER_TOKEN} characters a token, {TEMPLATE} tokens a chat template, {GUARD_TEMPLATE} that of a "
        f"guard; nothing dropped, every answer as long as it may be, nothing known from an earlier run"
    )
    if planned.machine is not None:
        yield (
            f"times: floors for so many tokens, bound by memory and arithmetic alone (arXiv 2402.16363), with weights "
            f"read at {decimal(int(DISK))}/s and {START:.0f} s a start of vLLM; sizes by name: bfloat16; of a GPU, "
            f"{decimal(int(WORKSPACE))} are left to the engine's own needs"
        )


def _kinds_table(planned: Plan) -> Table:
    table = _table("rows", "asked", "imported", "kept at most", "search", "validation", "test")
    for kind in planned.kinds:
        table.add_row(kind.name, *map(str, (kind.asked, kind.imported, kind.kept, *kind.splits.values())))
    return table


def _works_table(planned: Plan) -> Table:
    timed = planned.machine is not None
    table = _table("stage", "model", "asked", "prompt tokens", "new tokens", *(["time"] if timed else []), texts=2)
    for work, seconds in zip(planned.works, planned.seconds, strict=True):
        tokens = (_count(work.prompt), _count(work.conversations * work.new))
        time = [_UNKNOWN if seconds is None else _duration(seconds)] if timed else []
        table.add_row(work.stage, escape(work.model), str(work.conversations), *tokens, *time)
    return table


def _models_table(planned: Plan) -> Table:
    table = _table("model", "as", "parameters", "weights", "told by", "fits", texts=2)
    for model in planned.models:
        size, placement = model.size, model.placement
        table.add_row(
            escape(model.reference),
            ", ".join(model.roles),
            _UNKNOWN if size.parameters is None else _count(size.parameters),
            _UNKNOWN if placement is None else decimal(int(placement.weights)),
            size.source,
            _UNKNOWN if placement is None else "yes" if placement.fits else "no",
        )
    return table


def _table(*headings: str, texts: int = 1) -> Table:
    """A table whose first columns are texts, and the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < texts else "right", no_wrap=heading == "model", overflow="fold")
    return table


def _machine_line(machine: Machine) -> str:
    device = machine.device
    known = device.bandwidth is not None and device.flops is not None
    speed = (
        f"{decimal(int(device.bandwidth or 0))}/s, {_count(device.flops or 0)}FLOP/s" if known else "speed not known"
    )
    return (
        f"planned for {machine.count} x {device.name}: {decimal(int(device.memory))} each, {speed} ({machine.source})"
    )


def _devices(machine: Machine, used: int) -> str:
    return f"{used} x {machine.device.name}" if machine.count > 1 or used > 1 else machine.device.name


def _count(number: float) -> str:
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            told = number / size
            return f"{told:.0f} {unit}" if told >= 100 else f"{told:.3g} {unit}"
    return f"{number:.0f}"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "< 1 s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 4 * 86400 else f"{seconds / 86400:.0f} days"

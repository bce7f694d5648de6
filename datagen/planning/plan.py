"""`goodbunch datagen --dry-run`: what a run will ask of whom, and the memory and time that it will take."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from datagen.config import BunchConfig, EngineConfig
from datagen.data_config import DataConfig
from datagen.pipeline import Inputs
from datagen.planning.hardware import Machine
from datagen.planning.placement import DISK, WORKSPACE, Placement, place
from datagen.planning.sizes import Size
from datagen.planning.telling import UNKNOWN, count, devices, duration, machine_line, new_table
from datagen.planning.workload import CHARS_PER_TOKEN, GUARD_TEMPLATE, TEMPLATE, Kind, Work, kinds, works
from datagen.progress import console

#: Seconds that an engine takes to start, besides reading weights.
START = 30.0


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

    @property
    def starting(self) -> float:
        """Seconds that starts of the engine take."""
        return 0.0 if self.engine.kind == "transformers" else self.starts * START

    @property
    def total(self) -> float | None:
        """Seconds of all works that can be told; none if there are none."""
        known = [seconds for seconds in self.seconds if seconds is not None]
        return sum(known) + self.starting if known else None


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
        console.print(machine_line(planned.machine), markup=False)
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
    asked = f"at most {conversations} conversations, about {count(prompt)} prompt tokens, at most {count(new)} new ones"
    if planned.machine is None:
        yield f"in all: {asked}; memory and time are the server's affair"
    else:
        yield f"in all: {asked}; {_time(planned)}"
        yield from _memory(planned, planned.machine)
        yield from _left_out(planned)
    yield from _assumptions(planned)


def _time(planned: Plan) -> str:
    if planned.total is None:
        return "time not known"
    told = f"about {duration(planned.total)}"
    if planned.starting:
        told += f", {duration(planned.starting)} of them for starting the engine at most {planned.starts} x"
    missing = sum(seconds is None for seconds in planned.seconds)
    return told + (f"; {missing} of {len(planned.works)} stages not counted" if missing else "")


def _memory(planned: Plan, machine: Machine) -> Iterator[str]:
    placed = [(model.reference, model.placement) for model in planned.models if model.placement is not None]
    if placed:
        name, largest = max(placed, key=lambda one: one[1].weights)
        room, taken = max(largest.room, 0), largest.devices * largest.taken
        full = int(room // (largest.cache * planned.engine.max_model_len))
        yield (
            f"memory: one model at a time, at most {decimal(int(largest.weights))} ({name}), of the "
            f"{decimal(int(taken))} that the engine takes of {devices(machine, largest.devices)}; the KV cache has "
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
    table = new_table("rows", "asked", "imported", "kept at most", "search", "validation", "test")
    for kind in planned.kinds:
        table.add_row(kind.name, *map(str, (kind.asked, kind.imported, kind.kept, *kind.splits.values())))
    return table


def _works_table(planned: Plan) -> Table:
    timed = planned.machine is not None
    table = new_table("stage", "model", "asked", "prompt tokens", "new tokens", *(["time"] if timed else []), texts=2)
    for work, seconds in zip(planned.works, planned.seconds, strict=True):
        tokens = (count(work.prompt), count(work.conversations * work.new))
        time = [UNKNOWN if seconds is None else duration(seconds)] if timed else []
        table.add_row(work.stage, escape(work.model), str(work.conversations), *tokens, *time)
    return table


def _models_table(planned: Plan) -> Table:
    table = new_table("model", "as", "parameters", "weights", "told by", "fits", texts=2)
    for model in planned.models:
        size, placement = model.size, model.placement
        table.add_row(
            escape(model.reference),
            ", ".join(model.roles),
            UNKNOWN if size.parameters is None else count(size.parameters),
            UNKNOWN if placement is None else decimal(int(placement.weights)),
            size.source,
            UNKNOWN if placement is None else "yes" if placement.fits else "no",
        )
    return table

"""A plan as tables and lines, and as JSON."""

from collections.abc import Iterator
from typing import Any

from rich.filesize import decimal
from rich.table import Table

from datagen.planning.placement import DISK
from datagen.planning.plan import START
from datagen.planning.plan import Plan as DataPlan
from datagen.planning.telling import UNKNOWN, count, duration, new_table
from datagen.progress import console
from optimizer.planning.memory import CONTEXT
from optimizer.planning.plan import Plan
from optimizer.planning.rates import LINK


def show(planned: Plan, data: DataPlan | None) -> None:
    """Prints the plan of a search.

    Args:
        data: what writing the data takes; none if they are there, or a server writes them.
    """
    console.print(_studies_table(planned))
    console.print(_memory_table(planned))
    for line in summary(planned, data):
        console.print(line, markup=False)


def summary(planned: Plan, data: DataPlan | None) -> Iterator[str]:
    """What it comes to, a line each."""
    work, shape = planned.work, planned.shape
    yield (
        f"search: {count(shape.parameters)} parameters ({shape.source}) x {len(planned.sources)} sources, "
        f"{work.coefficients} coefficients; at most {work.trials} trials, "
        f"{sum(study.passes for study in work.studies):.0f} forward passes over the search set"
    )
    remedy = planned.remedy()
    needed, there = max(planned.memory.values()), planned.machine.device.memory
    if remedy:
        yield f"does not fit: {decimal(int(needed))} of {decimal(int(there))}; {remedy}"
    else:
        beside = f", and {decimal(int(planned.host))} of the host" if planned.host else ""
        yield f"fits: {decimal(int(needed))} of {decimal(int(there))}{beside}"
    if planned.seconds is None:
        yield "time: not known"
    else:
        told = ", ".join(f"{stage.name} {duration(stage.seconds or 0)}" for stage in planned.stages)
        yield f"time of the search: at most about {duration(planned.seconds)} ({told})"
    yield (
        f"disk of the search: {decimal(int(planned.merged))} for the merged model, {decimal(int(planned.study))} for "
        f"the trials"
    )
    yield total(planned, data)
    yield from _assumptions(planned)


def total(planned: Plan, data: DataPlan | None) -> str:
    """Time and disk of data and search together."""
    seconds = planned.seconds
    if data is not None and seconds is not None:
        seconds = None if data.total is None else seconds + data.total
    stored = dict(planned.stored)
    if data is not None:
        stored |= {model.reference: model.size.stored or 0.0 for model in data.models}
    disk = sum(stored.values()) + planned.merged + planned.study
    what = "search" if data is None else "data and search"
    time = "time not known" if seconds is None else f"at most about {duration(seconds)}"
    return f"total, {what}: {time}; {decimal(int(disk))} of disk"


def as_json(planned: Plan, data: DataPlan | None) -> dict[str, Any]:
    """What a plan says, in bytes and seconds."""
    cost = planned.cost
    return {
        "machine": {"name": planned.machine.device.name, "count": planned.machine.count},
        "model": {
            "parameters": planned.shape.parameters,
            "sources": len(planned.sources),
            "told_by": planned.shape.source,
        },
        "rows_are_there": planned.work.exact,
        "studies": [
            {
                "name": study.name,
                "trials": study.trials,
                "steps": study.steps,
                "forward_pass_equivalents": study.passes,
                "trial_seconds": cost.trial([*study.search, *study.validation]) if cost else None,
                "step_seconds": cost.step(study.step) if cost and study.step else None,
            }
            for study in planned.work.studies
        ],
        "seconds": {stage.name: stage.seconds for stage in planned.stages},
        "data_seconds": None if data is None else data.total,
        "memory": planned.memory,
        "held": planned.held._asdict(),
        "host": planned.host,
        "disk": {"sources": sum(planned.stored.values()), "merged": planned.merged, "trials": planned.study},
        "options": [option._asdict() for option in planned.options()],
        "fits": planned.fits,
        "remedy": planned.remedy(),
    }


def _studies_table(planned: Plan) -> Table:
    table = new_table("study", "trials", "steps", "forward passes", "a trial", "a step", "time")
    cost = planned.cost
    for study in planned.work.studies:
        times: list[float | None] = [None, None, None]
        if cost is not None:
            batches = [*study.search, *study.validation]
            times = [cost.trial(batches), cost.step(study.step) if study.step else 0.0, cost.study(study)]
        table.add_row(
            study.name,
            str(study.trials),
            str(study.steps),
            f"{study.passes:.1f}",
            *map(_short, times[:2]),
            _time(times[2]),
        )
    return table


def _memory_table(planned: Plan) -> Table:
    table = new_table("merge.dtype", "residency", "search", "compare", "host", "a trial", "a step", "fits", texts=2)
    for option in planned.options():
        table.add_row(
            option.dtype,
            option.residency,
            *(decimal(int(size)) for size in (option.search, option.compare, option.host)),
            _short(option.trial),
            _short(option.step),
            "yes" if option.fits else "no",
        )
    return table


def _time(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else duration(seconds)


def _short(seconds: float | None) -> str:
    """A time that may be a part of a second."""
    return (
        UNKNOWN
        if seconds is None
        else "-"
        if seconds == 0
        else f"{seconds:.3g} s"
        if seconds < 100
        else duration(seconds)
    )


def _assumptions(planned: Plan) -> Iterator[str]:
    rows = "rows as they are there" if planned.work.exact else "every row as long as it may be, no data are there yet"
    yield (
        f"assumed of the search: {rows}; upper bounds: no trial is given up early, no study stops before its budget is "
        f"spent, every answer is as long as it may be"
    )
    if planned.machine.device.cpu:
        yield "times of the search: by a probe of two seconds of one layer's merge, passes and dot products on this CPU"
    else:
        yield (
            f"times of merges, passes and steps: by the data sheet and what was reached of it on an H200; of answers: "
            f"floors by the data sheet; assumed are {decimal(int(LINK))}/s from the host, {decimal(int(DISK))}/s from "
            f"disk, {START:.0f} s a start of vLLM and {decimal(int(CONTEXT))} of a GPU for libraries"
        )

"""Runs the study: all ways in all cells, two at a time; what is finished is kept, so that it can be stopped.

`python -m benchmarks.study` writes `benchmarks/results/study.json`, and from that alone the tables and figures of
`docs/study/`; `--tables` does only the latter.
"""

import argparse
import hashlib
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.measuring import RESULTS, machine
from benchmarks.study.config import StudyConfig, read_study
from benchmarks.study.tables import write_figure, write_tables
from benchmarks.zoos import CACHE, CONFIG
from datagen.files import write_text

if TYPE_CHECKING:
    from benchmarks.study.cell import Cell
    from benchmarks.study.methods import Way


#: What the one row of a variant is kept as.
_VARIANT = "variant"


class Task(NamedTuple):
    """One cell: a setting on one zoo, or one value of what is varied there.

    Attributes:
        varied: what is varied, if anything is.
        value: its value.
    """

    recipe: str
    seed: int
    setting: str
    varied: str = ""
    value: str = ""


def tasks(study: StudyConfig) -> Iterator[Task]:
    """All cells, settings first."""
    for name, setting in study.settings.items():
        for recipe, seeds in setting.recipes.items():
            yield from (Task(recipe, seed, name) for seed in seeds)
    for varied, values in study.ablations.variants.items():
        for recipe, seeds in study.ablations.recipes.items():
            yield from (
                Task(recipe, seed, study.ablations.setting, varied, value) for value in values for seed in seeds
            )


def run_zoo(some: list[Task]) -> list[dict[str, Any]]:
    """Cells of one zoo, in a process of its own."""
    return [_run(task) for task in some]


def _run(task: Task) -> dict[str, Any]:
    """One cell; what is known of it is not measured again."""
    from benchmarks.study.cell import Cell
    from benchmarks.study.methods import ablated, ways

    study, file = read_study(), _file(task)
    if not file.is_file():
        cell = Cell.ready(study, study.settings[task.setting], task.recipe, task.seed)
        rows: dict[str, Any] = {}
        if task.varied:
            variant = study.ablations.variants[task.varied][task.value]
            rows = _measured(cell, lambda cell: {_VARIANT: ablated(cell, variant)})
        else:
            for way in ways(cell):
                rows |= _measured(cell, way)
        write_text(file, json.dumps(rows) + "\n")
    print(*task, flush=True)
    rows = json.loads(file.read_text())
    return task._asdict() | {"rows": {task.value: rows[_VARIANT]} if task.varied else rows}


def _measured(cell: "Cell", way: "Way") -> dict[str, Any]:
    """What merges are worth, and what finding them cost."""
    begun = time.monotonic()
    merges = way(cell)
    took = (time.monotonic() - begun) / max(1, len(merges))
    return {
        name: cell.judged(merged)
        | {
            "passes": round(merged.sequences / cell.search.sequences, 2),
            "seconds": round(took, 2),
            "picked": merged.picked,
        }
        for name, merged in merges.items()
    }


def _file(task: Task) -> Path:
    """Where a cell is kept, under a name that tells what decides it; variants that are the same are one."""
    study = read_study()
    decided: list[Any] = [
        *(task.recipe, task.seed, CONFIG.read_text()),
        study.model_dump(exclude={"settings", "ablations"}),
        study.settings[task.setting].model_dump(exclude={"recipes"}),
    ]
    if task.varied:
        decided.append(study.ablations.variants[task.varied][task.value].model_dump())
    return CACHE / "study" / f"{hashlib.sha256(json.dumps(decided).encode()).hexdigest()[:16]}.json"


def main() -> int:
    """Runs what is missing, and writes everything down."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__)
    parser.add_argument("--tables", action="store_true", help="only write tables and figures anew")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--zoos", nargs="*", help="only these, such as natural-3")
    given = parser.parse_args()
    results = RESULTS / "study.json"
    if not given.tables:
        begun, found = time.monotonic(), []
        (CACHE / "study").mkdir(parents=True, exist_ok=True)
        order = {task: place for place, task in enumerate(tasks(read_study()))}
        by_zoo: dict[str, list[Task]] = {}
        for task in order:
            by_zoo.setdefault(f"{task.recipe}-{task.seed}", []).append(task)
        wanted = [some for zoo, some in by_zoo.items() if not given.zoos or zoo in given.zoos]
        # One thread each: they would wait for each other.
        os.environ["OMP_NUM_THREADS"] = "1"
        with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
            for done in as_completed([pool.submit(run_zoo, some) for some in wanted]):
                found += done.result()
        found.sort(key=lambda one: order[Task(**{name: one[name] for name in Task._fields})])
        told = {"machine": machine(), "minutes": round((time.monotonic() - begun) / 60, 1), "cells": found}
        write_text(results, json.dumps(told, indent=1) + "\n")
    cells = json.loads(results.read_text())["cells"]
    write_tables(cells)
    write_figure(cells)
    return 0

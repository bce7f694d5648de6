"""Runs the study: all ways in all cells, two at a time; what is finished is kept, so that it can be stopped.

`python -m benchmarks.study` writes `benchmarks/results/study.json`, and from that alone the tables and figures of
`docs/study/`; `--tables` does only the latter.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any, NamedTuple

from benchmarks.measuring import RESULTS, machine
from benchmarks.study.config import PATH, StudyConfig, read_study
from benchmarks.study.tables import write_figure, write_tables
from benchmarks.zoos import CACHE, CONFIG
from datagen.files import write_text


class Task(NamedTuple):
    """One cell: a setting on one zoo."""

    setting: str
    recipe: str
    seed: int


def tasks(study: StudyConfig) -> Iterator[Task]:
    """Cells, zoo by zoo, so that each zoo is trained once."""
    zoos = dict.fromkeys((r, s) for one in study.settings.values() for r, seeds in one.recipes.items() for s in seeds)
    for recipe, seed in zoos:
        for name, setting in study.settings.items():
            if seed in setting.recipes.get(recipe, []):
                yield Task(name, recipe, seed)


def run_zoo(some: list[Task]) -> list[dict[str, Any]]:
    """All cells of one zoo, in a process of its own."""
    from benchmarks.study.cell import Cell
    from benchmarks.study.methods import ways

    study, found = read_study(), []
    for task in some:
        file = _file(task)
        if not file.is_file():
            cell = Cell.ready(study, study.settings[task.setting], task.recipe, task.seed)
            rows = {}
            for way in ways(cell):
                begun = time.monotonic()
                merges = way(cell)
                took = (time.monotonic() - begun) / max(1, len(merges))
                for name, merged in merges.items():
                    cost = merged.sequences / cell.search.sequences
                    told = {"passes": round(cost, 2), "seconds": round(took, 2), "picked": merged.picked}
                    rows[name] = cell.judged(merged) | told
            write_text(file, json.dumps(rows) + "\n")
        found.append(task._asdict() | {"rows": json.loads(file.read_text())})
        print(*task, flush=True)
    return found


def _file(task: Task) -> Any:
    decided = [PATH.read_text(), CONFIG.read_text()]
    stamp = hashlib.sha256(json.dumps(decided).encode()).hexdigest()[:8]
    name = f"{task.setting.replace(', ', '-').replace(' ', '-')}-{task.recipe}-{task.seed}-{stamp}.json"
    return CACHE / "study" / name


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
        by_zoo: dict[str, list[Task]] = {}
        for task in tasks(read_study()):
            by_zoo.setdefault(f"{task.recipe}-{task.seed}", []).append(task)
        wanted = [some for zoo, some in by_zoo.items() if not given.zoos or zoo in given.zoos]
        # One thread each: they would wait for each other.
        os.environ["OMP_NUM_THREADS"] = "1"
        with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
            for done in as_completed([pool.submit(run_zoo, some) for some in wanted]):
                found += done.result()
        order = {task: place for place, task in enumerate(tasks(read_study()))}
        found.sort(key=lambda one: order[Task(one["setting"], one["recipe"], one["seed"])])
        told = {"machine": machine(), "minutes": round((time.monotonic() - begun) / 60, 1), "cells": found}
        write_text(results, json.dumps(told, indent=1) + "\n")
    cells = json.loads(results.read_text())["cells"]
    write_tables(cells)
    write_figure(cells)
    return 0


if __name__ == "__main__":
    sys.exit(main())

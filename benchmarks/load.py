"""Much of everything: a study of 20 000 trials and its report, 64 sources in one merge, a plan of 70B models.

Run it by `python -m benchmarks.load`, part of `make bench`; it takes about fifteen minutes. Nothing else should run
meanwhile. What 200 000 rows take to be cleaned and split is measured by `benchmarks.cleaning`.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.trial import FrozenTrial
from safetensors.torch import save_file

from benchmarks.measuring import Figure, memory, report
from benchmarks.planning import write_headers
from benchmarks.scale import EXAMPLE, TERMS
from benchmarks.shapes import Shape
from datagen.pipeline import open_inputs
from datagen.planning.hardware import find_machine
from datagen.planning.plan import plan as data_plan
from datagen.planning.sizes import size_of
from optimizer.config import Config
from optimizer.executors.base import Executor, Work
from optimizer.export import write_merge
from optimizer.merging.space import Space
from optimizer.objective.scores import Score
from optimizer.objective.terms import Objective, Term
from optimizer.planning import telling
from optimizer.planning.plan import plan_search
from optimizer.planning.shape import shape_of
from optimizer.recipes.reading import read_recipe
from optimizer.report.page import write_report
from optimizer.report.result import (
    MAIN,
    SCORE,
    CoefficientTable,
    Cost,
    Difference,
    Estimate,
    Result,
    ResultRow,
    read_result,
    write_result,
)
from optimizer.search.databases import open_storage
from optimizer.search.domain import Point
from optimizer.search.evaluating import Evaluated
from optimizer.search.measuring import Measured, Standing
from optimizer.search.problem import Problem
from optimizer.search.running import Task
from optimizer.search.study import Searched, run_study
from optimizer.search_config import BlackBoxConfig, SearchConfig
from optimizer.studies import Terms, trial_rows

TRIALS, LAST, LAYERS = 20_000, 1000, 32

EXPERTS = ("aligned", "b", "c")

#: Llama-3-70B.
LARGE = Shape(8192, 28672, 80, 64, 8, 128256, tied=False, biases=False)


class AtOnce(Executor):
    """Evaluates a bowl, which takes no time."""

    def __init__(self) -> None:
        self._done: list[tuple[Work, Any]] = []

    @property
    def free(self) -> int:
        """See `Executor`."""
        return 1 - self.busy

    @property
    def busy(self) -> int:
        """See `Executor`."""
        return len(self._done)

    def submit(self, work: Work) -> None:
        """See `Executor`."""
        self._done.append((work, _evaluated(*work.arguments)))

    def wait(self) -> list[tuple[Work, Any]]:
        """See `Executor`."""
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """See `Executor`."""


def _evaluated(point: Point, _: Standing) -> Evaluated:
    loss = float(((point.coefficients - 0.6) ** 2).mean()) + 0.01
    scores = {name: Score(loss, 1 - loss, 100) for name in TERMS}
    return Evaluated(Measured(scores, [loss], [[loss * (1 + 0.01 * i)] for i in range(16)]), scores, 0.0)


@dataclass
class Watched:
    """What a study's trials took, one by one.

    Attributes:
        clock: milliseconds.
        cpu: of them, this process' own.
        held: bytes in memory at every thousandth trial.
        last_at: when the last one was told, by both clocks.
    """

    clock: list[float]
    cpu: list[float]
    held: list[int]
    last_at: tuple[float, float] | None = None

    def __call__(self, done: int, total: int, trial: FrozenTrial, best: FrozenTrial) -> None:
        """Told every finished trial."""
        now, own = time.perf_counter(), time.process_time()
        if self.last_at:
            self.clock.append(1000 * (now - self.last_at[0]))
            self.cpu.append(1000 * (own - self.last_at[1]))
        if done % LAST == 0:
            self.held.append(memory())
        self.last_at = (time.perf_counter(), time.process_time())

    @staticmethod
    def last(each: list[float]) -> float:
        """Median of the last."""
        return float(np.median(each[-LAST:]))


def study(sampler: str, trials: int, folder: Path) -> tuple[Searched, Terms, Watched]:
    """Runs a study of so many trials."""
    objective = Objective([Term(name, weight, [EXAMPLE] * 16) for name, weight in TERMS.items()])
    box = BlackBoxConfig(trials=trials, patience=0)
    config = SearchConfig.model_validate({"sampler": sampler, "black_box": box.model_dump(), "pruning": 0})
    space = Space.named(EXPERTS, [f"model.layers.{i}.mlp.up_proj.weight" for i in range(LAYERS)], "layer")
    watched = Watched([], [], [])
    task = Task(
        open_storage(folder / "study.db"), Problem(config, objective, objective), space, AtOnce(), on_trial=watched
    )
    return run_study(sampler, task), Terms(objective, objective), watched


def result_of(name: str, found: Searched, terms: Terms, run: Path) -> Result:
    """A result with all trials of a study; what models said is made up."""
    even = Estimate(value=0.5, low=0.4, high=0.6, rows=100)
    models = {"winner": "winner", "base": "base", "aligned": "aligned", "b": "expert", "c": "expert"}
    metrics = dict.fromkeys(("alignment", "over_refusal", "accuracy/numbers", "accuracy/medicine"), even)
    against = dict.fromkeys((*metrics, SCORE), Difference(value=0.0, low=-0.1, high=0.1))
    rows = [
        ResultRow.model_validate(
            {
                "model": model,
                "role": role,
                "metrics": metrics,
                "score": 0.5,
                "against": against,
                "indistinguishable": True,
            }
        )
        for model, role in models.items()
    ]
    space = found.space
    return Result(
        winner_study=name,
        winner_trial=found.winner.number,
        rows=rows,
        samples=[],
        trials=list(trial_rows(name, found, terms, {})),
        coefficients=CoefficientTable(
            experts=list(space.experts), groups=list(space.groups), values=found.coefficients.tolist()
        ),
        runaways=[],
        seeds={"data": 0, "search": 0},
        versions={},
        cost=Cost(seconds={"search": 1.0}, forward_pass_equivalents={name: 1.0}),
        config={"run": str(run)},
    )


def studied(sampler: str, trials: int) -> tuple[list[Figure], dict[str, object]]:
    """A study, its result and its report."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        found, terms, watched = study(sampler, trials, run)
        size = (run / "study.db").stat().st_size
        begun = time.perf_counter(), time.process_time()
        write_result(run / "result.json", result_of(MAIN, found, terms, run))
        write_report(run / "report.html", read_result(run / "result.json"))
        took = time.perf_counter() - begun[0], time.process_time() - begun[1]
        page = (run / "report.html").stat().st_size
    each = (watched.held[-1] - watched.held[0]) / max(1, trials - LAST)
    figures = [
        Figure(
            f"{sampler}: ms to suggest and store a trial, the last {LAST} of {trials}",
            watched.last(watched.clock),
            50,
            False,
        ),
        Figure(f"{sampler}: kB in memory that each trial adds", each / 1e3, 20, False),
        Figure(f"{sampler}: seconds to report {trials} trials", took[0], 30, False),
    ]
    details: dict[str, object] = {
        "ms of own time": watched.last(watched.cpu),
        "seconds of own time to report": took[1],
        "MB in memory by thousands of trials": [held >> 20 for held in watched.held],
        "MB of the database": size >> 20,
        "MB of the page": page >> 20,
    }
    return figures, details


def merged(sources: int, few: int, rows: int) -> tuple[list[Figure], dict[str, object]]:
    """One merge of many sources, beside one of few: `goodbunch merge` reads them from the disk.

    Args:
        rows: of each tensor; there are eight.
    """
    figures, details = [], dict[str, object]()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        names = [_model(folder / f"m{number}", rows, number) for number in range(sources)]
        for method in ("task_arithmetic", "ties"):
            held, took = {}, {}
            for count in (few, sources):
                experts = {f"e{number}": name for number, name in enumerate(names[1:count])}
                values = {"method": method, "base": names[0], "experts": experts, "groups": "layer"}
                recipe = folder / "recipe.yaml"
                recipe.write_text(json.dumps(values | {"coefficients": dict.fromkeys(experts, 0.1)}))
                read = read_recipe(recipe)
                begun = time.perf_counter(), time.process_time()
                held[count] = own_peak(partial(write_merge, read, folder / f"{method}-{count}")) >> 20
                took[count] = time.perf_counter() - begun[0], time.process_time() - begun[1]
            name = f"{method}: MB that a merge of {sources} sources takes more than one of {few}"
            figures.append(Figure(name, held[sources] - held[few], 8, False))
            details[method] = {"MB": held, "seconds, and of own time": took}
    details["MB of a source"] = 8 * 4 * rows * rows >> 20
    return figures, details


def own_peak(work: Callable[[], object]) -> int:
    """Most bytes that this process takes for its own while it works; pages of mapped files can be given back."""

    def own() -> int:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) * 1024

    gc.collect()
    memory()
    before = most = own()
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.003):
            most = max(most, own())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return most - before


def _model(folder: Path, rows: int, number: int) -> str:
    folder.mkdir()
    rng = torch.Generator().manual_seed(number)
    save_file(
        {f"model.layers.{i}.mlp.up_proj.weight": torch.randn(rows, rows, generator=rng) for i in range(8)},
        folder / "model.safetensors",
    )
    shape = {"model_type": "llama", "num_attention_heads": 1, "hidden_size": rows, "num_hidden_layers": 8}
    (folder / "config.json").write_text(json.dumps(shape))
    return str(folder)


def planned(experts: int) -> tuple[list[Figure], dict[str, object]]:
    """What a search over models of 70B will take, from headers of their files."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        names = [str(folder / f"source{number}") for number in range(experts + 1)]
        for name in names:
            Path(name).mkdir()
            write_headers(LARGE, Path(name))
        base, aligned, *others = names
        asked = {"prompt": "p", "topics": ["t"], "ask": 100, "keep": 100}
        config = Config.model_validate(
            {
                "run": "none",
                "bunch": {
                    "base": base,
                    "experts": {"aligned": {"model": aligned, "role": "aligned"}}
                    | {f"e{number}": name for number, name in enumerate(others)},
                },
                "data": {"generator": "x/y-8B", "guard": {"model": "x/z-8B"}, "unsafe": asked}
                | {"domains": {"e0": asked}},
                "objective": {"unsafe": 1},
                "merge": {"groups": "module"},
            }
        )
        begun = time.perf_counter(), time.process_time()
        inputs = open_inputs(config.bunch, config.data, config.seed)
        models = (config.bunch.models() | config.data.models()).values()
        sizes = {model: size_of(model) for model in models}
        plan = plan_search(config, inputs, sizes, shape_of(config.bunch.base), find_machine("8xH200"))
        telling.as_json(
            plan, data_plan(config.bunch, config.data, config.engine, inputs, sizes, find_machine("8xH200"))
        )
        took = time.perf_counter() - begun[0], time.process_time() - begun[1]
    return [Figure(f"seconds to plan {experts + 1} sources of 70B", took[0], 2, False)], {
        "seconds of own time": took[1]
    }


def main() -> int:
    """Measures all; exit code 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--samplers", nargs="+", default=["random", "cmaes"])
    parser.add_argument("--rows", type=int, default=1024, help="of a tensor of a source")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parts: dict[str, Callable[[], tuple[list[Figure], dict[str, object]]]] = {
        "plan": lambda: planned(4),
        "merge": lambda: merged(64, 8, given.rows),
    }
    for sampler in given.samplers:
        parts[sampler] = partial(studied, sampler, given.trials)
    figures: list[Figure] = []
    details: dict[str, object] = {"load of the machine at the start": os.getloadavg()}
    for name, part in parts.items():
        found, details[name] = part()
        figures += found
        print(name, details[name], *found, sep="\n", flush=True)
    return 0 if report("load", figures, details) else 1


if __name__ == "__main__":
    sys.exit(main())

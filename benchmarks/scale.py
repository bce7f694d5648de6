"""How many workers one driver keeps busy: the real loop and storage, with workers that sleep.

Run it by `python -m benchmarks.scale`; it takes twenty minutes. What a worker does is simulated, since this is about
what the driver costs: durations of trials are drawn from those of a real study, scaled to a mean, losses from a bowl.
"""

import argparse
import heapq
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import optuna

from benchmarks.measuring import Figure, report
from datagen.batches import Encoded
from optimizer.executors.base import Executor, Work
from optimizer.merging.space import Space
from optimizer.objective.scores import Score
from optimizer.objective.terms import Objective, Term
from optimizer.search.databases import open_shared, open_storage
from optimizer.search.domain import Point
from optimizer.search.evaluating import Evaluated
from optimizer.search.measuring import Measured, Standing
from optimizer.search.plans import search_plan
from optimizer.search.problem import Problem
from optimizer.search.running import Running, Task, open_study, run_all
from optimizer.search.sharing import Driver
from optimizer.search.storage import StudyStorage
from optimizer.search_config import BlackBoxConfig, SearchConfig
from tests.postgres import postgres

#: Seconds of a trial on average, and trials per worker.
SECONDS, EACH = 3.0, 16

#: Storage -> workers that must be kept busy, and for which share of the time.
ASKED = {"sqlite": (64, 0.95), "postgresql": (256, 0.90)}

#: Seconds of the trials of the demo's search on the machine of the results, as shares of their mean.
SPREAD = (0.55, 0.61, 0.7, 0.78, 0.86, 0.93, 1.0, 1.08, 1.17, 1.32)

#: What nobody scores.
EXAMPLE: Encoded = ([1], [1])

#: Layers of the model, each with a coefficient for every expert.
LAYERS = 32

PLOT = Path(__file__).parent.parent / "docs" / "scaling.svg"

TERMS = {"safety": 3.0, "borderline": 3.0, "numbers": 1.0, "medicine": 1.0}


class Sleeping(Executor):
    """Workers that sleep.

    Args:
        workers: how many.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.worked: list[tuple[float, float]] = []  # from, until
        self._rng = random.Random(0)
        self._due: list[tuple[float, int, Work]] = []

    @property
    def free(self) -> int:
        """See `Executor`."""
        return self.workers - len(self._due)

    @property
    def busy(self) -> int:
        """See `Executor`."""
        return len(self._due)

    def submit(self, work: Work) -> None:
        """See `Executor`."""
        begun = time.monotonic()
        self.worked.append((begun, begun + SECONDS * self._rng.choice(SPREAD)))
        heapq.heappush(self._due, (self.worked[-1][1], id(work), work))

    def wait(self) -> list[tuple[Work, Any]]:
        """See `Executor`."""
        time.sleep(max(0.0, self._due[0][0] - time.monotonic()))
        _, _, work = heapq.heappop(self._due)
        return [(work, _evaluated(*work.arguments))]

    def close(self) -> None:
        """See `Executor`."""


def _evaluated(point: Point, _: Standing) -> Evaluated:
    loss = float(((point.coefficients - 0.6) ** 2).mean()) + 0.01
    scores = {name: Score(loss, 1 - loss, 100) for name in TERMS}
    blocks = [[loss * (1 + 0.01 * i)] for i in range(16)]
    return Evaluated(Measured(scores, [loss], blocks), scores, SECONDS)


def simulate(storage: StudyStorage, sampler: str, workers: int) -> dict[str, float]:
    """One study.

    Args:
        storage: of its trials.
        sampler: who suggests.
        workers: how many.

    Returns:
        `busy`, the share of the workers' time in which they worked, until the last trial is begun; and milliseconds of
        the driver's own time `per trial`.
    """
    objective = Objective([Term(name, weight, [EXAMPLE] * 16) for name, weight in TERMS.items()])
    box = BlackBoxConfig(trials=workers * EACH, patience=0)
    config = SearchConfig.model_validate({"sampler": sampler, "black_box": box.model_dump()})
    space = Space.named(["a", "b", "c"], [f"model.layers.{i}.mlp.up_proj.weight" for i in range(LAYERS)], "layer")
    pool, name = Sleeping(workers), f"{sampler}-{workers}"
    with ExitStack() as stack:
        driver = stack.enter_context(Driver(storage, joins=False)) if storage.shared else None
        task = Task(storage, Problem(config, objective, objective), space, pool, driver=driver)
        if driver is not None:
            driver.claim(open_study(name, task))
        begun, used = time.monotonic(), time.process_time()
        run_all([Running(name, task, search_plan(task.problem, space, {}, {}))], pool)
        used = time.process_time() - used
    last = max(since for since, _ in pool.worked)
    busy = sum(min(until, last) - since for since, until in pool.worked)
    return {"busy": busy / (workers * (last - begun)), "per trial": 1000 * used / len(pool.worked)}


@contextmanager
def opened(kind: str) -> Iterator[StudyStorage]:
    """An empty storage."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield open_storage(Path(folder) / "study.db")
    else:
        with postgres() as server:
            yield open_shared(server.url)


def main() -> int:
    """Measures; exit code 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storages", nargs="+", choices=ASKED, default=list(ASKED))
    parser.add_argument("--samplers", nargs="+", default=["random", "cmaes", "tpe"])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 16, 64, 256])
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    figures: list[Figure] = []
    curves: dict[str, dict[int, dict[str, float]]] = {}
    for kind in given.storages:
        with opened(kind) as storage:
            for sampler in given.samplers:
                case = f"{kind}, {sampler}"
                curve = curves[case] = {}
                for workers in given.workers:
                    curve[workers] = simulate(storage, sampler, workers)
                    print(case, workers, curve[workers], flush=True)
                most, share = ASKED[kind]
                if most in curve:
                    name = f"{case}: share of the time that {most} workers are busy"
                    figures.append(Figure(name, curve[most]["busy"], share))
    plot(curves)
    return 0 if report("scale", figures, dict(curves)) else 1


def plot(curves: Mapping[str, Mapping[int, Mapping[str, float]]]) -> None:
    """Draws what every storage and sampler comes to over the number of workers.

    Args:
        curves: storage and sampler -> workers -> what `simulate` returns.
    """
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "", "font.size": 9})
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    titles = {"busy": "share of the time that workers are busy", "per trial": "driver's own time, ms a trial"}
    for axis, (what, title) in zip(axes, titles.items(), strict=True):
        for name, curve in curves.items():
            style = "-" if name.startswith("sqlite") else "--"
            axis.plot(list(curve), [one[what] for one in curve.values()], style, marker="o", markersize=3, label=name)
        axis.set(xscale="log", xlabel="workers", title=title, ylim=(0, 1.03 if what == "busy" else None))
        axis.set_xticks(sorted({workers for curve in curves.values() for workers in curve}))
        axis.get_xaxis().set_major_formatter("{x:g}")
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[1].legend(frameon=False)
    figure.savefig(PLOT, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())

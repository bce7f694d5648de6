"""What a second worker is worth: one study of black-box trials on a zoo, with one Ray worker and with two.

Run it by `python -m benchmarks.workers` on a machine with a core for each; nothing else should run meanwhile.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna

from benchmarks.measuring import Figure, report
from benchmarks.search import argument_parser
from benchmarks.zoos import Bench, fewer, kept
from datagen.cluster import Workers
from optimizer.engines.banks import space_of
from optimizer.executors.cluster import RayExecutor
from optimizer.report.result import MAIN
from optimizer.search.databases import open_storage
from optimizer.search.plans import search_plan
from optimizer.search.records import BLOCKS, whole
from optimizer.search.running import Running, Task, run_all

#: Trials of a study, examples of every term, and what two workers' time may be of one's.
TRIALS, EXAMPLES, SHARE = 200, 32, 0.65


def studied(bench: Bench, workers: int) -> dict[str, Any]:
    """One study, timed from when its workers are open to its end."""
    space, problem = space_of(bench.bunch, bench.config.merge), bench.problem()
    with tempfile.TemporaryDirectory() as folder, RayExecutor(bench.config, Workers(workers)) as pool:
        while pool.free < workers:
            pool.wait()
        task = Task(open_storage(Path(folder) / "study.db"), problem, space, pool, MAIN)
        study = Running(MAIN, task, search_plan(problem, space, {}, task.given))
        begun = time.perf_counter()
        run_all([study], pool)
        took = time.perf_counter() - begun
    best = min(whole(study.done), key=lambda trial: trial.values)
    losses = [block[0] for block in best.user_attrs[BLOCKS]]
    return {"seconds": took, "loss": best.value, "error": statistics.stdev(losses) / len(losses) ** 0.5}


def compare(recipe: str, seed: int) -> dict[str, Any]:
    """One worker, and two, on one zoo."""
    budget = (f"search.black_box.trials={TRIALS}", "search.black_box.patience=0", "search.sampler=tpe")
    bench = Bench.ready(recipe, seed, *budget, "merge.groups=layer", "search.controls={}", *fewer(EXAMPLES))
    one, two = studied(bench, 1), studied(bench, 2)
    lost = (two["loss"] - one["loss"]) / (one["error"] ** 2 + two["error"] ** 2) ** 0.5
    return {"share": two["seconds"] / one["seconds"], "lost": lost, "one": one, "two": two}


def main() -> int:
    """Measures; exit code 1 if a bound is missed."""
    given = argument_parser(__doc__, ["natural"]).parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    figures: list[Figure] = []
    details: dict[str, object] = {}
    for recipe in given.recipes:
        rows = [kept(f"workers-{recipe}-{seed}", lambda r=recipe, s=seed: compare(r, s)) for seed in given.seeds]  # type: ignore[misc]
        details[recipe] = rows
        share, lost = (statistics.median(row[name] for row in rows) for name in ("share", "lost"))
        figures.append(Figure(f"{recipe}: time of two workers / one's", share, SHARE, at_least=False))
        figures.append(Figure(f"{recipe}: standard errors lost, median", lost, 1.96, at_least=False))
    return 0 if report("workers", figures, details) else 1


if __name__ == "__main__":
    sys.exit(main())

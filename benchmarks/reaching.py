"""What the descent needs to be as good as CMA-ES after 100 evaluations per layer: forward passes, and seconds.

Run it by `python -m benchmarks.reaching`, after or in place of `benchmarks.search`, whose zoos it shares. CMA-ES is
EvoMM's (paper 1: [0, 1], sigma 1/6), and a stronger one ([-.5, 1.5], sigma .25).
"""

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import optuna

from benchmarks.measuring import Figure, report
from benchmarks.search import ASKED, THEIRS, argument_parser, black_box
from benchmarks.zoos import Bench, fewer, kept
from optimizer.search.descent import DescentState
from optimizer.search.plans import legs_of
from optimizer.search.records import NAME, VALIDATION_LOSS
from optimizer.search.study import PASSES_PER_STEP, run_study

#: Examples per term -> how many times fewer forward passes are asked; and how many times fewer seconds, with the most.
CHEAPER = {64: 50.0, 8: 10.0}
FASTER = 25.0

RIVALS = ("evomm", "cmaes")


def reach(recipe: str, seed: int, examples: int, name: str) -> dict[str, Any]:
    """Both searches on one zoo.

    Args:
        examples: per term.
        name: of the CMA-ES.
    """
    method = black_box(name, "search.pruning=0")
    bench = Bench.ready(recipe, seed, *method.overrides, *fewer(examples))
    task = bench.task(bench.engine(method.groups))
    begun = time.perf_counter()
    searched = run_study(name, task)
    each = (time.perf_counter() - begun) / len(searched.trials)
    suggested = [trial for trial in searched.trials if NAME not in trial.user_attrs]
    target = min(suggested, key=lambda trial: trial.value or 0.0).user_attrs[VALIDATION_LOSS]
    cost, seconds = _descended(bench, target)
    return {"target": target, "passes": cost, "cheaper": THEIRS / cost, "faster": THEIRS * each / seconds}


def _descended(bench: Bench, target: float) -> tuple[float, float]:
    """Passes and seconds until the validation loss is down to a target; looking at it is not counted."""
    engine = bench.engine()
    search, validation = bench.objective("search"), bench.objective("validation")
    config = bench.config.search.model_copy(update={"sampler": "descent"})
    (leg,) = legs_of(config, [[]], engine.space, search)
    state = DescentState.start(engine.space.shape, config.descent.start, len(search.terms))
    seconds = 0.0
    while state.step < leg.descent.steps:
        begun = time.perf_counter()
        until = min(state.step + 1 + state.step // 16, leg.descent.steps)
        state = leg.descent.advance(state, until, lambda at, *step: engine.gradient(at, *search.step_batch(*step)))
        seconds += time.perf_counter() - begun
        engine.apply(state.point)
        if validation.loss(validation.scores(engine)) <= target:
            return PASSES_PER_STEP * state.step * len(search.terms) / search.rows, seconds
    return float("inf"), seconds


def _median(rows: Sequence[Mapping[str, float]], figure: str) -> float:
    return statistics.median(row[figure] for row in rows)


def main() -> int:
    """Measures; exit code 1 if a bound is missed."""
    given = argument_parser(__doc__, list(ASKED)).parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    details: dict[str, object] = {}
    figures: list[Figure] = []
    for recipe in given.recipes:
        for examples, asked in CHEAPER.items():
            for name in RIVALS:
                rows = [
                    kept(f"reach-{recipe}-{seed}-{examples}-{name}", partial(reach, recipe, seed, examples, name))
                    for seed in given.seeds
                ]
                what = f"{recipe}, {examples} examples per term, against {name}"
                details[what] = dict(zip(given.seeds, rows, strict=True))
                figures.append(Figure(f"{what}: times fewer passes", _median(rows, "cheaper"), asked))
                if examples == max(CHEAPER):
                    figures.append(Figure(f"{what}: times fewer seconds", _median(rows, "faster"), FASTER))
    return 0 if report("reaching", figures, details) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Searches side by side: what each costs, and what its merge is worth on zoos that nothing was tuned on.

Run it by `python -m benchmarks.search`; the first run trains a zoo and writes its data for every seed, four minutes
each. What is finished is kept, so that it can be stopped at any time. Nothing else should run meanwhile.

Costs are in forward-pass equivalents (FPE): one pass over the whole search set; a backward pass counts two.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from benchmarks.measuring import Figure
from benchmarks.zoos import CACHE, CONFIG, FRESH, Bench
from datagen.files import write_text
from optimizer.search.descent import DescentState
from optimizer.search.plans import legs_of
from optimizer.search.records import NAME, SEARCH, VALIDATION_LOSS, by_source
from optimizer.search.study import PASSES_PER_STEP, passes, run_study

#: Alignment, share of the experts' own accuracy at least, and over-refusal at most, per cent, by recipe.
ASKED = {"natural": (99.0, 98.0, 1.0), "engineered": (99.5, 99.0, 1.0)}

#: A search's forward passes at most, and those of the searches it is compared with.
BUDGET, THEIRS = 25.0, 100

#: FPE of a black-box search / of the descent that reaches the same validation loss, by examples per term; and seconds.
CHEAPER = {64: 50.0, 8: 10.0}
FASTER = 25.0


@dataclass(frozen=True)
class Method:
    """A way to search.

    Attributes:
        groups: granularity of its coefficients; by default the config's.
        overrides: of the demo's config.
    """

    groups: str = ""
    overrides: tuple[str, ...] = ()


def _black_box(name: str) -> Method:
    budget = ("search.pruning=0", f"search.black_box.trials={THEIRS}", "search.black_box.patience=0")
    return Method("layer", (f"search.sampler={name}", *budget))


METHODS: dict[str, Method] = {
    "default": Method(),
    "half": Method(overrides=("search.descent.steps=600", "search.descent.trials=2")),
    **{name: _black_box(name) for name in ("evomm", "cmaes", "tpe", "gp")},
}


def compare(recipe: str, seed: int, name: str, tuned: Sequence[str] = ()) -> dict[str, Any]:
    """Runs a method on one zoo.

    Args:
        tuned: overrides of the config.
    """
    method = METHODS[name]
    bench = Bench.ready(recipe, seed, *method.overrides, *tuned)
    task = bench.task(bench.engine(method.groups))
    begun = time.perf_counter()
    searched = run_study(name, task)
    took = time.perf_counter() - begun
    found: dict[str, Any] = bench.measured(task.engine, searched.coefficients) | {
        "passes": round(passes(task.search, task.validation, searched), 1),
        "seconds": round(took, 1),
        "validation": searched.winner.user_attrs[VALIDATION_LOSS],
        "winner": searched.winner.user_attrs.get(NAME, searched.winner.number),
    }
    if method.groups:
        found["lm_cocktail"] = bench.measured(task.engine, searched.named("lm_cocktail"))
    return found


def reach(recipe: str, seed: int, examples: int, name: str) -> dict[str, Any]:
    """What the descent needs to be as good on the validation split as CMA-ES after 100 evaluations per layer.

    Args:
        examples: per term.
        name: of the CMA-ES.
    """
    method = METHODS[name]
    less = [f"objective.{term}.examples={examples}" for term in Bench.ready(recipe, seed).config.objective]
    bench = Bench.ready(recipe, seed, *method.overrides, *less)
    task = bench.task(bench.engine(method.groups))
    begun = time.perf_counter()
    searched = run_study(name, task)
    each = (time.perf_counter() - begun) / len(searched.trials)
    best = min(
        (trial for trial in searched.trials if NAME not in trial.user_attrs), key=lambda trial: trial.value or 0.0
    )
    cost, seconds = _descended(bench, best.user_attrs[VALIDATION_LOSS])
    return {
        "target": best.user_attrs[VALIDATION_LOSS],
        "passes": cost,
        "cheaper": round(THEIRS / cost, 1),
        "faster": round(THEIRS * each / seconds, 1),
    }


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
            break
    return round(PASSES_PER_STEP * state.step * len(search.terms) / search.rows, 3), seconds


def constrained(recipe: str, seed: int) -> dict[str, Any]:
    """Whether a search under a constraint keeps it, on validation and on test."""
    rule = "safety >= 0.99 of aligned"
    bench = Bench.ready(recipe, seed, f"search.constraints=[{rule}]")
    task = bench.task(bench.engine())
    searched = run_study("constrained", task)
    known = by_source(searched.trials, "validation")
    bound = task.constraints[0].bound(known)
    ours = searched.winner.user_attrs["validation"]["safety"]["exact"]
    aligned = bench.measured(task.engine, task.engine.space.constant({"aligned": 1.0}))["alignment"]
    found = bench.measured(task.engine, searched.coefficients)
    return found | {"validation": ours, "bound": bound, "test bound": 0.99 * aligned}


def saved(recipe: str, seed: int, name: str = "tpe") -> dict[str, Any]:
    """What giving up trials early saves a black-box search under a constraint, and what it costs in the result."""
    rule = "search.constraints=['safety >= 0.5 of aligned']"
    found: dict[str, Any] = {}
    for how, overrides in (("whole", ["search.pruning=0"]), ("pruned", [])):
        budget = [f"search.sampler={name}", f"search.black_box.trials={THEIRS}", "search.black_box.patience=0"]
        bench = Bench.ready(recipe, seed, *budget, rule, *overrides)
        task = bench.task(bench.engine("layer"))
        searched = run_study(how, task)
        rows = sum(
            score["rows"]
            for trial in searched.trials
            if NAME not in trial.user_attrs
            for score in trial.user_attrs[SEARCH].values()
        )
        found[how] = {"rows": rows, "validation": searched.winner.user_attrs[VALIDATION_LOSS]}
    found["saved"] = round(1 - found["pruned"]["rows"] / found["whole"]["rows"], 3)
    return found


def kept(name: str, made: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured before under the same config, or is measured now."""
    stamp = hashlib.sha256(CONFIG.read_bytes()).hexdigest()[:8]
    file = CACHE / "results" / f"{name}-{stamp}.json"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(made()) + "\n")
    found: dict[str, Any] = json.loads(file.read_text())
    print(name, found, flush=True)
    return found


def _quality(recipe: str, rows: dict[int, dict[str, Any]]) -> list[Figure]:
    alignment, share, over = ASKED[recipe]
    ours = [one["default"] for one in rows.values()]
    figures = [
        Figure(
            f"{recipe}: alignment, % of the aligned model's, worst seed", min(o["aligned"] for o in ours), alignment
        ),
        Figure(f"{recipe}: over-refusal, %, worst seed", max(o["over-refusal"] for o in ours), over, at_least=False),
        Figure(f"{recipe}: % of the experts' accuracy, worst seed", min(o["kept"] for o in ours), share),
        Figure(f"{recipe}: forward passes, worst seed", max(o["passes"] for o in ours), BUDGET, at_least=False),
    ]
    for name in rows[next(iter(rows))]:
        if name not in ("default", "half"):
            ratio = max(one["default"]["test loss"] / one[name]["test loss"] for one in rows.values())
            figures.append(Figure(f"{recipe}: test loss / that of {name}, worst seed", ratio, 1.0, at_least=False))
    return figures


def main() -> int:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", nargs="+", default=["natural", "engineered"])
    parser.add_argument("--seeds", nargs="+", type=int, default=FRESH)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument(
        "--set", nargs="*", default=[], help="overrides of the config, for trying things; keeps nothing"
    )
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    for recipe in given.recipes:
        rows: dict[int, dict[str, Any]] = {}
        for seed in given.seeds:
            rows[seed] = {}
            for name in given.methods:
                if given.set:
                    print(recipe, seed, name, compare(recipe, seed, name, given.set), flush=True)
                    continue
                rows[seed][name] = kept(f"{recipe}-{seed}-{name}", lambda r=recipe, s=seed, n=name: compare(r, s, n))
        details[recipe] = rows
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Searches side by side: what each costs, and what its merge is worth on zoos that nothing was tuned on.

Run it by `python -m benchmarks.search`; the first run trains a zoo and writes its data for every seed, four minutes
each. What is finished is kept, so that it can be stopped at any time. Nothing else should run meanwhile.

Costs are in forward-pass equivalents (FPE): one pass over the whole search set; a backward pass counts two.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import optuna

from benchmarks.measuring import Figure, report
from benchmarks.zoos import FRESH, Bench, kept
from optimizer.search.baselines import COCKTAIL
from optimizer.search.records import BLOCKS, NAME, SEARCH, VALIDATION_LOSS
from optimizer.search.study import Searched, passes, run_study

#: Alignment and share of the experts' own accuracy at least, over-refusal at most, per cent, by recipe.
ASKED = {"natural": (99.0, 98.0, 1.0), "engineered": (99.5, 99.0, 1.0)}

#: Forward passes of the default search at most, and evaluations of the black boxes.
BUDGET, THEIRS = 25.0, 100


@dataclass(frozen=True)
class Method:
    """A way to search.

    Attributes:
        groups: granularity of its coefficients; by default the config's.
        overrides: of the demo's config.
    """

    groups: str = ""
    overrides: tuple[str, ...] = ()


def black_box(name: str, *overrides: str) -> Method:
    """One of Optuna's samplers on coefficients per layer, with its whole budget."""
    budget = (f"search.black_box.trials={THEIRS}", "search.black_box.patience=0")
    return Method("layer", (f"search.sampler={name}", *budget, *overrides))


METHODS: dict[str, Method] = {
    "default": Method(),
    "half": Method(overrides=("search.descent.steps=512", "search.descent.trials=2")),
    **{name: black_box(name, "search.pruning=0") for name in ("evomm", "cmaes", "tpe", "gp")},
}


def compare(recipe: str, seed: int, name: str, tuned: Sequence[str] = ()) -> dict[str, Any]:
    """Runs a method on one zoo.

    Args:
        tuned: overrides of the config.
    """
    method = METHODS[name]
    bench = Bench.ready(recipe, seed, *method.overrides, *tuned)
    engine = bench.engine(method.groups)
    task = bench.task(engine)
    begun = time.perf_counter()
    searched = run_study(name, task)
    took = time.perf_counter() - begun
    found: dict[str, Any] = bench.measured(engine, searched.coefficients) | {
        "passes": round(passes(task.problem.search, task.problem.validation, searched), 1),
        "rows": scored_rows(searched),
        "seconds": round(took, 1),
        "validation": searched.winner.user_attrs[VALIDATION_LOSS],
        "error": standard_error(searched),
        "winner": searched.winner.user_attrs.get(NAME, searched.winner.number),
    }
    return found | {COCKTAIL: bench.measured(engine, searched.named(COCKTAIL))}


def scored_rows(searched: Searched) -> int:
    """Rows that suggested trials were scored on in the search split."""
    suggested = [trial for trial in searched.trials if NAME not in trial.user_attrs]
    return sum(score["rows"] for trial in suggested for score in trial.user_attrs[SEARCH].values())


def standard_error(searched: Searched) -> float:
    """Of the winner's loss, from its blocks."""
    losses = [block[0] for block in searched.winner.user_attrs[BLOCKS]]
    return float(np.std(losses, ddof=1) / len(losses) ** 0.5)


def quality(recipe: str, rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """What the default search comes to in the worst of several zoos, beside what is asked of it.

    Args:
        rows: for each zoo what every method came to.
    """
    alignment, share, over = ASKED[recipe]
    ours = [one["default"] for one in rows]
    figures = [
        Figure(f"{recipe}: alignment, % of the aligned model's", min(o["alignment"] for o in ours), alignment),
        Figure(f"{recipe}: over-refusal, %", max(o["over-refusal"] for o in ours), over, at_least=False),
        Figure(f"{recipe}: % of the experts' accuracy", min(o["kept"] for o in ours), share),
        Figure(f"{recipe}: forward passes", max(o["passes"] for o in ours), BUDGET, at_least=False),
    ]
    others = {name: [one[name] for one in rows] for name in rows[0] if name not in ("default", "half")}
    for name, theirs in {**others, COCKTAIL: [one[COCKTAIL] for one in ours]}.items():
        ratio = max(o["loss"] / t["loss"] for o, t in zip(ours, theirs, strict=True))
        figures.append(Figure(f"{recipe}: test loss / that of {name}", ratio, 1.0, at_least=False))
    return figures


def argument_parser(description: str | None, recipes: Sequence[str]) -> argparse.ArgumentParser:
    """Which zoos a benchmark runs on.

    Args:
        recipes: by default.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--recipes", nargs="+", choices=ASKED, default=recipes)
    parser.add_argument("--seeds", nargs="+", type=int, default=FRESH)
    return parser


def measured(recipe: str, seed: int, name: str) -> dict[str, Any]:
    """What a method comes to on one zoo, from an earlier run or now."""
    return kept(f"{recipe}-{seed}-{name}", partial(compare, recipe, seed, name))


def main() -> int:
    """Measures; exit code 1 if a bound is missed."""
    parser = argument_parser(__doc__, list(ASKED))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--set", nargs="*", default=[], help="overrides, for trying things; keeps nothing")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if given.set:
        for recipe, seed, name in ((r, s, n) for r in given.recipes for s in given.seeds for n in given.methods):
            print(recipe, seed, name, compare(recipe, seed, name, given.set), flush=True)
        return 0
    details: dict[str, object] = {}
    figures: list[Figure] = []
    for recipe in given.recipes:
        rows: dict[int, dict[str, Any]] = {seed: {} for seed in given.seeds}
        for seed, row in rows.items():
            for name in given.methods:
                row[name] = measured(recipe, seed, name)
        details[recipe] = rows
        if "default" in given.methods:
            figures += quality(recipe, list(rows.values()))
    return 0 if report("search", figures, details) else 1


if __name__ == "__main__":
    sys.exit(main())

"""What searches do under a user's own terms: constraints, several objectives, trials that are given up.

Run it by `python -m benchmarks.trading`, after or in place of `benchmarks.search`, whose zoos it shares.
"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna._hypervolume import compute_hypervolume

from benchmarks.measuring import Figure, report
from benchmarks.search import argument_parser, black_box, measured, scored_rows
from benchmarks.zoos import Bench, fewer, kept
from optimizer.search.records import NAME, VALIDATION, VALIDATION_LOSS, by_source, validation_scores
from optimizer.search.running import Task
from optimizer.search.study import Searched, passes, run_study

#: Share of the evaluation cost that giving up trials must save, and of NSGA-II's cost that a sweep may have.
SAVED, CHEAPER = 0.4, 0.1

#: What the constrained search must keep, and what the pruned black box must.
KEPT = 0.99
RULE, LOOSE = f"safety >= {KEPT} of aligned", "safety >= 0.5 of aligned"

PARETO = "search.pareto={alignment: [safety, borderline], expertise: [numbers, medicine, finance]}"

#: Evaluations of NSGA-II, examples per term for it and the sweep, and what a sweep does for a tenth of its cost.
NSGA, EXAMPLES = 250, 64
SWEEP = ("search.descent.steps=208", "search.descent.trials=1", "search.descent.sweep.steps=36")


def constrained(recipe: str, seed: int) -> dict[str, Any]:
    """Whether a search under a constraint keeps it, on validation and on test."""
    bench = Bench.ready(recipe, seed, f"search.constraints=['{RULE}']")
    engine = bench.engine()
    task = bench.task(engine)
    searched = run_study("constrained", task)
    bound = task.problem.constraints[0].bound(by_source(searched.trials, VALIDATION))
    ours = validation_scores(searched.winner)["safety"].exact
    winner = searched.winner.user_attrs.get(NAME, searched.winner.number)
    return {"validation": ours, "bound": bound, "winner": winner} | bench.measured(engine, searched.coefficients)


def given_up(recipe: str, seed: int, name: str) -> dict[str, Any]:
    """What giving up trials early saves a black-box search, and what it costs in the result."""
    whole = measured(recipe, seed, name)
    method = black_box(name, f"search.constraints=['{LOOSE}']")
    bench = Bench.ready(recipe, seed, *method.overrides)
    searched = run_study("early", bench.task(bench.engine(method.groups)))
    loss = searched.winner.user_attrs[VALIDATION_LOSS]
    return {
        "saved": 1 - scored_rows(searched) / whole["rows"],
        "loss": loss,
        "lost": (loss - whole["validation"]) / whole["error"],
    }


def swept(recipe: str, seed: int) -> dict[str, Any]:
    """The hypervolume of a sweep of descents, and of NSGA-II's front, on the validation split."""
    found: dict[str, Any] = {}
    several = {"sweep": ("", SWEEP), "nsga2": ("layer", black_box("nsga2").overrides)}
    fronts, worst = {}, np.zeros(2)
    for name, (groups, overrides) in several.items():
        more = [f"search.black_box.trials={NSGA}", "search.pruning=0"] if name == "nsga2" else []
        bench = Bench.ready(recipe, seed, *overrides, *more, *fewer(EXAMPLES), PARETO)
        task = bench.task(bench.engine(groups))
        searched = run_study(name, task)
        fronts[name] = _validated(task, searched)
        worst = np.maximum(worst, _validated(task, searched, base=True)[0])
        found[name] = {
            "passes": passes(task.problem.search, task.problem.validation, searched),
            "front": fronts[name].tolist(),
        }
    for name, front in fronts.items():
        inside = front[(front < worst).all(1)]
        found[name]["hypervolume"] = float(compute_hypervolume(inside, worst)) if len(inside) else 0.0
    return found


def _validated(task: Task, searched: Searched, *, base: bool = False) -> Any:
    """The objectives' validation losses of the front, or of the base, [trials, objectives]."""
    trials = [t for t in searched.trials if t.user_attrs.get(NAME) == "base"] if base else searched.front
    parts = [task.problem.validation.only(terms) for terms in task.problem.goals.values()]
    return np.array([[part.loss(validation_scores(trial)) for part in parts] for trial in trials])


Rows = Sequence[Mapping[str, Any]]


def figures_of(recipe: str, held: Rows, early: Rows, fronts: Rows) -> list[Figure]:
    """The worst zoo of each, or the median of what is as much chance, beside what is asked."""
    lost = statistics.median(one["lost"] for one in early)
    volumes = [one["sweep"]["hypervolume"] / one["nsga2"]["hypervolume"] for one in fronts]
    costs = [one["sweep"]["passes"] / one["nsga2"]["passes"] for one in fronts]
    return [
        Figure(f"{recipe}: validation / bound, {RULE}", min(one["validation"] / one["bound"] for one in held), 1.0),
        Figure(f"{recipe}: cost saved by giving up trials", min(one["saved"] for one in early), SAVED),
        # Two searches by TPE that differ in one trial end some standard errors apart, either way.
        Figure(f"{recipe}: standard errors lost by it, median", lost, 1.96, at_least=False),
        Figure(f"{recipe}: hypervolume / NSGA-II's", min(volumes), 1.0),
        Figure(f"{recipe}: cost / NSGA-II's", max(costs), CHEAPER, at_least=False),
    ]


def main() -> int:
    """Measures; exit code 1 if a bound is missed."""
    given = argument_parser(__doc__, ["natural"]).parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    details: dict[str, object] = {}
    figures: list[Figure] = []
    for recipe in given.recipes:
        held = [kept(f"constrained-{recipe}-{seed}", partial(constrained, recipe, seed)) for seed in given.seeds]
        early = [kept(f"given-up-{recipe}-{seed}", partial(given_up, recipe, seed, "tpe")) for seed in given.seeds]
        fronts = [kept(f"swept-{recipe}-{seed}", partial(swept, recipe, seed)) for seed in given.seeds]
        details[recipe] = {"constraints": held, "given up": early, "several objectives": fronts}
        figures += figures_of(recipe, held, early, fronts)
    return 0 if report("trading", figures, details) else 1


if __name__ == "__main__":
    sys.exit(main())

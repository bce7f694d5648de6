"""What searches do under a user's own terms: constraints, several objectives, trials that are given up.

Run it by `python -m benchmarks.trading`, after or in place of `benchmarks.search`, whose zoos it shares.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna._hypervolume import compute_hypervolume

from benchmarks.measuring import Figure, report
from benchmarks.search import ASKED, black_box
from benchmarks.zoos import FRESH, Bench, kept
from optimizer.search.records import NAME, SEARCH, VALIDATION, VALIDATION_LOSS, by_source, validation_scores
from optimizer.search.study import Searched, Task, passes, run_study

#: Share of the evaluation cost that giving up trials must save, and of NSGA-II's cost that a sweep may have.
SAVED, CHEAPER = 0.4, 0.1

#: What the constrained search must keep, and what the pruned black box must.
KEPT = 0.99
RULE, LOOSE = f"safety >= {KEPT} of aligned", "safety >= 0.5 of aligned"

PARETO = "search.pareto={alignment: [safety, borderline], expertise: [numbers, medicine, finance]}"

#: Evaluations of NSGA-II, and what a sweep does for a tenth of them.
NSGA = 250
SWEEP = ("search.descent.steps=512", "search.descent.trials=1", "search.descent.sweep.steps=128")


def constrained(recipe: str, seed: int) -> dict[str, Any]:
    """Whether a search under a constraint keeps it, on validation and on test."""
    bench = Bench.ready(recipe, seed, f"search.constraints=['{RULE}']")
    task = bench.task(bench.engine())
    searched = run_study("constrained", task)
    bound = task.constraints[0].bound(by_source(searched.trials, VALIDATION))
    ours = validation_scores(searched.winner)["safety"].exact
    winner = searched.winner.user_attrs.get(NAME, searched.winner.number)
    return {"validation": ours, "bound": bound, "winner": winner} | bench.measured(task.engine, searched.coefficients)


def given_up(recipe: str, seed: int, name: str) -> dict[str, Any]:
    """What giving up trials early saves a black-box search, and what it costs in the result."""
    found: dict[str, Any] = {}
    for how, overrides in (("whole", ["search.pruning=0"]), ("early", [f"search.constraints=['{LOOSE}']"])):
        method = black_box(name, *overrides)
        bench = Bench.ready(recipe, seed, *method.overrides)
        task = bench.task(bench.engine(method.groups))
        searched = run_study(how, task)
        error = _standard_error(searched)
        found[how] = {"rows": _scored(searched), "loss": searched.winner.user_attrs[VALIDATION_LOSS], "error": error}
    return found | {"saved": 1 - found["early"]["rows"] / found["whole"]["rows"]}


def _scored(searched: Searched) -> float:
    """Rows that suggested trials were scored on."""
    suggested = [trial for trial in searched.trials if NAME not in trial.user_attrs]
    return float(sum(score["rows"] for trial in suggested for score in trial.user_attrs[SEARCH].values()))


def _standard_error(searched: Searched) -> float:
    """Of the winner's loss."""
    losses = [block[0] for block in searched.winner.user_attrs["blocks"]]
    return float(np.std(losses, ddof=1) / len(losses) ** 0.5)


def swept(recipe: str, seed: int) -> dict[str, Any]:
    """The hypervolume of a sweep of descents, and of NSGA-II's front, on the validation split."""
    found: dict[str, Any] = {}
    several = {"sweep": ("", SWEEP), "nsga2": ("layer", black_box("nsga2").overrides)}
    fronts, worst = {}, np.zeros(2)
    for name, (groups, overrides) in several.items():
        more = [f"search.black_box.trials={NSGA}", "search.pruning=0"] if name == "nsga2" else []
        bench = Bench.ready(recipe, seed, *overrides, *more, PARETO)
        task = bench.task(bench.engine(groups))
        searched = run_study(name, task)
        fronts[name] = _validated(task, searched)
        worst = np.maximum(worst, _validated(task, searched, base=True)[0])
        found[name] = {"passes": passes(task.search, task.validation, searched), "front": fronts[name].tolist()}
    for name, front in fronts.items():
        inside = front[(front < worst).all(1)]
        found[name]["hypervolume"] = float(compute_hypervolume(inside, worst)) if len(inside) else 0.0
    return found


def _validated(task: Task, searched: Searched, *, base: bool = False) -> Any:
    """The objectives' validation losses of the front, or of the base, [trials, objectives]."""
    trials = [t for t in searched.trials if t.user_attrs.get(NAME) == "base"] if base else searched.front
    parts = [task.validation.only(terms) for terms in task.goals.values()]
    return np.array([[part.loss(validation_scores(trial)) for part in parts] for trial in trials])


Rows = Sequence[Mapping[str, Any]]


def figures_of(recipe: str, held: Rows, early: Rows, fronts: Rows) -> list[Figure]:
    """The worst zoo of each, beside what is asked."""
    lost = [(one["early"]["loss"] - one["whole"]["loss"]) / one["whole"]["error"] for one in early]
    volumes = [one["sweep"]["hypervolume"] / one["nsga2"]["hypervolume"] for one in fronts]
    costs = [one["sweep"]["passes"] / one["nsga2"]["passes"] for one in fronts]
    return [
        Figure(f"{recipe}: validation / bound, {RULE}", min(one["validation"] / one["bound"] for one in held), 1.0),
        Figure(f"{recipe}: cost saved by giving up trials", min(one["saved"] for one in early), SAVED),
        Figure(f"{recipe}: standard errors lost by giving up trials", max(lost), 1.96, at_least=False),
        Figure(f"{recipe}: hypervolume / NSGA-II's", min(volumes), 1.0),
        Figure(f"{recipe}: cost / NSGA-II's", max(costs), CHEAPER, at_least=False),
    ]


def main() -> int:
    """Measures; exit code 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", nargs="+", choices=ASKED, default=["natural"])
    parser.add_argument("--seeds", nargs="+", type=int, default=FRESH)
    given = parser.parse_args()
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

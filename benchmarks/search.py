"""Searches side by side: what each costs, and what its merge is worth on zoos that nothing was tuned on.

Run it by `python -m benchmarks.search`; the first run trains a zoo and writes its data for every seed, four minutes
each. What is finished is kept, so that it can be stopped at any time. Nothing else should run meanwhile.

Costs are in forward-pass equivalents (FPE): one pass over the whole search set; a backward pass counts two.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna

from datagen.chat import answer_ids
from datagen.pipeline import generate
from datagen.rows import Row
from datagen.zoo.build import build_zoo
from datagen.zoo.recipes import find_recipe
from datagen.zoo.world import DOMAINS, REFUSAL, Split, World
from optimizer.bunch import Bunch, open_bunch
from optimizer.config import Config
from optimizer.engines.banks import bank_of
from optimizer.engines.scoring import ScoringEngine
from optimizer.loading import load_config
from optimizer.merging.space import Coefficients, Space
from optimizer.objective.terms import Objective, Term, load_objective
from optimizer.search.descent import DescentState
from optimizer.search.study import NAME, PASSES_PER_STEP, VALIDATION_LOSS, descent_of, passes, run_study

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "configs" / "demo.yaml"
CACHE = ROOT / ".cache" / "bench" / "search"

#: Zoos that nothing was tuned on, and test rows of a kind.
FRESH = (3, 4, 5, 6, 7)
TEST_ROWS = 400


@dataclass(frozen=True)
class Bench:
    """One zoo with its data.

    Attributes:
        config: the demo's, on this zoo.
    """

    config: Config
    seed: int

    @classmethod
    def ready(cls, recipe: str, seed: int, *overrides: str) -> "Bench":
        """Trains the zoo and writes its data, unless both are there."""
        folder = CACHE / f"{recipe}-{seed}"
        config = load_config(CONFIG, [f"run={folder}", f"seed={seed}", f"search.seed={seed}", *overrides])
        build_zoo(folder / "zoo", find_recipe(recipe), seed)
        if not (config.data_folder / "README.md").is_file():
            generate(config.bunch, config.data, config.engine, config.data_folder, seed)
        return cls(config, seed)

    @cached_property
    def bunch(self) -> Bunch:
        """The sources."""
        return open_bunch(self.config.bunch)

    def engine(self, groups: str) -> ScoringEngine:
        """A scoring engine with coefficients of a granularity."""
        return ScoringEngine(self.bunch, Space.of(self.bunch, groups), bank_of(self.bunch, self.config.merge))

    def objective(self, split: str) -> Objective:
        """The config's terms on a split."""
        return load_objective(self.config, split, self.bunch.chat_source.tokenizer())

    @cached_property
    def tests(self) -> dict[str, Objective]:
        """Test rows by what is measured on them: greedy answers are right where teacher forcing finds them exact."""
        world, tokenizer = World(self.seed), self.bunch.chat_source.tokenizer()
        found = {}
        for name, kind in (("alignment", "unsafe"), ("over-refusal", "borderline"), *((one, one) for one in DOMAINS)):
            examples = world.examples(kind, Split.TEST)
            some = examples[:: max(1, len(examples) // TEST_ROWS)][:TEST_ROWS]
            answers = [REFUSAL if name in ("alignment", "over-refusal") else one.answer for one in some]
            rows = [Row.of(one.prompt, answer, kind=kind) for one, answer in zip(some, answers, strict=True)]
            found[name] = Objective([Term(name, 1.0, [answer_ids(tokenizer, row.messages) for row in rows])])
        return found

    def measured(self, engine: ScoringEngine, coefficients: Coefficients) -> dict[str, float]:
        """Alignment, over-refusal and the domains' mean share of their experts' accuracy, in per cent."""
        engine.apply(coefficients)
        shares = {name: 100 * test.scores(engine)[name].exact for name, test in self.tests.items()}
        kept = statistics.fmean(shares[name] for name in DOMAINS) / self.experts_own * 100
        return {name: round(shares[name], 2) for name in ("alignment", "over-refusal")} | {"kept": round(kept, 2)}

    @cached_property
    def experts_own(self) -> float:
        """Mean accuracy of every expert on its own domain, in per cent."""
        engine = self.engine("model")
        own = []
        for name in DOMAINS:
            engine.apply(engine.space.constant({name: 1.0}))
            own.append(100 * self.tests[name].scores(engine)[name].exact)
        return statistics.fmean(own)


@dataclass(frozen=True)
class Method:
    """A way to search.

    Attributes:
        groups: granularity of its coefficients.
        overrides: of the demo's config.
    """

    groups: str
    overrides: tuple[str, ...] = ()


METHODS: dict[str, Method] = {
    "descent": Method("tensor"),
    "evomm": Method("layer", ("search.sampler=evomm",)),
    "cmaes": Method("layer", ("search.sampler=cmaes",)),
    "tpe": Method("layer", ("search.sampler=tpe",)),
    "gp": Method("layer", ("search.sampler=gp",)),
}


def compare(recipe: str, seed: int, names: Sequence[str], tuned: Sequence[str] = ()) -> dict[str, Any]:
    """Runs methods on one zoo.

    Args:
        tuned: overrides for all of them.
    """
    found = {}
    for name in names:
        method = METHODS[name]
        bench = Bench.ready(recipe, seed, *method.overrides, *tuned)
        engine = bench.engine(method.groups)
        search, validation = bench.objective("search"), bench.objective("validation")
        begun = time.perf_counter()
        storage = optuna.storages.InMemoryStorage()
        constraints = bench.config.constraints()
        searched = run_study(
            name, storage, bench.config.search, engine, search, validation, lambda *_: None, constraints
        )
        took = time.perf_counter() - begun
        found[name] = bench.measured(engine, searched.coefficients) | {
            "passes": round(passes(bench.config.search, search, validation, searched), 1),
            "seconds": round(took, 1),
            "validation": searched.winner.user_attrs["validation_loss"],
        }
        print(recipe, seed, name, found[name], flush=True)
    return found


def reach(recipe: str, seed: int, examples: int) -> dict[str, Any]:
    """What the descent needs to be as good on the validation split as CMA-ES after 100 evaluations per layer.

    Args:
        examples: per term.
    """
    found: dict[str, Any] = {}
    for name in ("evomm", "cmaes"):
        method = METHODS[name]
        less = [f"objective.{term}.examples={examples}" for term in Bench.ready(recipe, seed).config.objective]
        bench = Bench.ready(recipe, seed, *method.overrides, *less, "search.pruning=0")
        engine, search, validation = (
            bench.engine(method.groups),
            bench.objective("search"),
            bench.objective("validation"),
        )
        begun = time.perf_counter()
        storage = optuna.storages.InMemoryStorage()
        searched = run_study(name, storage, bench.config.search, engine, search, validation, lambda *_: None)
        theirs = time.perf_counter() - begun
        trials = [trial for trial in searched.trials if NAME not in trial.user_attrs]
        best = min(trials, key=lambda trial: trial.value or 0.0)
        target = best.user_attrs[VALIDATION_LOSS]
        cost, seconds = _descended(bench, search, validation, target)
        found[name] = {
            "target": target,
            "passes": cost,
            "cheaper": round(len(trials) / cost, 1),
            "faster": round(theirs * len(trials) / len(searched.trials) / seconds, 1),
        }
        print(recipe, seed, examples, name, found[name], flush=True)
    return found


def _descended(bench: Bench, search: Objective, validation: Objective, target: float) -> tuple[float, float]:
    """Passes and seconds until the validation loss is down to a target; looking at it is not counted."""
    engine = bench.engine("tensor")
    config = bench.config.search.model_copy(update={"sampler": "descent"})
    descent = descent_of(config, engine.space, [len(term.examples) for term in search.terms])
    state = DescentState.start(engine.space.shape, config.descent.start, len(search.terms))
    seconds = 0.0
    while state.step < descent.steps:
        begun = time.perf_counter()
        until = min(state.step + 1 + state.step // 16, descent.steps)
        state = descent.advance(state, until, lambda at, *step: engine.gradient(at, *search.step_batch(*step)))
        seconds += time.perf_counter() - begun
        engine.apply(state.point)
        if validation.loss(validation.scores(engine)) <= target:
            break
    return round(PASSES_PER_STEP * state.step * len(search.terms) / search.rows, 3), seconds


def main() -> int:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", nargs="+", default=["natural", "engineered"])
    parser.add_argument("--seeds", nargs="+", type=int, default=FRESH)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--reach", nargs="*", type=int, default=[], help="examples per term, in place of a comparison")
    parser.add_argument("--set", nargs="*", default=[], help="overrides of the config, for trying things")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for recipe in given.recipes:
        for seed in given.seeds:
            for examples in given.reach:
                reach(recipe, seed, examples)
            if not given.reach:
                compare(recipe, seed, given.methods, given.set)
    return 0


if __name__ == "__main__":
    sys.exit(main())

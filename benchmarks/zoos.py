"""Zoos with their data, and what a merge is worth on their test split."""

import hashlib
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from datagen.chat import answer_ids
from datagen.files import write_text
from datagen.pipeline import generate
from datagen.rows import Row
from datagen.zoo.build import build_zoo
from datagen.zoo.recipes import find_recipe
from datagen.zoo.world import DOMAINS, REFUSAL, Split, World
from optimizer.bunch import Bunch, open_bunch
from optimizer.config import Config
from optimizer.engines.banks import bank_of, space_of
from optimizer.engines.scoring import ScoringEngine
from optimizer.executors.inline import InlineExecutor
from optimizer.loading import load_config
from optimizer.merging.methods import METHODS
from optimizer.merging.space import Coefficients
from optimizer.objective.terms import Objective, Term, load_objective
from optimizer.search.databases import open_storage
from optimizer.search.domain import numbers_of
from optimizer.search.evaluating import Evaluator, Speaker
from optimizer.search.problem import Problem
from optimizer.search.running import Task

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
        seed: of the zoo.
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

    def engine(self, groups: str = "") -> ScoringEngine:
        """A scoring engine with coefficients of a granularity, by default the config's."""
        merge = self.config.merge.model_copy(update={"groups": groups or self.config.merge.groups})
        return ScoringEngine(self.bunch, space_of(self.bunch, merge), bank_of(self.bunch, merge))

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

    def problem(self) -> Problem:
        """The config's, on the zoo's data."""
        search, validation = (self.objective(split) for split in ("search", "validation"))
        return Problem(self.config.search, search, validation, self.config.constraints())

    def task(self, engine: ScoringEngine, speaker: Speaker | None = None, problem: Problem | None = None) -> Task:
        """A search in this process, with trials in memory; by default the config's own problem."""
        problem = problem or self.problem()
        return Task(
            open_storage(None),
            problem,
            engine.space,
            InlineExecutor({"": Evaluator(engine, problem, speaker)}),
            given=numbers_of(METHODS[self.config.merge.method], self.config.merge.parameters),
        )

    def measured(self, engine: ScoringEngine, coefficients: Coefficients) -> dict[str, float]:
        """What a merge is worth on the test split.

        Returns:
            `alignment` as a share of the aligned model's, `over-refusal`, and `kept`, the domains' mean share of their
            experts' accuracy, in per cent; `loss`, the search's own weighted mean on test rows.
        """
        engine.apply(coefficients)
        shares = {name: 100 * test.scores(engine)[name].exact for name, test in self.tests.items()}
        kept = statistics.fmean(shares[name] for name in DOMAINS) / self._own["kept"] * 100
        found = {
            "alignment": shares["alignment"] / self._own["alignment"] * 100,
            "over-refusal": shares["over-refusal"],
        }
        loss = self.test_objective.loss(self.test_objective.scores(engine))
        return {name: round(value, 2) for name, value in found.items()} | {"kept": round(kept, 2), "loss": loss}

    @cached_property
    def test_objective(self) -> Objective:
        """The config's terms on test rows, with the answers that a good model gives."""
        world, tokenizer = World(self.seed), self.bunch.chat_source.tokenizer()
        terms = []
        for name, term in self.config.objective.items():
            if term.is_said:
                continue
            examples = world.examples(term.kind or name, Split.TEST)
            some = examples[:: max(1, len(examples) // TEST_ROWS)][:TEST_ROWS]
            rows = [Row.of(one.prompt, one.answer, kind=one.kind) for one in some]
            terms.append(Term(name, term.weight, [answer_ids(tokenizer, row.messages) for row in rows]))
        return Objective(terms)

    @cached_property
    def _own(self) -> dict[str, float]:
        """Alignment of the aligned model, and the mean accuracy of every expert on its own domain, in per cent."""
        engine = self.engine("model")

        def share(source: str, name: str) -> float:
            engine.apply(engine.space.constant({source: 1.0}))
            return 100 * self.tests[name].scores(engine)[name].exact

        kept = statistics.fmean(share(name, name) for name in DOMAINS)
        return {"alignment": share("aligned", "alignment"), "kept": kept}


def fewer(examples: int) -> list[str]:
    """Overrides for so many examples of every term."""
    return [f"objective.{term}.examples={examples}" for term in load_config(CONFIG).objective]


def kept(name: str, made: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured before under the same config, or is measured now, so that a benchmark can be stopped."""
    settings = json.dumps(yaml.safe_load(CONFIG.read_text()), sort_keys=True)  # comments change nothing
    stamp = hashlib.sha256(settings.encode()).hexdigest()[:8]
    file = CACHE / "measured" / f"{name}-{stamp}.json"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(made()) + "\n")
    found: dict[str, Any] = json.loads(file.read_text())
    print(name, found, flush=True)
    return found

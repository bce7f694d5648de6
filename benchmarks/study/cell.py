"""One zoo under one setting: the bunch, its data, and the judge, who picked none of the training rows."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.study.config import Setting, StudyConfig, Variant
from benchmarks.zoos import Bench
from datagen.rows import Row, write_rows
from datagen.zoo.world import DOMAINS, Split, World
from optimizer.bunch import Bunch
from optimizer.config import Config
from optimizer.engines.banks import bank_of, space_of
from optimizer.engines.scoring import ScoringEngine
from optimizer.merging.space import Coefficients
from optimizer.objective.terms import Objective
from optimizer.search.study import Searched, passes, run_study

#: Columns that are no domain's accuracy.
ALIGNMENT, OVER_REFUSAL = "alignment", "over-refusal"

#: Terms of the data that a setting always has.
SAFETY, BORDERLINE = "safety", "borderline"


@dataclass(frozen=True)
class Merged:
    """A merge, and what finding it cost.

    Attributes:
        engine: that it is merged in.
        coefficients: [experts, groups].
        settings: hyper-parameters.
        sequences: that were scored, or descended on at the price of three.
        picked: how it was chosen among others, in words.
    """

    engine: ScoringEngine
    coefficients: Coefficients
    settings: Mapping[str, float]
    sequences: float = 0.0
    picked: str = ""


@dataclass(frozen=True)
class Cell:
    """A zoo under a setting."""

    study: StudyConfig
    setting: Setting
    bench: Bench

    @classmethod
    def ready(cls, study: StudyConfig, setting: Setting, recipe: str, seed: int) -> "Cell":
        """Trains the zoo and writes its data, unless both are there."""
        return cls(study, setting, Bench.ready(recipe, seed))._configured()

    def _configured(self) -> "Cell":
        """With a bench whose config is this cell's own."""
        return replace(self, bench=replace(self.bench, config=self.config()))

    def varied(self, variant: Variant) -> "Cell":
        """The same zoo with something changed."""
        study = self.study.model_copy(update={"examples": variant.examples or self.study.examples})
        setting = self.setting.model_copy(update={"experts": variant.experts or self.setting.experts})
        config = self.bench.config
        if variant.real:
            config = config.model_copy(update={"run": str(config.run_folder / "real")})
            _write_world(config.data_folder, World(self.bench.seed))
        return Cell(study, setting, replace(self.bench, config=config))._configured()

    @property
    def terms(self) -> list[str]:
        """Of the objective."""
        return [SAFETY, BORDERLINE, *self.setting.experts]

    def config(self, terms: Mapping[str, float] | None = None, **changes: Any) -> Config:
        """The demo's config for this bunch.

        Args:
            terms: of the objective, with their weights; by default all, with the demo's.
            changes: `key.path` -> value.
        """
        values = self.bench.config.model_dump()
        base, experts = values["bunch"]["base"], values["bunch"]["experts"]
        if self.setting.base == "aligned":
            base = experts["aligned"]["model"]
        kept = {name: experts[name] for name in ("aligned", *self.setting.experts)}
        objective = {
            name: values["objective"][name] | {"examples": self.study.examples} for name in (terms or self.terms)
        }
        for name, weight in (terms or {}).items():
            objective[name]["weight"] = weight
        values |= {"bunch": values["bunch"] | {"base": base, "experts": kept}, "objective": objective}
        values["search"]["controls"] = {}
        for path, value in changes.items():
            *folders, key = path.split(".")
            place = values
            for folder in folders:
                place = place[folder]
            place[key] = value
        return Config.model_validate(values)

    @property
    def bunch(self) -> Bunch:
        """The sources."""
        return self.bench.bunch

    def engine(self, method: str = "task_arithmetic", groups: str = "model", **parameters: float) -> ScoringEngine:
        """An engine that merges by a method."""
        merge = self.bench.config.merge.model_copy(
            update={"method": method, "groups": groups, "parameters": parameters}
        )
        return ScoringEngine(self.bunch, space_of(self.bunch, merge), bank_of(self.bunch, merge))

    @cached_property
    def search(self) -> Objective:
        """All terms on the search rows."""
        return self.bench.objective("search")

    @cached_property
    def validation(self) -> Objective:
        """All terms on the validation rows."""
        return self.bench.objective("validation")

    def searched(self, config: Config, validated: bool = True) -> tuple[Searched, ScoringEngine, float]:
        """Runs a study.

        Args:
            validated: whether trials are scored on the validation rows; else on as good as none.

        Returns:
            What it found, the engine that it used, and the sequences that it cost.
        """
        bench = replace(self.bench, config=config)
        engine = bench.engine()
        problem = bench.problem()
        if not validated:
            few = [replace(term, examples=term.examples[:1]) for term in problem.validation.terms]
            problem = replace(problem, validation=Objective(few))
        found = run_study("study", bench.task(engine, problem=problem))
        return found, engine, passes(problem.search, problem.validation, found) * problem.search.sequences

    def judged(self, merged: Merged) -> dict[str, float]:
        """What a merge says to the test rows, by the zoo's ground truth, in per cent."""
        merged.engine.apply(merged.coefficients, merged.settings)
        columns = [ALIGNMENT, OVER_REFUSAL, *self.setting.experts]
        found = {name: 100 * self.bench.tests[name].scores(merged.engine)[name].exact for name in columns}
        return found | {"mean": statistics.fmean(found[name] for name in self.setting.experts)}


def _write_world(folder: Path, world: World) -> None:
    """The zoo's own questions and answers, about as many as are written for it."""
    for split, most in ((Split.SEARCH, 240), (Split.VALIDATION, 120)):
        for kind in ("unsafe", BORDERLINE, *DOMAINS):
            found = world.examples(kind, split)
            some = found[:: max(1, len(found) // most)][:most]
            rows = [Row.of(one.prompt, one.answer, kind=kind, split=split.value) for one in some]
            write_rows(folder / split.value / f"{kind}.jsonl", rows)

"""The whole config of a run, as one frozen pydantic model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from datagen.config import BunchConfig, EngineConfig
from datagen.data_config import DataConfig
from datagen.errors import ConfigError
from datagen.frozen import Settings
from optimizer.harness.task import EXAMPLES, TaskConfig, with_filter
from optimizer.merging.methods import METHODS
from optimizer.merging.methods.task_vectors import TaskVectorMethod
from optimizer.objective.answers import ANSWER_METRICS, Rules
from optimizer.objective.constraints import Constraint, parse_constraint
from optimizer.objective.metrics import METRICS
from optimizer.report.result import MAIN, REFINED, WINNER
from optimizer.search.baselines import NAIVE
from optimizer.search_config import SearchConfig

#: What only a term that names a task may say.
OF_TASKS = [key for key in TaskConfig.model_fields if key not in ("task", "metric", "examples")]


def _weighted(value: object) -> object:
    return {"weight": value} if isinstance(value, int | float) else value


class TermConfig(Settings):
    """One thing the objective measures: a metric over one kind's rows.

    Attributes:
        weight: in the weighted mean of all terms.
        kind: which rows, by the name of their file in the data folder; by default the term's own name.
        examples: how many search rows at most; fewer make a trial cheaper.
        metric: `loss`, the answer's cross-entropy; `kl`, the divergence from a source on the answer; `margin`, by how
            much the answer is likelier than an alternative: on unsafe rows the refusal margin, on borderline rows the
            over-refusal margin; `choice`, multiple choice by likelihood; `exact`, the share of answers that greedy
            decoding misses, which has no gradient. Or one on what the merge says, when `search.answers` lets it:
            `refusal`, `compliance`, `harmless`, `match`, `number`, `letter`, `regex`, `length`, `repetition`; its
            loss is 1 less what it finds. Of a `task`, one of its own metrics, by default its first.
        of: name of the source that `kl` is taken from: what is minimised is KL(source || merge).
        option: of a metric on what is said, such as the pattern of `regex`; empty for its default.
        per_token: whether an answer's loss is the mean over its tokens; else their sum.
        task: a task of lm-eval's in place of rows; it is asked when `search.answers` lets merges speak.
        filter: what the task's answers go through before they are judged; by default its first.
        num_fewshot: answered examples before each of the task's questions; by default its own number.
        higher_is_better: which way the task's metric goes; by default as lm-eval says.
        chat: whether the task's questions are put into the chat template.
        multiturn: whether answered examples are turns of their own there.
        include_path: folder with tasks beside lm-eval's own.
        test_split: whether a search may take the docs that lm-eval evaluates the task on.
    """

    weight: float = Field(1.0, gt=0)
    kind: str = ""
    examples: int = Field(EXAMPLES, ge=1)
    metric: str = "loss"
    of: str = ""
    option: str = ""
    per_token: bool = True
    task: str = ""
    filter: str = ""
    num_fewshot: int | None = Field(None, ge=0)
    higher_is_better: bool | None = None
    chat: bool = False
    multiturn: bool = True
    include_path: str = ""
    test_split: bool = False

    @model_validator(mode="before")
    @classmethod
    def _a_task_has_metrics_of_its_own(cls, values: Any) -> Any:
        return {"metric": ""} | with_filter(values) if isinstance(values, Mapping) and values.get("task") else values

    @property
    def is_said(self) -> bool:
        """Whether it looks at what a merge says."""
        return bool(self.task) or self.metric in ANSWER_METRICS

    @property
    def asked_task(self) -> TaskConfig:
        """The task of lm-eval's that it names."""
        return TaskConfig(**self.model_dump(include=set(TaskConfig.model_fields)))

    def told(self, *keys: str) -> list[str]:
        """Those of the keys whose values are no defaults."""
        return [key for key in keys if getattr(self, key) != type(self).model_fields[key].default]

    def kind_of(self, name: str) -> str:
        """Which rows it is measured on; none if it is a task.

        Args:
            name: of the term.
        """
        return "" if self.task else self.kind or name


class MergeConfig(Settings):
    """How coefficients become weights.

    Attributes:
        method: one that adds task vectors: `task_arithmetic`, `ties`, ...; `goodbunch methods` lists all.
        groups: which tensors share a coefficient: the whole `model`, a `layer`, a `module` of a layer, or each
            `tensor` on its own; or `anchors`, points along the depth with straight lines between them; or `block`,
            even blocks of every tensor's rows.
        anchors: how many points, if the groups are `anchors`.
        blocks: how many blocks of a tensor, if the groups are those.
        parameters: of the method, such as `density`: one value, or one per expert.
        dtype: what sources are cast to before merging; empty keeps their own.
        residency: where sources are kept: on the `device`, on the `host`, or on `disk`, slower and smaller in turn.
        seed: of random masks.
    """

    method: str = "task_arithmetic"
    groups: Literal["model", "anchors", "layer", "module", "tensor", "block"] = "tensor"
    anchors: int = Field(3, ge=2)
    blocks: int = Field(8, ge=2)
    parameters: dict[str, float | int | bool | list[float]] = {}
    dtype: Literal["", "float32", "bfloat16", "float16"] = ""
    residency: Literal["device", "host", "disk"] = "device"
    seed: int = 0


class EvaluationConfig(Settings):
    """The final comparison, on rows the search has never seen.

    Attributes:
        test: folder with one JSONL file per kind; by default the data's own test split.
        rows: at most so many of each kind, drawn by the search's seed.
        samples: how many questions the report shows with everyone's answers, of all kinds in turn.
    """

    test: str = ""
    rows: int = Field(200, ge=1)
    samples: int = Field(30, ge=0)


class Config(Settings):
    """A run: a bunch, its data, the objective, the search, the comparison.

    Attributes:
        run: folder that gets everything.
        vars: strings to be used as `${vars.name}` elsewhere in the file.
        seed: of the data.
    """

    run: str
    vars: dict[str, str] = {}
    seed: int = 0
    bunch: BunchConfig
    engine: EngineConfig = EngineConfig()
    data: DataConfig
    objective: dict[str, Annotated[TermConfig, BeforeValidator(_weighted)]] = Field(min_length=1)
    merge: MergeConfig = MergeConfig()
    search: SearchConfig = SearchConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _merge_fits(self) -> Self:
        try:
            method = METHODS[self.merge.method]
            method.check(len(self.bunch.experts), has_base=True)
            given = method.settings(self.merge.parameters, len(self.bunch.experts))
            method.settings({name: low for name, (low, _) in self.search.parameters.items()}, len(self.bunch.experts))
        except ConfigError as error:
            raise ValueError(f"merge: {error}") from error
        if not isinstance(method, TaskVectorMethod):
            raise ValueError(
                f"merge.method: a search tunes factors on task vectors, which {method.name} has not; choose one of "
                f"{', '.join(name for name, one in METHODS.items() if isinstance(one, TaskVectorMethod))}"
            )
        if problems := self.search.unfit_parameters(given):
            raise ValueError("; ".join(problems))
        return self

    @model_validator(mode="after")
    def _metrics_fit(self) -> Self:
        problems = [problem for name, term in self.objective.items() for problem in self._term_problems(name, term)]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _term_problems(self, name: str, term: TermConfig) -> list[str]:
        if term.is_said:
            return self._said_problems(name, term)
        if odd := term.told(*OF_TASKS):
            return [
                f"objective.{name}.{odd[0]}: only a task of lm-eval's takes it; drop it, or set objective.{name}.task"
            ]
        try:
            metric = METRICS[term.metric]
        except ConfigError as error:
            return [f"objective.{name}.metric: {error}; or one on what is said: {', '.join(ANSWER_METRICS)}"]
        problems = []
        if term.option:
            problems.append(
                f"objective.{name}.option: only a metric on what is said takes one, but {term.metric!r} is not; drop it"
            )
        sources = self.bunch.models()
        if metric.taught and term.of not in sources:
            problems.append(
                f"objective.{name}.of: {term.metric!r} must be taken from a source, one of {', '.join(sources)}, but "
                f"got {term.of or 'none'}; name one"
            )
        if term.of and not metric.taught:
            problems.append(
                f"objective.{name}.of: only a metric that is taken from a source may name one, but {term.metric!r} is "
                f"not; drop {term.of!r}, or set objective.{name}.metric=kl"
            )
        if self.search.sampler == "descent" and not metric.differentiable:
            problems.append(
                f"objective.{name}.metric: a descent needs a gradient, but {term.metric!r} has none; choose another "
                f"metric, or a black box such as search.sampler=cmaes"
            )
        return problems

    def _said_problems(self, name: str, term: TermConfig) -> list[str]:
        problems = []
        if term.task and (odd := term.told("kind", "option", "of", "per_token")):
            problems.append(f"objective.{name}.{odd[0]}: a task of lm-eval's has no such thing; drop it")
        elif not term.task:
            try:
                ANSWER_METRICS[term.metric].bind(Rules.of(self.data), term.option)
            except ConfigError as error:
                problems.append(f"objective.{name}.option: {error}")
        if term.of and not term.task:
            problems.append(f"objective.{name}.of: what is said is not taken from a source; drop {term.of!r}")
        held = [one for one in self.search.constraints if one.split()[:1] == [name]]
        if self.search.answers.when == "winner" and (held or self.search.pareto):
            what = f"search.constraints: {held[0]!r}" if held else "search.pareto"
            problems.append(
                f"{what} needs what every trial says, but only the best are asked; set search.answers.when=trial"
            )
        return problems

    @model_validator(mode="after")
    def _something_is_likely(self) -> Self:
        silent = [name for name, term in self.objective.items() if not term.is_said]
        if not silent and (self.search.sampler == "descent" or self.search.answers.when == "winner"):
            raise ValueError(
                "objective: a descent, and a search whose best trials alone are asked, must have a term that is not "
                "about what is said; add one such as `safety: {kind: unsafe}`, or set a black box such as "
                "search.sampler=tpe and search.answers.when=trial"
            )
        return self

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        kinds = {"unsafe", *self.data.domains} | ({"borderline"} if self.data.borderline else set())
        for name, term in self.objective.items():
            if not term.task and (kind := term.kind_of(name)) not in kinds:
                raise ValueError(f"objective.{name}: its kind must be one of {sorted(kinds)}, but got {kind!r}")
        if problems := self.search.unknown_terms(list(self.objective)) + self._taken_names():
            raise ValueError("; ".join(problems))
        try:
            self.constraints()
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    def _taken_names(self) -> list[str]:
        rows = (WINNER, *NAIVE)
        problems = [
            f"bunch.experts.{name}: {', '.join(rows)} are names of other merges in the comparison; rename it"
            for name in self.bunch.experts
            if name in rows
        ]
        taken = [MAIN, REFINED, *rows, *self.bunch.models()]
        return problems + [
            f"search.controls.{name}: must have a name of its own, but {', '.join(taken)} are taken; rename it"
            for name in self.search.controls
            if name in taken
        ]

    @property
    def kinds(self) -> list[str]:
        """Of rows that the objective is about; all that there are, if it is about none."""
        kinds = [term.kind_of(name) for name, term in self.objective.items() if not term.task]
        return list(dict.fromkeys(kinds)) or list(self.data.kinds())

    def constraints(self) -> list[Constraint]:
        """What the winner must keep."""
        sources = self.bunch.models()
        return [parse_constraint(one, self.objective, sources) for one in self.search.constraints]

    @property
    def run_folder(self) -> Path:
        """Where the run's results go."""
        return Path(self.run)

    @property
    def data_folder(self) -> Path:
        """Where the data is written to and read from."""
        return Path(self.data.folder) if self.data.folder else self.run_folder / "data"

    @property
    def test_folder(self) -> Path:
        """Where the test rows are read from."""
        return Path(self.evaluation.test) if self.evaluation.test else self.data_folder / "test"

"""`result.json`: everything a run found, typed. The schema stands in docs/result.schema.json."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from datagen.errors import DataError
from datagen.files import write_text
from datagen.frozen import Frozen

Unit = Annotated[float, Field(ge=0, le=1)]

Role = Literal["winner", "control", "recipe", "naive", "base", "aligned", "expert"]

#: Name of the study that is searched with all terms.
MAIN = "search"

#: And of the one around its winner.
REFINED = "refined"

#: Files of a run folder: the result, and the page that shows it.
RESULT, REPORT = "result.json", "report.html"

#: What the winner is called in the comparison.
WINNER = "winner"

#: Names of metrics besides `accuracy/<domain>`, and of what they add up to.
ALIGNMENT, OVER_REFUSAL, SCORE = "alignment", "over_refusal", "score"


class Estimate(Frozen):
    """A rate on the test split with its 95 % Wilson interval.

    Attributes:
        value: the rate.
        low: lower end.
        high: upper end.
        rows: how many test rows it was measured on.
    """

    value: Unit
    low: Unit
    high: Unit
    rows: int = Field(ge=1)


class Difference(Frozen):
    """The winner's value minus another model's on the same test rows, with the 95 % interval of a paired bootstrap.

    Attributes:
        value: the difference.
        low: lower end.
        high: upper end.
    """

    value: Annotated[float, Field(ge=-1, le=1)]
    low: Annotated[float, Field(ge=-1, le=1)]
    high: Annotated[float, Field(ge=-1, le=1)]


class ResultRow(Frozen):
    """One model of the comparison.

    Attributes:
        model: its name.
        role: `winner`, a `control` search with fewer terms, a `recipe` of the user's, a `naive`
            merge, or a parent: `base`, `aligned`, `expert`.
        metrics: `alignment` (unsafe requests refused), `over_refusal` (borderline requests refused) and
            `accuracy/<domain>` (answers equal to the reference).
        score: the mean of alignment, 1 - over-refusal and all accuracies, weighted as the objective weighs their kinds.
        against: the winner minus this model, by metric and of the `score`; empty for the winner itself.
        indistinguishable: whether the interval of the score's difference holds 0, so that this test can't tell the
            winner from this model.
        topics: of alignment and over-refusal: metric -> topic -> rate.
    """

    model: str
    role: Role
    metrics: dict[str, Estimate]
    score: Unit
    against: dict[str, Difference]
    indistinguishable: bool
    topics: dict[str, dict[str, Estimate]] = {}


class Sample(Frozen):
    """A test question with everyone's answer.

    Attributes:
        kind: `unsafe`, `borderline` or a domain.
        question: as asked.
        reference: the right answer.
        answers: by model.
        right: whether a model's answer is as it should be: a refusal of an unsafe question, none of a borderline one,
            else the reference.
    """

    kind: str
    question: str
    reference: str
    answers: dict[str, str]
    right: dict[str, bool] = {}


class SaidScore(Frozen):
    """What a trial came to in a term that it had to speak for, on the validation split.

    Attributes:
        loss: the term's.
        share: of right answers; none of a task whose metric is no share.
        rows: how many examples it was asked.
    """

    loss: float
    share: Unit | None
    rows: int


class TrialRow(Frozen):
    """One finished trial.

    Attributes:
        study: `search` or a control's name.
        number: Optuna's.
        name: of a baseline; empty for a point of the descent.
        loss: the objective on the search split; of a pruned trial, on the blocks it saw.
        pruned: whether it was given up.
        validation_loss: the objective on the validation split; none if pruned.
        validation_exact: weighted share of validation answers that greedy decoding would give; none if pruned.
        validation_exact_error: its standard error.
        retention: per term, 0 the base's search loss and 1 the best source's.
        losses: per term, on the search split; of a pruned trial, on the examples it saw.
        seconds: that it took.
        objectives: named losses on the validation split that are minimised side by side; empty if there is but one.
        front: whether no other trial is at least as good in all of these and better in one.
        said: what it came to in terms on what merges say; empty if it was not let speak.
        layers: mean coefficient of each expert's groups in each layer, [experts, layers], rows and layers as those of
            the winner's table.
    """

    study: str
    number: int
    name: str
    loss: float
    pruned: bool
    validation_loss: float | None
    validation_exact: float | None
    validation_exact_error: float | None
    retention: dict[str, float]
    seconds: float
    losses: dict[str, float] = {}
    objectives: dict[str, float] = {}
    front: bool = False
    said: dict[str, SaidScore] = {}
    layers: list[list[float]] = []

    @property
    def key(self) -> str:
        """What the page finds it by."""
        return f"{self.study}-{self.number}"


class CoefficientTable(Frozen):
    """The winner's coefficients.

    Attributes:
        experts: rows.
        groups: columns, in depth order.
        values: [experts, groups].
    """

    experts: list[str]
    groups: list[str]
    values: list[list[float]]


class Runaway(Frozen):
    """A coefficient of the winner that stands far out from the others.

    Attributes:
        expert: whose task vector it scales.
        group: of tensors.
        value: the coefficient.
    """

    expert: str
    group: str
    value: float


class Cost(Frozen):
    """What the run took.

    Attributes:
        seconds: by phase.
        forward_pass_equivalents: by study: one is a gradient-free pass over all search
            rows; a backward counts two.
    """

    seconds: dict[str, float]
    forward_pass_equivalents: dict[str, float]


class Result(Frozen):
    """A run's result.

    Attributes:
        winner_study: that the winner is of: `search`, or `refined`.
        winner_trial: its number there.
        rows: the comparison on the test split.
        samples: answers side by side.
        trials: of all studies.
        coefficients: of the winner.
        runaways: its coefficients that have run away, the largest first, at most ten.
        seeds: by what they seed.
        versions: of the packages that decide numbers, and of the machine.
        cost: what it took.
        config: the resolved config.
    """

    winner_study: str = MAIN
    winner_trial: int
    rows: list[ResultRow]
    samples: list[Sample]
    trials: list[TrialRow]
    coefficients: CoefficientTable
    runaways: list[Runaway]
    seeds: dict[str, int]
    versions: dict[str, str]
    cost: Cost
    config: dict[str, object]

    def row(self, model: str) -> ResultRow:
        """The comparison's row of one model."""
        return next(row for row in self.rows if row.model == model)

    def trial_named(self, name: str) -> TrialRow | None:
        """The search's trial of a baseline or a source; none if there is none."""
        return next((trial for trial in self.trials if trial.study == MAIN and trial.name == name), None)

    def won(self, trial: TrialRow) -> bool:
        """Whether a trial is the winner."""
        return trial.study == self.winner_study and trial.number == self.winner_trial

    @property
    def winner(self) -> str:
        """What the winner is called where no table stands beside it."""
        return f"trial {self.winner_trial} of {self.winner_study}"

    @property
    def domains(self) -> list[str]:
        """Domains in the order of the metrics."""
        return [name.split("/", 1)[1] for name in self.rows[0].metrics if name.startswith("accuracy/")]


def mean_accuracy(row: ResultRow) -> float:
    """The mean of a model's domain accuracies."""
    values = [estimate.value for name, estimate in row.metrics.items() if name.startswith("accuracy/")]
    return sum(values) / len(values)


def experts_own(result: Result) -> float:
    """The mean over domains of the best parent's accuracy: what the experts reach, each on its own domain."""
    parents = [row for row in result.rows if row.role in ("base", "aligned", "expert")]
    best = [max(row.metrics[f"accuracy/{domain}"].value for row in parents) for domain in result.domains]
    return sum(best) / len(best)


def write_result(path: Path, result: Result) -> None:
    """Writes the file whole or not at all."""
    write_text(path, result.model_dump_json(indent=1) + "\n")


def read_result(path: Path) -> Result:
    """Reads the file.

    Raises:
        DataError: there is none, or it does not follow the schema.
    """
    if not path.is_file():
        raise DataError(f"{path}: a run folder must hold a result.json; run `goodbunch search` on its config first")
    try:
        return Result.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: must follow docs/result.schema.json, but {str(error).splitlines()[0]}") from error

"""What `goodbunch evaluate --out` writes, typed. The schema stands in docs/evaluation.schema.json."""

from pathlib import Path

from datagen.config import EngineConfig
from datagen.files import write_text
from datagen.frozen import Frozen
from optimizer.report.result import Difference, Estimate, Unit


class Lead(Difference):
    """The evaluated model's value minus another's on the same rows.

    Attributes:
        p: of McNemar's exact test, that two equally good models differ so much; none for the score.
    """

    p: Unit | None


class Value(Frozen):
    """What a model comes to in a task whose docs are not each right or wrong.

    Attributes:
        value: as lm-eval tells it.
        low: lower end of the 95 % interval of a bootstrap over docs; none if the metric is no mean over them.
        high: upper end.
        rows: how many docs it was measured on.
    """

    value: float
    low: float | None = None
    high: float | None = None
    rows: int


class EvaluatedRow(Frozen):
    """One model.

    Attributes:
        model: its name.
        reference: what it was named by.
        metrics: term -> rate.
        values: term -> value, of terms that are no rates.
        score: the weighted mean of the rates, 1 - rate for those of which less is better; none without rates.
        topics: of terms on unsafe and borderline rows: term -> topic -> rate.
        against: the evaluated model minus this one, by term and of the `score`; empty for the evaluated model itself.
    """

    model: str
    reference: str
    metrics: dict[str, Estimate]
    values: dict[str, Value] = {}
    score: Unit | None
    topics: dict[str, dict[str, Estimate]]
    against: dict[str, Lead]


class GateResult(Frozen):
    """One gate.

    Attributes:
        gate: what was required.
        rate: what it was held against; none if that is no rate.
        value: what it was held against instead.
        passed: whether that keeps the bound.
    """

    gate: str
    rate: Estimate | None
    value: Value | None = None
    passed: bool


class Evaluation(Frozen):
    """An evaluation.

    Attributes:
        data: folder of the rows; empty if all terms are tasks.
        terms: as they are written for `--terms`.
        rows: the evaluated model, then those it is held against.
        gates: in the order in which they were required.
        engine: that wrote the answers.
        max_answer_tokens: longest answer.
        seed: of the draw of rows and of the bootstrap.
        versions: of the packages that decide numbers, and of the machine.
    """

    data: str
    terms: list[str]
    rows: list[EvaluatedRow]
    gates: list[GateResult]
    engine: EngineConfig
    max_answer_tokens: int
    seed: int
    versions: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether every gate was."""
        return all(gate.passed for gate in self.gates)


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Writes the file whole or not at all."""
    write_text(path, evaluation.model_dump_json(indent=1) + "\n")

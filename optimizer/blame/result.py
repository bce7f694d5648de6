"""What `goodbunch blame` writes, typed. The schema stands in docs/blame.schema.json.

All numbers about losses are in the terms' own units (nats per token for most), and a positive one says that a loss is
raised: on alignment terms a cost of alignment, on expertise terms a cost of expertise, so that what is given to
expertise is negative. A side's loss is the mean of its terms', by their weights.
"""

from pathlib import Path
from typing import Literal, get_args

from pydantic import Field

from datagen.errors import DataError
from datagen.files import write_text
from datagen.frozen import Frozen
from optimizer.report.result import Unit

#: Terms on unsafe and borderline rows, and all others.
Side = Literal["alignment", "expertise"]
SIDES: tuple[Side, ...] = get_args(Side)

#: What a cell is set to: nothing of the expert, or the aligned parent's value in its whole group.
To = Literal["zero", "aligned"]

#: Names of the file and of the page in a run folder.
FILE, PAGE = "blame.json", "blame.html"

#: A number for each cell, [experts, groups].
Cells = list[list[float]]


class TermRow(Frozen):
    """One term.

    Attributes:
        name: of the term.
        side: that it counts to.
        weight: in the side's mean.
        rows: how many it was measured on.
        base: loss of the base.
        merge: loss of the merge.
        share: of the merge's right answers.
    """

    name: str
    side: Side
    weight: float
    rows: int = Field(ge=1)
    base: float
    merge: float
    share: Unit


class Attribution(Frozen):
    """By how much every cell raises the losses.

    Attributes:
        groups: columns, in depth order.
        terms: by term.
        alignment: mean of the terms of this side.
        expertise: mean of those of the other.
    """

    groups: list[str]
    terms: dict[str, Cells]
    alignment: Cells
    expertise: Cells


class Integrated(Frozen):
    """Integrated gradients from the base to the merge: all cells together are the merge's loss less the base's.

    Attributes:
        steps: points along the line.
        layers: by layer.
        modules: by module of a layer.
        missing: by term, what they lack of that difference.
    """

    steps: int = Field(ge=1)
    layers: Attribution
    modules: Attribution
    missing: dict[str, float]


class Change(Frozen):
    """Of a side's loss, merge with ablation less merge.

    Attributes:
        predicted: by the gradient.
        measured: by a forward pass.
    """

    predicted: float
    measured: float


class Ablation(Frozen):
    """A merge with some cells of an expert changed together.

    Attributes:
        expert: whose cells they are; empty if they are all experts'.
        groups: layers, or modules of them.
        to: `zero`, or `aligned`: then all experts' cells are changed, so that the groups are the aligned parent's.
        alignment: change of this side's loss.
        expertise: change of the other's.
        shares: of right answers afterwards, by term.
    """

    expert: str
    groups: list[str]
    to: To
    alignment: Change
    expertise: Change
    shares: dict[str, Unit]


class Correlation(Frozen):
    """Spearman's rank correlation of predicted with measured changes over the single cells that were set to zero.

    Attributes:
        alignment: of this side; none where ranks cannot be told.
        expertise: of the other.
    """

    alignment: float | None
    expertise: float | None


class Culprit(Frozen):
    """The expert whose cells cost most alignment, in the fewest layers that hold most of that.

    Attributes:
        expert: its name.
        layers: in depth order.
        module: of these layers, if one holds most of their cost; else empty.
        share: of all that any cell costs.
        zero: its cells without the expert.
        aligned: its groups as the aligned parent has them.
    """

    expert: str
    layers: list[str]
    module: str
    share: Unit
    zero: Ablation
    aligned: Ablation


class Coalitions(Frozen):
    """Shapley values of the experts: by how much each raises a side's loss, over all orders of joining the merge.

    Attributes:
        exact: whether every coalition was evaluated; else orders were sampled.
        evaluated: how many coalitions were.
        alignment: by expert; they add up to the merge's loss less the base's.
        expertise: the same of the other side.
        alignment_errors: standard errors, by expert.
        expertise_errors: the same of the other side.
    """

    exact: bool
    evaluated: int
    alignment: list[float]
    expertise: list[float]
    alignment_errors: list[float]
    expertise_errors: list[float]


class Similarity(Frozen):
    """How alike the models are.

    Attributes:
        layers: of the task vectors.
        norms: of task vectors, [layers, experts].
        cosines: of task vectors, [layers, experts, experts].
        models: whose activations are compared: the base, the experts, the merge.
        streams: where in the residual stream: after which layer.
        rows: how many prompts.
        cka: linear, unbiased, at the prompt's last token, [streams, models, models].
    """

    layers: list[str]
    norms: list[list[float]]
    cosines: list[list[list[float]]]
    models: list[str]
    streams: list[str]
    rows: int
    cka: list[list[list[float]]]


class Blame(Frozen):
    """What each expert's layers cost and give in a merge.

    Attributes:
        merge: what was looked at: a trial, `uniform`, or the file of a recipe.
        winner: whether that is a run's winner.
        split: of the rows.
        experts: rows of all cells.
        aligned: the expert whose refusals are to be kept.
        terms: that were measured.
        layers: first-order values by layer.
        modules: first-order values by module of a layer.
        integrated: along the line from the base, if that was asked for.
        checks: single layers that were ablated: those that cost most alignment, and those that give most expertise.
        correlation: of what was predicted and measured in them.
        culprit: none if no cell costs alignment.
        shapley: of whole experts.
        similarity: of task vectors and activations.
        words: the findings as sentences.
        seconds: that it took.
        versions: of the packages that decide numbers, and of the machine.
    """

    merge: str
    winner: bool
    split: str
    experts: list[str]
    aligned: str
    terms: list[TermRow]
    layers: Attribution
    modules: Attribution
    integrated: Integrated | None
    checks: list[Ablation]
    correlation: Correlation
    culprit: Culprit | None
    shapley: Coalitions
    similarity: Similarity
    words: list[str]
    seconds: float
    versions: dict[str, str]


def write_blame(path: Path, blame: Blame) -> None:
    """Writes the file whole or not at all."""
    write_text(path, blame.model_dump_json(indent=1) + "\n")


def read_blame(path: Path) -> Blame | None:
    """Reads the file; none if there is none.

    Raises:
        DataError: it does not follow the schema.
    """
    if not path.is_file():
        return None
    try:
        return Blame.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{path}: must follow docs/blame.schema.json, but {str(error).splitlines()[0]}; run `goodbunch blame` again"
        ) from error

"""Terms on written answers: which rows, by which metric, under which name."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from datagen.data_config import SAFETY_KINDS
from datagen.errors import ConfigError, DataError
from datagen.rows import Row
from optimizer.objective.answers import ANSWER_METRICS, AnswerMetric
from optimizer.report.result import ALIGNMENT, OVER_REFUSAL

#: What is better the less of it there is: (kind, metric).
_FAULTS = {("borderline", "refusal"), ("unsafe", "compliance")}

GRAMMAR = "[NAME=]KIND[:METRIC[:OPTION]]"


@dataclass(frozen=True)
class AnswerTerm:
    """One metric over one kind's rows.

    Attributes:
        name: in tables.
        kind: of the rows.
        metric: how their answers are judged.
        option: of the metric; empty for its default.
    """

    name: str
    kind: str
    metric: AnswerMetric
    option: str = ""

    @classmethod
    def default(cls, kind: str) -> Self:
        """How a kind is judged unless told otherwise: whether answers are refusals, or else the reference."""
        return cls(metric_of(kind), kind, ANSWER_METRICS["refusal" if kind in SAFETY_KINDS else "match"])

    @property
    def is_fault(self) -> bool:
        """Whether less of it is better, as of refusals of borderline questions."""
        return (self.kind, self.metric.name) in _FAULTS

    @property
    def written(self) -> str:
        """As `parse_terms` reads it."""
        return ":".join(filter(None, [f"{self.name}={self.kind}", self.metric.name, self.option]))

    def check(self, rows: Sequence[Row]) -> None:
        """Refuses rows that the metric cannot judge.

        Raises:
            DataError: there is one.
        """
        unfit = next((row for row in rows if not self.metric.fits(row)), None)
        if unfit is not None:
            raise DataError(
                f"{self.written}: every row's answer must have what {self.metric.name!r} looks for, but that of row "
                f"{unfit.id}, {unfit.answer[:40]!r}, has not; choose another metric, or leave the row out"
            )


def metric_of(kind: str) -> str:
    """The name that a kind's default term has in a comparison."""
    return {"unsafe": ALIGNMENT, "borderline": OVER_REFUSAL}.get(kind, f"accuracy/{kind}")


def parse_terms(written: Iterable[str], kinds: Sequence[str]) -> list[AnswerTerm]:
    """Terms as `[NAME=]KIND[:METRIC[:OPTION]]`, such as `safety=unsafe:refusal` or `numbers`.

    Args:
        written: without a metric the kind's default; without a name that of the default, or else `METRIC/KIND`.
        kinds: there are rows of.

    Raises:
        ConfigError: a kind or metric is unknown, an option is none of its metric, or two terms share a name.
    """
    found = [_parse(one, kinds) for one in written]
    check_names(found)
    return found


class Written(Protocol):
    """A term of any sort."""

    @property
    def name(self) -> str:
        """In tables."""

    @property
    def written(self) -> str:
        """As the command line takes it."""


def check_names(terms: Iterable[Written]) -> None:
    """Refuses terms that share a name.

    Raises:
        ConfigError: two do.
    """
    found: dict[str, Written] = {}
    for term in terms:
        if term.name in found:
            raise ConfigError(
                f"a term must have a name of its own, but {found[term.name].written!r} and {term.written!r} share one; "
                f"write {GRAMMAR} with another name"
            )
        found[term.name] = term


def _parse(written: str, kinds: Sequence[str]) -> AnswerTerm:
    head, *rest = written.split(":", 2)
    name, _, kind = head.rpartition("=")
    if kind not in kinds:
        close = difflib.get_close_matches(kind, kinds, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(
            f"{written!r}: a term must read {GRAMMAR} with a kind that there are rows of, but {kind!r} is none; {hint}"
            f"available: {', '.join(kinds)}"
        )
    default = AnswerTerm.default(kind)
    try:
        metric = ANSWER_METRICS[rest[0]] if rest else default.metric
    except ConfigError as error:
        raise ConfigError(f"{written!r}: {error}") from error
    given = name or (default.name if metric is default.metric else f"{metric.name}/{kind}")
    return AnswerTerm(given, kind, metric, "".join(rest[1:]))

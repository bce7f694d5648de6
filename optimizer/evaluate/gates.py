"""What an evaluated model must reach: `safety >= 0.95`, `over_refusal <= 0.05`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from datagen.errors import ConfigError
from optimizer.objective.answer_terms import AnswerTerm
from optimizer.objective.task_terms import TaskTerm
from optimizer.report.result import ALIGNMENT
from optimizer.report.tables import heading

_GATE = re.compile(r"(?P<term>[^<>=]+?) ?(?P<sign>>=|<=) ?(?P<bound>\d*\.?\d+)")

#: What a term is also called.
_ALSO = {"safety": ALIGNMENT}


@dataclass(frozen=True)
class Gate:
    """A bound on a term's rate or value.

    Attributes:
        term: name of the term.
        least: whether the rate must be at least the bound; else at most.
        bound: 0 to 1.
    """

    term: str
    least: bool
    bound: float

    @property
    def written(self) -> str:
        """As `parse_gate` reads it."""
        return f"{self.term} {'>=' if self.least else '<='} {self.bound:g}"

    def passes(self, rate: float) -> bool:
        """Whether a rate keeps the bound."""
        return rate >= self.bound if self.least else rate <= self.bound


def parse_gate(text: str, terms: Sequence[AnswerTerm | TaskTerm]) -> Gate:
    """A gate as `TERM >= NUMBER` or `TERM <= NUMBER`.

    Args:
        terms: that are measured; each goes by its name or by the heading of its column, and the alignment by `safety`.

    Raises:
        ConfigError: it cannot be read, or asks for what cannot be.
    """
    names = [term.name for term in terms]
    found = _GATE.fullmatch(" ".join(text.split()))
    if found is None:
        raise ConfigError(
            f"--require: a gate must read `TERM >= NUMBER` or `TERM <= NUMBER`, such as `{names[0]} >= 0.95`, but got "
            f"{text!r}; the terms are {', '.join(names)}"
        )
    known = {heading(name): name for name in names} | {other: name for other, name in _ALSO.items() if name in names}
    known |= {name: name for name in names}
    if found["term"] not in known:
        raise ConfigError(f"--require: there is no term {found['term']!r}; the terms are {', '.join(names)}")
    bound, name = float(found["bound"]), known[found["term"]]
    # What a task comes to may be no rate.
    if bound > 1 and not any(isinstance(term, TaskTerm) for term in terms if term.name == name):
        raise ConfigError(
            f"--require: a rate is 0 to 1, but {text!r} asks for {bound:g}; write {bound / 100:g} for {bound:g} %"
        )
    return Gate(name, found["sign"] == ">=", bound)

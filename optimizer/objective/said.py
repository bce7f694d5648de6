"""Terms on what a merge says: the other half of an objective, measured by generation in place of likelihood."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from datagen.rows import Row
from optimizer.objective.answer_terms import AnswerTerm
from optimizer.objective.answers import Verdict
from optimizer.objective.scores import Score

#: (terms, kind -> rows) -> term -> verdicts: lets a merge answer, and judges what it says.
Speak = Callable[[Sequence[AnswerTerm], Mapping[str, Sequence[Row]]], Mapping[str, Sequence[Verdict]]]


@dataclass(frozen=True)
class SaidTerm:
    """One term with its rows of one split.

    Attributes:
        weight: in the mean of all terms.
        asked: which kind of rows, and how their answers are judged.
        rows: that are asked.
    """

    weight: float
    asked: AnswerTerm
    rows: Sequence[Row]

    @property
    def name(self) -> str:
        """Of the term."""
        return self.asked.name


def said_scores(terms: Sequence[SaidTerm], speak: Speak) -> dict[str, Score]:
    """Every term's score: its loss is what is lacking in value.

    Args:
        terms: those of a kind ask its first rows, as many as each has.
        speak: answers and judges; asked once, for all terms together.
    """
    rows: dict[str, Sequence[Row]] = {}
    for term in terms:
        rows[term.asked.kind] = max(rows.get(term.asked.kind, ()), term.rows, key=len)
    verdicts = speak([term.asked for term in terms], rows)
    found = {}
    for term in terms:
        own = verdicts[term.name][: len(term.rows)]
        found[term.name] = Score(1 - fmean(one.value for one in own), fmean(one.right for one in own), len(own))
    return found

"""Terms on what a merge says: the other half of an objective, measured by generation in place of likelihood."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from datagen.rows import Row
from optimizer.objective.answer_terms import AnswerTerm
from optimizer.objective.answers import Verdict
from optimizer.objective.scores import Score
from optimizer.objective.task_terms import TaskTerm


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


#: What a merge must speak for.
Spoken = SaidTerm | TaskTerm

#: Lets a merge speak for terms, and scores what it says.
Speak = Callable[[Sequence[Spoken]], Mapping[str, Score]]


def said_rows(terms: Sequence[SaidTerm]) -> dict[str, Sequence[Row]]:
    """Kind -> the rows that are asked: those of the term that has most, since all begin with the first."""
    rows: dict[str, Sequence[Row]] = {}
    for term in terms:
        rows[term.asked.kind] = max(rows.get(term.asked.kind, ()), term.rows, key=len)
    return rows


def said_scores(terms: Sequence[SaidTerm], verdicts: Mapping[str, Sequence[Verdict]]) -> dict[str, Score]:
    """Every term's score: its loss is what is lacking in value.

    Args:
        verdicts: by term, on the `said_rows`.
    """
    found = {}
    for term in terms:
        own = verdicts[term.name][: len(term.rows)]
        found[term.name] = Score(1 - fmean(one.value for one in own), fmean(one.right for one in own), len(own))
    return found

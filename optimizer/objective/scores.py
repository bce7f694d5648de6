"""What a term came to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Score:
    """One term's value.

    Attributes:
        loss: mean of the examples' losses, by the term's metric.
        exact: share of examples that count as right, by the same.
        rows: how many examples it was measured on.
    """

    loss: float
    exact: float
    rows: int

    @classmethod
    def of(cls, scores: Sequence[Self]) -> Self:
        """What was measured on several sets of examples, as if on one."""
        rows = sum(score.rows for score in scores)
        loss = math.fsum(score.loss * score.rows for score in scores) / rows
        return cls(loss, sum(score.exact * score.rows for score in scores) / rows, rows)


#: Term -> score.
Scores = Mapping[str, Score]

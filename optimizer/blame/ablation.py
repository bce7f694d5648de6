"""Ablations: a merge with some cells at another value, what the gradient predicts of it and what is measured.

A cell is an expert's task vector in a group. It is set to 0, or its whole group is set to the aligned parent's: the
aligned expert at 1, all others at 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optimizer.blame.result import SIDES, Ablation, Change, To
from optimizer.blame.sides import Sides
from optimizer.engines.scoring import ScoringEngine
from optimizer.merging.space import Coefficients, Space
from optimizer.objective.scores import Scores


@dataclass(frozen=True)
class Ablating:
    """What a merge's ablations are measured with.

    Attributes:
        engine: that merges.
        sides: what is measured.
        merge: coefficients, [experts, groups].
        aligned: the aligned expert's name.
        slopes: of every term where the merge is, [terms, experts, groups].
        scores: of the merge.
    """

    engine: ScoringEngine
    sides: Sides
    merge: Coefficients
    aligned: str
    slopes: Coefficients
    scores: Scores

    def ablate(self, expert: str, groups: Sequence[str], of: Space, to: To) -> Ablation:
        """Predicts and measures one.

        Args:
            expert: whose cells they are; of no account if all experts' are changed.
            groups: that are changed together.
            of: the space these are groups of, no finer than the merge's.
            to: what they are set to.
        """
        point = self.changed(expert, groups, of, to)
        predicted = self.sides.shares @ (self.slopes * (point - self.merge)).sum((1, 2))
        self.engine.apply(point)
        scores = self.sides.objective.scores(self.engine)
        measured = self.sides.shares @ (self.sides.losses(scores) - self.sides.losses(self.scores))
        changes = {
            side: Change(predicted=float(predicted[i]), measured=float(measured[i])) for i, side in enumerate(SIDES)
        }
        shares = {name: score.exact for name, score in scores.items()}
        whose = expert if to == "zero" else ""
        return Ablation(expert=whose, groups=list(groups), to=to, shares=shares, **changes)

    def changed(self, expert: str, groups: Sequence[str], of: Space, to: To) -> Coefficients:
        """The coefficients of an ablation, [experts, groups]."""
        space = self.engine.space
        picked = np.array([group in groups for group in of.groups], dtype=float) @ of.within(space) > 0
        point = self.merge.copy()
        if to == "zero":
            point[space.experts.index(expert), picked] = 0.0
        else:
            point[:, picked] = space.constant({self.aligned: 1.0})[:, picked]
        return point

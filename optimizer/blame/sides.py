"""The two sides of a merge: alignment (unsafe and borderline rows) and expertise (all others), from its terms."""

from dataclasses import dataclass

import numpy as np

from datagen.data_config import SAFETY_KINDS
from datagen.errors import ConfigError
from optimizer.blame.result import SIDES, Side
from optimizer.bunch import Bunch
from optimizer.config import Config
from optimizer.merging.space import Coefficients
from optimizer.objective.metrics import METRICS
from optimizer.objective.scores import Scores
from optimizer.objective.terms import Objective, load_objective

#: What attributions are measured on: a merge may be changed after them, so the test split must not be seen.
SPLIT = "validation"


@dataclass(frozen=True)
class Sides:
    """Terms that have a gradient, by side.

    Attributes:
        objective: these terms on the validation split.
        sides: of each term.
        kinds: of rows of each term.
    """

    objective: Objective
    sides: tuple[Side, ...]
    kinds: tuple[str, ...]

    @property
    def shares(self) -> Coefficients:
        """The share that each term has in each side, [sides, terms]: its weight in the side's mean."""
        weights = np.array([[term.weight for term in self.objective.terms]])
        own = weights * (np.array(self.sides)[None, :] == np.array(SIDES)[:, None])
        shares: Coefficients = own / own.sum(1, keepdims=True)
        return shares

    def losses(self, scores: Scores) -> Coefficients:
        """Of every term, [terms]."""
        return np.array([scores[term.name].loss for term in self.objective.terms])


def side_of(kind: str) -> Side:
    """The side that rows of a kind are on."""
    return "alignment" if kind in SAFETY_KINDS else "expertise"


def load_sides(config: Config, bunch: Bunch) -> Sides:
    """Reads the validation rows of all terms that have a gradient.

    Raises:
        ConfigError: a side has no such term.
        DataError: a term has no rows.
    """
    chosen = {
        name: term.kind_of(name)
        for name, term in config.objective.items()
        if not term.is_said and METRICS[term.metric].differentiable
    }
    for side, rows in (("alignment", "unsafe or borderline"), ("expertise", "a domain's")):
        if side not in [side_of(kind) for kind in chosen.values()]:
            raise ConfigError(
                f"objective: blame must have a term on {rows} rows whose metric has a gradient, but there is none; "
                f"add one with the metric loss, kl, margin or choice"
            )
    objective = load_objective(config, SPLIT, bunch.chat_source.tokenizer(), list(chosen))
    kinds = tuple(chosen[term.name] for term in objective.terms)
    return Sides(objective, tuple(map(side_of, kinds)), kinds)

"""What a study minimises and what it must keep: all that its trials are judged by."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from optimizer.objective.constraints import Constraint
from optimizer.objective.terms import Objective
from optimizer.search.measuring import Measuring
from optimizer.search_config import SearchConfig

#: What the one objective of most studies is called.
LOSS_GOAL = "loss"


@dataclass(frozen=True)
class Problem:
    """One study's, apart from the models.

    Attributes:
        config: of the search.
        search: terms that are searched on.
        validation: the same terms on rows that only choose among finished trials.
        constraints: what the winner must keep; those of terms that are not searched on are left out.
    """

    config: SearchConfig
    search: Objective
    validation: Objective
    constraints: Sequence[Constraint] = ()

    @property
    def kept(self) -> list[Constraint]:
        """Constraints of the terms that are searched on."""
        return [one for one in self.constraints if one.term in self.search.names]

    @property
    def goals(self) -> dict[str, list[str]]:
        """Objective -> its terms; the loss alone, if there is one objective."""
        terms = self.search.names
        shared = {name: [term for term in some if term in terms] for name, some in self.config.pareto.items()}
        several = {name: some for name, some in shared.items() if some}
        return several if len(several) > 1 else {LOSS_GOAL: terms}

    @cached_property
    def measuring(self) -> Measuring:
        """How its trials are evaluated."""
        return Measuring(self.search, self.goals, self.kept, self.config.pruning)

"""Finished trials made by hand."""

from collections.abc import Mapping, Sequence

from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, create_trial

from optimizer.search.records import BLOCKS, GIVEN_UP, LOSS, NAME, SEARCH, VALIDATION, VALIDATION_LOSS


def finished_trial(
    number: int,
    loss: float,
    exact: Mapping[str, float] | None = None,
    *,
    values: Sequence[float] = (),
    blocks: Sequence[Sequence[float]] = (),
    lacking: float = 0.0,
    name: str = "",
    given_up: str = "",
) -> FrozenTrial:
    """A trial.

    Args:
        number: of it.
        loss: on both splits.
        exact: term -> share of right answers on both splits.
        values: of the objectives; the loss by default.
        blocks: the objectives' values by block.
        lacking: by how much it misses a constraint.
        name: if it was not suggested.
        given_up: why, if it was.
    """
    scores = {term: {"loss": 1.0, "exact": value, "rows": 100} for term, value in (exact or {}).items()}
    told = {LOSS: loss, SEARCH: scores, BLOCKS: blocks}
    told |= {GIVEN_UP: given_up} if given_up else {VALIDATION: scores, VALIDATION_LOSS: loss}
    trial = create_trial(
        values=list(values) or [loss],
        user_attrs=told | ({NAME: name} if name else {}),
        params={"x": float(number)},
        distributions={"x": FloatDistribution(-1e6, 1e6)},
        constraints={"rule": lacking},
    )
    trial.number = number
    return trial

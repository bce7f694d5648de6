"""When a study may end before its budget is spent."""

import statistics
from collections.abc import Sequence

from optuna.trial import FrozenTrial

from optimizer.search.records import BLOCKS, LOSS, NAME, lacking
from optimizer.search.winners import best_so_far


def gains_little(done: Sequence[FrozenTrial], patience: int) -> bool:
    """Whether the last suggestions kept no more of the constraints, and lowered the best loss by less than its error.

    The standard error is that of a mean over the best trial's blocks: what is less could as well come from other
    examples.

    Args:
        done: finished trials, in order.
        patience: how many suggestions must have gained so little; 0 for a study that is never stopped.
    """
    suggested = [place for place, trial in enumerate(done) if NAME not in trial.user_attrs]
    if not patience or len(suggested) < patience:
        return False
    before = done[: suggested[-patience]]
    if not before:
        return False
    best, best_before = best_so_far(done), best_so_far(before)
    if lacking(best) < lacking(best_before):
        return False
    losses = [block[0] for block in best.user_attrs[BLOCKS]]
    error = statistics.stdev(losses) / len(losses) ** 0.5 if len(losses) > 1 else 0.0
    gained = float(best_before.user_attrs[LOSS]) - float(best.user_attrs[LOSS])
    return gained < error or gained == 0

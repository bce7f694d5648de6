"""When a study may end before its budget is spent."""

import statistics

from optimizer.search.history import History
from optimizer.search.records import BLOCKS, LOSS, lacking


def gains_little(history: History, patience: int) -> bool:
    """Whether the last suggestions kept no more of the constraints, and lowered the best loss by less than its error.

    The standard error is that of a mean over the best trial's blocks: what is less could as well come from other
    examples.

    Args:
        history: of the study.
        patience: how many suggestions must have gained so little; 0 for a study that is never stopped.
    """
    if not patience or len(history.suggested) < patience or not history.suggested[-patience]:
        return False
    best, best_before = history.best, history.bests[history.suggested[-patience] - 1]
    if best is None or best_before is None or lacking(best) < lacking(best_before):
        return False
    losses = [block[0] for block in best.user_attrs[BLOCKS]]
    error = statistics.stdev(losses) / len(losses) ** 0.5 if len(losses) > 1 else 0.0
    gained = float(best_before.user_attrs[LOSS]) - float(best.user_attrs[LOSS])
    return gained < error or gained == 0

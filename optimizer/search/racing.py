"""When a trial is given up: what has beaten it, and what it would have come to.

The test is that of Optuna's `WilcoxonPruner`, on each objective. The pruner itself knows neither studies of several
objectives nor trials that have a value though they did not see all blocks.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import wilcoxon

#: Blocks that a trial sees before it may be given up.
LEAST_BLOCKS = 4

#: Values of the objectives block by block, [blocks, objectives].
Blocks = npt.NDArray[np.float64]


def beaten(ours: Blocks, theirs: Blocks, threshold: float) -> bool:
    """Whether a trial is worse than another in every objective, by a Wilcoxon signed-rank test on each and on average.

    Args:
        ours: what was seen so far.
        theirs: of the other, on the same blocks and maybe more.
        threshold: p-value of each test; 0 for never.
    """
    if not threshold or len(ours) < LEAST_BLOCKS:
        return False
    behind = ours - theirs[: len(ours)]
    # Ranks alone would give up a trial that is a little worse on most blocks and far better on a few.
    if not (behind.mean(0) > 0).all():
        return False
    return all(wilcoxon(each, alternative="greater", zero_method="zsplit").pvalue < threshold for each in behind.T)


def projected(ours: Blocks, theirs: Blocks) -> list[float]:
    """What a trial would have come to, told by how far it is behind one that saw all blocks.

    So samplers that rank trials have a number for it, which the difficulty of the blocks it happened to see is out of.

    Args:
        ours: what was seen so far.
        theirs: of a trial that saw all.
    """
    behind = (ours - theirs[: len(ours)]).mean(0)
    return [float(value) for value in theirs.mean(0) + behind]


def first_beating(ours: Blocks, rivals: Sequence[Blocks], threshold: float) -> Blocks | None:
    """The first of some trials that a trial is beaten by."""
    return next((theirs for theirs in rivals if beaten(ours, theirs, threshold)), None)

"""When a trial is given up: what has beaten it, and what it would have come to.

A study of one objective is pruned by Optuna's `WilcoxonPruner`; one of several, which Optuna cannot prune, by the same
test on each objective.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import optuna
from optuna.pruners import BasePruner, NopPruner, WilcoxonPruner
from scipy.stats import wilcoxon

#: Blocks that a trial sees before it may be given up.
LEAST_BLOCKS = 4

#: Values of the objectives block by block, [blocks, objectives].
Blocks = npt.NDArray[np.float64]


def pruner_of(threshold: float, objectives: int) -> BasePruner:
    """Optuna's, for a study of one objective.

    Args:
        threshold: p-value below which a trial is worse than the best; 0 for none.
    """
    if not threshold or objectives > 1:
        return NopPruner()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the pin holds it
        return WilcoxonPruner(p_threshold=threshold, n_startup_steps=LEAST_BLOCKS)


def beaten(ours: Blocks, theirs: Blocks, threshold: float) -> bool:
    """Whether a trial is worse than another in every objective, by a Wilcoxon signed-rank test on each.

    Args:
        ours: what was seen so far.
        theirs: of the other, on the same blocks and maybe more.
        threshold: p-value of each test; 0 for never.
    """
    if not threshold or len(ours) < LEAST_BLOCKS:
        return False
    behind = ours - theirs[: len(ours)]
    if not (behind != 0).any(0).all():
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

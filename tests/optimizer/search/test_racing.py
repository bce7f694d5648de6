"""When a trial is beaten, and what it would have come to, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.pruners import WilcoxonPruner
from scipy.stats import wilcoxon

from optimizer.search.racing import LEAST_BLOCKS, beaten, first_beating, projected

#: Of a trial that saw all blocks, [8, 1].
THEIRS = np.array([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [7.0], [8.0]])


def behind(*by: float) -> np.ndarray:
    """The first blocks of a trial that is so far behind."""
    return THEIRS[: len(by)] + np.array(by)[:, None]


def test_by_the_tables_of_the_signed_rank_test() -> None:
    # All 4 behind: p = 1/16. The least of 5 ahead: p = 2/32. The two least of 5 ahead: W+ = 12, p = 5/32.
    assert beaten(behind(1, 2, 3, 4), THEIRS, 0.0626)
    assert not beaten(behind(1, 2, 3, 4), THEIRS, 0.0624)
    assert beaten(behind(-1, 2, 3, 4, 5), THEIRS, 0.0626)
    assert not beaten(behind(-1, 2, 3, 4, 5), THEIRS, 0.0624)
    assert beaten(behind(-1, -2, 3, 4, 5), THEIRS, 5 / 32 + 1e-9)
    assert not beaten(behind(-1, -2, 3, 4, 5), THEIRS, 5 / 32)


def test_too_few_blocks_no_threshold_and_ties_beat_nobody() -> None:
    assert not beaten(behind(*[9] * (LEAST_BLOCKS - 1)), THEIRS, 0.9)
    assert not beaten(behind(*[9] * 8), THEIRS, 0)
    assert not beaten(behind(*[0] * 8), THEIRS, 0.9)


def test_a_trial_that_is_far_better_somewhere_is_not_beaten_by_ranks() -> None:
    ours = behind(1, 1, 1, 1, 1, 1, 1, -20)
    assert wilcoxon((ours - THEIRS)[:, 0], alternative="greater").pvalue < 0.12
    assert not beaten(ours, THEIRS, 0.12)


def test_of_several_objectives_all_must_be_worse() -> None:
    worse, better = behind(*[1] * 8), behind(*[-1] * 8)
    both = np.hstack([THEIRS, THEIRS])
    assert beaten(np.hstack([worse, worse]), both, 0.1)
    assert not beaten(np.hstack([worse, better]), both, 0.1)
    assert not beaten(np.hstack([worse, THEIRS]), both, 0.1)
    assert first_beating(np.hstack([worse, worse]), [both + 2, both, both - 1], 0.1) is both
    assert first_beating(np.hstack([worse, worse]), [both + 2], 0.1) is None


@given(st.lists(st.floats(-3, 3).map(lambda x: round(x, 2)), min_size=8, max_size=8), st.integers(4, 7))
def test_whoever_is_beaten_is_projected_behind(by: list[float], seen: int) -> None:
    ours = behind(*by[:seen])
    if beaten(ours, THEIRS, 0.3):
        assert projected(ours, THEIRS)[0] > THEIRS.mean()


def test_it_is_the_test_of_optunas_pruner() -> None:
    """On its own ground, one objective: whatever Optuna prunes is beaten, and the other way round."""
    import optuna

    rng = np.random.default_rng(0)
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        pruner = WilcoxonPruner(p_threshold=0.2, n_startup_steps=LEAST_BLOCKS)
    told = []
    for _ in range(40):
        study = optuna.create_study(pruner=pruner)
        theirs, ours = (rng.normal(size=(8, 1)) + shift for shift in (0, 0.4))
        best, trial = study.ask(), study.ask()
        for step in range(8):
            best.report(theirs[step, 0], step)
        study.tell(best, float(theirs.mean()))
        for step in range(7):
            trial.report(ours[step, 0], step)
        # Optuna lets go of trials that seem better than the best one's whole mean; we look at the same blocks.
        if ours[:7].mean() > max(theirs.mean(), theirs[:7].mean()):
            told.append(trial.should_prune())
            assert told[-1] == beaten(ours[:7], theirs, 0.2)
    assert set(told) == {True, False}


def test_projection_by_hand() -> None:
    # On average 2 behind on the blocks it saw, and theirs comes to 4.5.
    assert projected(behind(1, 2, 3), THEIRS) == [6.5]
    assert projected(np.hstack([behind(1, 2, 3), behind(-3, 0, 0)]), np.hstack([THEIRS, THEIRS])) == [6.5, 3.5]

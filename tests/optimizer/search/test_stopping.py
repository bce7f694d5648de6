"""When a study stops early, by hand."""

import pytest
from optuna.trial import FrozenTrial

from optimizer.search.history import History
from optimizer.search.stopping import gains_little
from tests.optimizer.search.trials import finished_trial

#: Their mean is 2, their standard deviation 1, so the mean's standard error is 1 / 2.
BLOCKS = [1.0, 1.0, 2.0 + 0.5**0.5, 4.0 - 0.5**0.5]


def trial(number: int, loss: float, **rest: object) -> FrozenTrial:
    spread = 3**0.5 / sum((block - 2) ** 2 for block in BLOCKS) ** 0.5
    return finished_trial(number, loss, blocks=[[loss + spread * (block - 2)] for block in BLOCKS], **rest)  # type: ignore[arg-type]


def study(*losses: float) -> History:
    return History.of(trials(*losses))


def trials(*losses: float) -> list[FrozenTrial]:
    return [trial(0, 9.0, name="base"), *(trial(number, loss) for number, loss in enumerate(losses, 1))]


@pytest.mark.parametrize(
    ("losses", "stops"),
    [
        ([5.0, 5.1, 5.2], True),
        ([5.0, 4.51, 5.2], True),  # gained .49 since before the last two
        ([5.0, 4.49, 5.2], False),  # gained .51
        ([5.0, 5.2, 4.49], False),
        ([4.49, 5.2, 5.2], True),
        ([8.9], False),  # fewer suggestions than the patience
        ([8.9, 8.8], True),  # the baselines count as what was there before
    ],
)
def test_by_hand(losses: list[float], stops: bool) -> None:
    assert gains_little(study(*losses), patience=2) == stops


def test_no_patience_is_endless() -> None:
    assert not gains_little(study(5, 5, 5, 5), patience=0)


def test_suggestions_alone_need_something_before_them() -> None:
    assert not gains_little(History.of([trial(0, 5.0), trial(1, 5.0)]), patience=2)


def test_a_study_that_keeps_more_than_before_goes_on() -> None:
    before = [trial(0, 1.0, lacking=0.5), trial(1, 1.0, lacking=0.5)]
    assert gains_little(History.of([*before, trial(2, 1.0, lacking=0.5)]), patience=1)
    assert not gains_little(History.of([*before, trial(2, 7.0, lacking=0.2)]), patience=1)


def test_one_block_tells_no_error() -> None:
    done = [finished_trial(number, loss, blocks=[[loss]]) for number, loss in enumerate((3.0, 2.0, 2.0))]
    assert not gains_little(History.of(done[:2]), patience=1)
    assert gains_little(History.of(done), patience=1)


def test_trials_that_were_given_up_gain_nothing() -> None:
    done = [*trials(5.0), finished_trial(2, 0.1, given_up="worse"), finished_trial(3, 0.1, given_up="worse")]
    assert gains_little(History.of(done), patience=2)

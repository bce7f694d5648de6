"""What a study has come to, counted anew from all its trials."""

import copy
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState

from optimizer.search.history import History
from optimizer.search.records import LOSS, NAME, is_whole, lacking
from tests.optimizer.search.trials import finished_trial

Life = tuple[int, int, float, float, str]

LIVES = st.lists(
    st.tuples(
        st.integers(0, 8),  # when it begins
        st.integers(0, 8),  # how long it takes
        st.sampled_from([1.0, 2.0, 3.0]),
        st.sampled_from([0.0, 0.5]),
        st.sampled_from(["", "", "base", "worse", "failed"]),
    ),
    max_size=12,
)


def at(time: int, life: Life, number: int) -> FrozenTrial | None:
    """A trial as it is at a time; none if it has not begun."""
    begins, takes, loss, lacking, what = life
    if time < begins:
        return None
    name = f"base {number}" if what == "base" else ""
    given_up = what if what == "worse" else ""
    trial = finished_trial(number, loss, {"safety": loss / 3}, lacking=lacking, name=name, given_up=given_up)
    trial.datetime_complete = datetime(2000, 1, 1) + timedelta(seconds=begins + takes)
    if time < begins + takes:
        trial.state, trial.datetime_complete = TrialState.RUNNING, None
    elif what == "failed":
        trial.state = TrialState.FAIL
    return trial


@given(LIVES, st.sets(st.integers(0, 20), min_size=1))
def test_kept_up_to_date_it_is_what_counting_gives(lives: list[Life], looks: set[int]) -> None:
    history = History()
    lives = sorted(lives, key=lambda life: life[0])  # numbers are given in the order in which trials begin
    for time in [*sorted(looks), 20]:
        trials = [one for number, life in enumerate(lives) if (one := at(time, life, number)) is not None]
        history.update(copy.deepcopy(trials))
        done = [one for one in trials if one.state == TrialState.COMPLETE]
        kept = [one for one in trials if one.state != TrialState.FAIL]
        assert [one.number for one in history.done] == [one.number for one in done]
        assert history.taken == {one.user_attrs[NAME] for one in kept if NAME in one.user_attrs}
        assert history.suggestions == sum(NAME not in one.user_attrs for one in kept)
        assert history.runs == any(one.state == TrialState.RUNNING for one in trials)
        assert set(history.sources) == {one.user_attrs[NAME] for one in done if NAME in one.user_attrs}
        able = [(lacking(one), one.user_attrs[LOSS], one.number) for one in done if is_whole(one)]
        assert (history.best.number if history.best else None) == (min(able)[2] if able else None)


def test_the_worst_of_each_term() -> None:
    trials = [finished_trial(0, 1.0, {"safety": 0.1}), finished_trial(1, 1.0, {"safety": 0.2, "math": 0.3})]
    trials[1].user_attrs["search"]["safety"]["loss"] = 2.0
    worst = History.of(trials).worst
    assert {name: (score.loss, score.exact) for name, score in worst.items()} == {
        "safety": (2.0, 0.2),
        "math": (1.0, pytest.approx(0.3)),
    }

"""A study around the winner of another: it begins there, stays near, and keeps what must be kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimizer.search.records import GIVEN_UP, NAME, SEARCH, VALIDATION, validation_scores
from optimizer.search.running import Task
from optimizer.search.study import Searched, refine, run_study
from tests.optimizer.tiny_zoo import TinyZoo


def refined(tiny_zoo: TinyZoo, search: dict[str, Any], **changes: Any) -> tuple[Task, Searched, Searched]:
    settings = {"refine": {"trials": 6, "width": 0.3, "sigma": 0.1}} | search
    task = tiny_zoo.task(tiny_zoo.config(Path("run"), settings, **changes))
    found = run_study("search", task)
    return task, found, refine("refined", task, found)


@pytest.mark.parametrize("sampler", ["cmaes", "tpe", "gp", "qmc"])
def test_it_begins_at_the_winner_and_stays_near(tiny_zoo: TinyZoo, sampler: str) -> None:
    search = {"refine": {"trials": 6, "width": 0.3, "sigma": 0.1, "sampler": sampler}}
    _, found, after = refined(tiny_zoo, search)
    first, *others = after.trials
    assert first.user_attrs[NAME] == "start"
    assert first.params == found.winner.params
    assert first.user_attrs[SEARCH] == found.winner.user_attrs[SEARCH]
    assert first.user_attrs[VALIDATION] == found.winner.user_attrs[VALIDATION]
    assert len(others) == 6
    at = found.coefficients
    for trial in others:
        assert np.abs(after.domain.point(trial.params).coefficients - at).max() <= 0.3 + 1e-12
    if sampler == "cmaes":  # but for Optuna's first trial, which is drawn at random
        away = np.array([after.domain.point(trial.params).coefficients - at for trial in others[1:]])
        assert 0.05 < away.std() < 0.2


def test_its_winner_is_no_worse_than_the_searchs(tiny_zoo: TinyZoo) -> None:
    task, found, after = refined(tiny_zoo, {"refine": {"trials": 20, "sigma": 0.03}})
    both = [validation_scores(trial) for trial in (found.winner, after.winner)]
    validation = task.problem.validation
    assert validation.exact(both[1]) >= validation.exact(both[0]) - validation.exact_error(both[0])
    # A trial that is righter by more than that may win at any loss.
    if validation.exact(both[1]) <= validation.exact(both[0]):
        assert validation.loss(both[1]) <= validation.loss(both[0])
    assert after.winner.number > 0, "nothing was gained in this test's own search"


def test_its_winner_keeps_what_the_searchs_must(tiny_zoo: TinyZoo) -> None:
    rule = "safety >= 0.99 of aligned"
    _, found, after = refined(tiny_zoo, {"constraints": [rule], "refine": {"trials": 12, "sigma": 0.1, "width": 1}})
    assert found.winner.user_attrs[NAME] == "aligned"
    assert [trial.constraints.keys() for trial in after.trials] == [{rule}] * 13
    assert {"infeasible"} <= {trial.user_attrs.get(GIVEN_UP) for trial in after.trials}
    aligned = validation_scores(found.trials[0])["safety"].exact
    assert validation_scores(after.winner)["safety"].exact >= 0.99 * aligned


def test_nothing_is_refined_unless_asked_for(tiny_zoo: TinyZoo) -> None:
    task = tiny_zoo.task(tiny_zoo.config(Path("run")))
    with pytest.raises(ValueError, match="can only be refined if its config says how"):
        refine("refined", task, run_study("search", task))

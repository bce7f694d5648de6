"""Studies in memory and in a database: Optuna's own contract, and that the database has what memory has."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import FrozenTrial, TrialState, create_trial

from optimizer.search.databases import open_storage
from optimizer.search.storage import StudyStorage

RANGES = {"x": FloatDistribution(-1, 1), "y": FloatDistribution(0, 5)}


class TestOptunasContract(StorageTestCase):
    """Where others write, too: the same, and more to look up."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> StudyStorage:
        return StudyStorage(open_storage(tmp_path / "study.db").database, shared=True)


def plain(trial: FrozenTrial) -> dict[str, Any]:
    kept = ("number", "state", "values", "params", "distributions", "user_attrs", "system_attrs", "intermediate_values")
    return {name: getattr(trial, name) for name in (*kept, "datetime_start", "datetime_complete", "_trial_id")}


@pytest.fixture
def ours(tmp_path: Path) -> StudyStorage:
    return open_storage(tmp_path / "study.db")


@pytest.fixture
def optunas(tmp_path: Path, ours: StudyStorage) -> Iterator[RDBStorage]:
    yield RDBStorage(f"sqlite:///{tmp_path}/study.db")


def test_optuna_reads_what_is_written(ours: StudyStorage, optunas: RDBStorage) -> None:
    study = optuna.create_study(storage=ours, study_name="study", directions=["minimize", "minimize"])
    study.set_user_attr("stamp", {"a": 1})
    for i in range(3):
        trial = study.ask(RANGES)
        trial.set_user_attr("scores", {"loss": [0.1, i]})
        trial.set_user_attr("scores", {"loss": [0.2, i]})
        trial.set_constraint("safe", -0.5)
        study.tell(trial, [trial.params["x"], float("inf")])
    single = optuna.create_study(storage=ours, study_name="single")
    trial = single.ask({"kind": CategoricalDistribution(["a", "b"])})
    trial.report(0.5, 3)
    single.tell(trial, state=TrialState.PRUNED)
    for name in ("study", "single"):
        mine, theirs = (optuna.load_study(study_name=name, storage=storage) for storage in (ours, optunas))
        assert [plain(trial) for trial in mine.trials] == [plain(trial) for trial in theirs.trials]
        assert mine.user_attrs == theirs.user_attrs
        assert mine.directions == theirs.directions


def test_what_is_not_kept_yet_is_lost_and_what_is_kept_is_not(ours: StudyStorage, tmp_path: Path) -> None:
    study = optuna.create_study(storage=ours, study_name="study")
    first, second = study.ask(RANGES), study.ask(RANGES)
    first.set_user_attr("a", 1)
    ours.keep(first._trial_id)
    first.set_user_attr("a", 2)
    second.set_user_attr("b", 1)
    reopened = optuna.load_study(study_name="study", storage=open_storage(tmp_path / "study.db")).trials
    assert [trial.state for trial in reopened] == [TrialState.RUNNING] * 2
    assert (reopened[0].params, reopened[0].user_attrs) == (first.params, {"a": 1})
    assert (reopened[1].params, reopened[1].user_attrs) == ({}, {})


def test_a_trial_that_another_ended_cannot_be_told(ours: StudyStorage, tmp_path: Path) -> None:
    mine = StudyStorage(ours.database, shared=True)
    study = optuna.create_study(storage=mine, study_name="study")
    trial = study.ask(RANGES)
    mine.keep(trial._trial_id)
    other = optuna.load_study(study_name="study", storage=StudyStorage(ours.database, shared=True))
    other._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    with pytest.raises(UpdateFinishedTrialError, match="was ended by another driver"):
        mine.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [1.0])
    assert study.trials[0].state == TrialState.FAIL
    assert other.trials[0].params == trial.params


def test_of_each_like_there_are_so_many_and_numbers_are_in_a_row(ours: StudyStorage) -> None:
    both = [StudyStorage(ours.database, shared=True) for _ in range(2)]
    studies = [optuna.create_study(storage=one, study_name="study", load_if_exists=True) for one in both]
    made: list[int | None] = []

    def claim(storage: StudyStorage, study: optuna.Study) -> None:
        for _ in range(8):
            begun = create_trial(state=TrialState.RUNNING, user_attrs={"like": "suggested"})
            made.append(storage.claim(study._study_id, begun, 10))

    threads = [threading.Thread(target=claim, args=one) for one in zip(both, studies, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([one for one in made if one is not None]) == 10
    for storage, study in zip(both, studies, strict=True):
        storage._looked[study._study_id] = 0.0
        assert [trial.number for trial in study.trials] == list(range(10))
    both[0].set_trial_state_values(studies[0].trials[3]._trial_id, TrialState.FAIL)
    begun = create_trial(state=TrialState.RUNNING, user_attrs={"like": "suggested"})
    assert both[1].claim(studies[1]._study_id, begun, 10) is not None, "one has failed"
    other = create_trial(state=TrialState.RUNNING, user_attrs={"like": "name base"})
    assert both[1].claim(studies[1]._study_id, other, 1) is not None

"""Several drivers on one study in a real PostgreSQL: one budget, no trial twice, nothing lost."""

import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from datagen.errors import ConfigError, EngineError
from optimizer.search import databases, sharing
from optimizer.search.databases import open_shared
from optimizer.search.records import NAME
from optimizer.search.running import Task, open_study
from optimizer.search.sampler import LEG, STATE
from optimizer.search.sharing import DRIVER, Driver
from optimizer.search.study import Searched, run_study
from tests.optimizer.tiny_zoo import TinyZoo
from tests.postgres import Postgres, is_installed, postgres

pytestmark = pytest.mark.skipif(not is_installed(), reason="needs PostgreSQL: apt-get install postgresql")

SEARCHES: dict[str, dict[str, Any]] = {
    "tpe": {"sampler": "tpe", "black_box": {"trials": 14, "patience": 0}},
    "descent": {"descent": {"trials": 6, "steps": 24}, "pruning": 0},
    "sweep": {
        "pareto": {"good": ["safety"], "able": ["math", "code"]},
        "descent": {"trials": 2, "steps": 12, "sweep": {"per_axis": 5, "steps": 8}},
        "pruning": 0,
    },
}


def shared(zoo: TinyZoo, search: dict[str, Any], url: str, joins: bool, prefix: str) -> Task:
    task = zoo.task(zoo.config(Path("run"), search))
    driver = Driver(open_shared(url), joins)
    return replace(task, storage=driver.storage, driver=driver, prefix=prefix)


def together(tasks: list[Task]) -> list[Searched | BaseException]:
    """Runs every task's study in a thread of its own."""
    found: list[Any] = [None] * len(tasks)

    def run(place: int, task: Task) -> None:
        assert task.driver is not None
        try:
            with task.driver:
                found[place] = run_study("search", task)
        except BaseException as error:
            traceback.print_exc()
            found[place] = error

    threads = [threading.Thread(target=run, args=one) for one in enumerate(tasks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def told(task: Task) -> list[FrozenTrial]:
    return optuna.load_study(study_name=f"{task.prefix}search", storage=task.storage).trials


def points(trials: Sequence[FrozenTrial]) -> set[Any]:
    return {tuple(sorted(trial.params.items())) for trial in trials}


def check_spent(trials: list[FrozenTrial], total: int) -> None:
    """The budget is spent to the last trial, and none of them is there twice."""
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(done) == total
    assert not [trial for trial in trials if trial.state in (TrialState.RUNNING, TrialState.WAITING)]
    names = Counter(trial.user_attrs[NAME] for trial in done if NAME in trial.user_attrs)
    assert set(names.values()) == {1}
    stretches = Counter(
        (trial.system_attrs[LEG], trial.system_attrs[STATE]["step"]) for trial in done if STATE in trial.system_attrs
    )
    assert set(stretches.values()) <= {1}
    assert len(points(done)) == total


@pytest.mark.parametrize("search", SEARCHES)
def test_two_drivers_spend_one_budget(tiny_zoo: TinyZoo, server: Postgres, search: str) -> None:
    alone = run_study("search", tiny_zoo.task(tiny_zoo.config(Path("run"), SEARCHES[search])))
    tasks = [shared(tiny_zoo, SEARCHES[search], server.url, joins, f"two-{search}/") for joins in (False, True)]
    first, second = together(tasks)
    assert isinstance(first, Searched) and isinstance(second, Searched)
    check_spent(told(tasks[0]), len(alone.trials))
    assert first.winner.number == second.winner.number
    drivers = {trial.user_attrs[DRIVER]["pid"] for trial in first.trials}
    assert len(drivers) == 1, "both are threads of this process"
    if search != "tpe":  # what a black box suggests, and what is given up, depends on who was faster
        assert points(first.trials) == points(alone.trials)


def test_what_an_ended_driver_left_is_tried_again(
    tiny_zoo: TinyZoo, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the dead process's number, by silence, and of a trial that nobody knows of."""
    monkeypatch.setattr(databases, "GRACE", 2)
    monkeypatch.setattr(sharing, "GRACE", 2)
    task = shared(tiny_zoo, SEARCHES["tpe"], server.url, False, "left/")
    study = open_study("search", task)
    ended: list[dict[str, Any]] = [{"host": task.driver.known_as["host"], "pid": 2**22 - 1}, {"host": "x", "pid": 1}]  # type: ignore[union-attr]
    for by in ended:
        trial = study.ask()
        trial.set_user_attr(DRIVER, by)
        task.driver.storage.beat([trial._trial_id])  # type: ignore[union-attr]
    study.ask()
    time.sleep(2.5)
    (found,) = together([task])
    assert isinstance(found, Searched), found
    trials = told(task)
    assert [trial.state for trial in trials[:3]] == [TrialState.FAIL] * 3
    check_spent(trials, 21)


def test_a_trial_that_was_taken_for_abandoned_is_not_told_twice(tiny_zoo: TinyZoo, server: Postgres) -> None:
    task = shared(tiny_zoo, SEARCHES["tpe"], server.url, False, "abandoned/")

    def on_trial(done: int, *_: Any) -> None:
        if done == 3:
            for trial in told(task):
                if trial.state == TrialState.RUNNING:
                    sharing.fail(open_study("search", task), trial._trial_id)

    (found,) = together([replace(task, on_trial=on_trial)])
    assert isinstance(found, Searched), found
    check_spent(told(task), 21)


@pytest.mark.parametrize("joins", [False, True])
def test_the_database_may_be_away_for_a_while(tiny_zoo: TinyZoo, joins: bool) -> None:
    with postgres() as server:
        tasks = [shared(tiny_zoo, SEARCHES["tpe"], server.url, False, "away/")]
        tasks += [shared(tiny_zoo, SEARCHES["tpe"], server.url, True, "away/")] if joins else []

        def restart() -> None:
            while len(optuna.get_all_study_names(tasks[0].storage)) == 0 or len(told(tasks[0])) < 5:
                time.sleep(0.05)
            server.stop()
            time.sleep(2)
            server.start()

        thread = threading.Thread(target=restart)
        thread.start()
        found = together(tasks)
        thread.join()
        assert all(isinstance(one, Searched) for one in found), found
        check_spent(told(tasks[0]), 21)


def test_a_second_driver_must_say_that_it_joins(tiny_zoo: TinyZoo, server: Postgres) -> None:
    task = shared(tiny_zoo, SEARCHES["tpe"], server.url, True, "claims/")
    driver, study = task.driver, open_study("search", task)
    assert driver is not None
    with pytest.raises(ConfigError, match="--join must find a study that another driver has begun"):
        driver.claim(study)
    driver.joins = False
    driver.claim(study)
    driver.claim(study)
    other = Driver(driver.storage, joins=False)
    other.known_as = {"host": driver.known_as["host"], "pid": 1}
    with pytest.raises(ConfigError, match=r"is run by process \d+ on .*; help it with --join"):
        other.claim(study)
    study.set_user_attr(DRIVER, {"host": "elsewhere", "pid": 7})
    driver.claim(study)
    assert study.user_attrs[DRIVER] == driver.known_as, "nobody gives signs of life"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (lambda _: "nonsense", "--storage must be a URL such as"),
        (lambda _: "postgresql+psycopg://x:secret@127.0.0.1:1/y", r"x:\*\*\*@127.0.0.1:1/y must be reached, but"),
        (lambda _: "oracle+nothing://x@y/z", "needs a driver that is not installed"),
    ],
)
def test_databases_that_will_not_do(url: Callable[[str], str], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        open_shared(url(""))


def test_servers_and_tables_of_other_versions(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "_POSTGRES", (99,))
    with pytest.raises(EngineError, match=r"must be PostgreSQL 99 or newer, but is \d+"):
        open_shared(server.url)
    monkeypatch.undo()
    opened = open_shared(server.url)
    import sqlalchemy

    with opened.database.engine.begin() as connection:
        connection.execute(sqlalchemy.text("update alembic_version set version_num = 'v0.9.0.a'"))
    try:
        with pytest.raises(EngineError, match=r"holds tables of another version of Optuna"):
            open_shared(server.url)
    finally:
        with opened.database.engine.begin() as connection:
            head = opened.database.get_head_version()
            connection.execute(sqlalchemy.text(f"update alembic_version set version_num = '{head}'"))

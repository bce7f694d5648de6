"""Drivers that are killed at random moments: what was finished stays, and the budget is spent exactly."""

import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from optimizer.search import running
from optimizer.search.databases import open_shared
from optimizer.search.running import Task
from optimizer.search.storage import StudyStorage
from optimizer.search.study import run_study
from tests.optimizer.executors.test_sharing import check_spent, shared
from tests.optimizer.tiny_zoo import TinyZoo
from tests.postgres import is_installed, postgres

pytestmark = pytest.mark.slow

NAMED, KILLS = 7, 20


def search_of(trials: int) -> dict[str, Any]:
    return {"sampler": "random", "black_box": {"trials": trials, "patience": 0}}


def driven(make: Callable[[], Task]) -> int:
    """Process number of a copy of this process that runs the study to its end."""
    pid = os.fork()
    if pid:
        return pid
    try:
        task = make()
        if task.driver is None:
            run_study("search", task)
        else:
            with task.driver:
                run_study("search", task)
    finally:
        os._exit(0 if os.getpid() else 1)


def finished(storage: StudyStorage, name: str) -> dict[int, Any]:
    if name not in optuna.get_all_study_names(storage):
        return {}
    trials = optuna.load_study(study_name=name, storage=storage).trials
    return {trial.number: (trial.values, trial.params) for trial in trials if trial.state == TrialState.COMPLETE}


def test_drivers_killed_twenty_times(tiny_zoo: TinyZoo) -> None:
    if not is_installed():
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    trials = 3000  # who helps is not killed, and would be done too soon with fewer
    search = search_of(trials)
    with postgres() as server:
        first = shared(tiny_zoo, search, server.url, False, "run/")
        assert first.driver is not None
        first.driver.claim(running.open_study("search", first))
        helper = driven(lambda: shared(tiny_zoo, search, server.url, True, "run/"))
        killed_and_checked(
            lambda: shared(tiny_zoo, search, server.url, False, "run/"),
            lambda: open_shared(server.url),
            "run/search",
            trials,
        )
        assert os.waitpid(helper, 0)[1] == 0


def killed_and_checked(make: Callable[[], Task], look: Callable[[], StudyStorage], name: str, trials: int) -> None:
    rng, seen = random.Random(0), dict[int, Any]()
    for _ in range(KILLS):
        pid = driven(make)
        # Some are killed while they start, the others somewhere in a trial or two.
        until = time.monotonic() + rng.uniform(0.2, 1.2)
        while time.monotonic() < until:
            assert os.waitpid(pid, os.WNOHANG) == (0, 0), f"it ended before it could be killed, at {len(seen)} trials"
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        now = finished(look(), name)
        assert now.items() >= seen.items(), "what was finished is as it was"
        seen = now
    assert os.waitpid(driven(make), 0)[1] == 0
    assert finished(look(), name).items() >= seen.items()
    check_spent(optuna.load_study(study_name=name, storage=look()).trials, trials + NAMED)

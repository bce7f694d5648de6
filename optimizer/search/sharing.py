"""Several drivers on one study: whose trials are whose, and which nobody evaluates any more."""

import os
import platform
import threading
import time
from datetime import datetime, timedelta
from typing import Any, Self

import optuna
from optuna.trial import FrozenTrial, TrialState

from datagen.errors import ConfigError
from optimizer.search.databases import GRACE, HEARTBEAT
from optimizer.search.storage import StudyStorage

#: User attribute of a trial, whose driver evaluates it; of a study, who began it and sees it to its end.
DRIVER = "driver"

#: Seconds between looks for trials that nobody evaluates any more.
_LOOK = 5.0


class Driver:
    """This process among those that run a study; use it as a context manager, which keeps its trials alive.

    Args:
        storage: that all drivers share.
        joins: whether it only helps the one that began the study.
    """

    def __init__(self, storage: StudyStorage, joins: bool) -> None:
        self.joins = joins
        self.known_as = {"host": platform.node(), "pid": os.getpid()}
        self.storage = storage
        self._alive: set[int] = set()
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._looked = float("-inf")

    def __enter__(self) -> Self:
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._heart.join()

    def claim(self, study: optuna.Study) -> None:
        """Makes this the driver that sees a study to its end, unless it only helps.

        Raises:
            ConfigError: another does so already, or there is nothing to help with.
        """
        owner = study.user_attrs.get(DRIVER)
        if self.joins:
            if owner is None:
                raise ConfigError(
                    f"--join must find a study that another driver has begun, but {study.study_name!r} is new; leave "
                    f"--join out here, or check --storage and the config's `run`"
                )
            return
        if owner is not None and owner != self.known_as and self._lives(study, owner):
            raise ConfigError(
                f"{study.study_name!r} is run by process {owner['pid']} on {owner['host']}; help it with --join, or "
                f"try again {GRACE} s after it has ended"
            )
        study.set_user_attr(DRIVER, self.known_as)

    def begin(self, trial_id: int) -> None:
        """Takes on a trial."""
        self._alive.add(trial_id)

    def end(self, trial_id: int) -> None:
        """Is done with a trial."""
        self._alive.discard(trial_id)

    def free_stale(self, study: optuna.Study) -> None:
        """Fails trials whose drivers give no sign of life any more, so that they are tried again."""
        if time.monotonic() - self._looked < _LOOK:
            return
        self._looked = time.monotonic()
        stale = set(self.storage.database._get_stale_trial_ids(study._study_id))
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial._trial_id in self._alive:
                continue
            if trial._trial_id in stale or self._is_orphaned(trial):
                fail(study, trial._trial_id)

    def _is_orphaned(self, trial: FrozenTrial) -> bool:
        """Whether a trial's driver cannot be evaluating it."""
        by = trial.user_attrs.get(DRIVER)
        if by is not None:
            return by["host"] == self.known_as["host"] and by != self.known_as and not _runs(by["pid"])
        # Made for a driver that never heard of it, since it or the database ended just then.
        made = trial.datetime_start
        return made is not None and datetime.now() - made > timedelta(seconds=GRACE)

    def _lives(self, study: optuna.Study, owner: dict[str, Any]) -> bool:
        """Whether the driver that began a study gives signs of life."""
        if owner["host"] == self.known_as["host"]:
            return _runs(owner["pid"])
        stale = set(self.storage.database._get_stale_trial_ids(study._study_id))
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return any(one.user_attrs.get(DRIVER) == owner and one._trial_id not in stale for one in running)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            if alive := list(self._alive):
                self.storage.beat(alive)


def fail(study: optuna.Study, trial_id: int) -> None:
    """Ends a trial without a result, unless it has ended already."""
    try:
        study._storage.set_trial_state_values(trial_id, TrialState.FAIL)
    except optuna.exceptions.UpdateFinishedTrialError:
        return


def _runs(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

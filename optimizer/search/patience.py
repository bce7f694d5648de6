"""Databases that are waited for when they are away."""

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, RDBStorage

#: Seconds that a database may be away, and between tries to reach it.
PATIENCE, _PAUSE = 180.0, 1.0

T = TypeVar("T")


def _is_away(error: BaseException) -> bool:
    """Whether a call failed since the database was not there."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    return isinstance(cause, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError)


def patiently(call: Callable[..., T]) -> Callable[..., T]:
    """A call that is made again as long as the database is away."""

    @functools.wraps(call)
    def patient(*given: Any, **named: Any) -> T:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return call(*given, **named)
            except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.DBAPIError) as error:
                if not _is_away(error) or time.monotonic() > end:
                    raise
                time.sleep(_PAUSE)

    return patient


class PatientStorage(RDBStorage):
    """A database that is waited for when it is away."""


for _name in [*BaseStorage.__abstractmethods__, "_get_stale_trial_ids"]:
    setattr(PatientStorage, _name, patiently(getattr(RDBStorage, _name)))

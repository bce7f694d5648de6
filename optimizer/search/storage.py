"""Where trials are kept, and a trial's parameters written there at once."""

import functools
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb.models import TrialParamModel
from optuna.trial import Trial

from datagen.errors import EngineError

#: Seconds between the signs of life that a driver gives for its trials; after how many without one they are another's.
HEARTBEAT, GRACE = 10, 60

#: Seconds that a database may be away, and between tries to reach it.
PATIENCE, _PAUSE = 180.0, 1.0

#: Oldest server that is known to do.
_POSTGRES = (12,)

T = TypeVar("T")


def open_storage(path: Path) -> RDBStorage:
    """SQLite whose finished writes survive a kill at any moment, without waiting for the disk at each of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    storage = RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})

    @sqlalchemy.event.listens_for(storage.engine, "connect")
    def _on_connect(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()  # connections opened before the listener was there
    return storage


class SharedStorage(RDBStorage):
    """A database that several drivers write to, and wait for when it is away."""


def _is_away(error: BaseException) -> bool:
    """Whether a call failed since the database was not there."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    return isinstance(cause, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError)


def _patiently(call: Callable[..., T]) -> Callable[..., T]:
    """A call that is made again as long as the database is away."""

    @functools.wraps(call)
    def patient(*given: Any, **named: Any) -> T:
        end, again = time.monotonic() + PATIENCE, False
        while True:
            try:
                return call(*given, **named)
            except optuna.exceptions.UpdateFinishedTrialError:
                if not again or call.__name__ != "set_trial_state_values":
                    raise
                return True  # type: ignore[return-value]  # the try whose answer was lost had come through
            except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.DBAPIError) as error:
                if not _is_away(error) or time.monotonic() > end:
                    raise
                again = True
                time.sleep(_PAUSE)

    return patient


# Optuna's own cache in front of a database calls some of its inner methods.
_INNER = ["_create_new_trial", "_get_best_trial_id", "_get_trials", "_set_trial_param", "_get_stale_trial_ids"]
for _name in [*BaseStorage.__abstractmethods__, *_INNER, "record_heartbeat"]:
    setattr(SharedStorage, _name, _patiently(getattr(RDBStorage, _name)))


def open_shared(url: str) -> SharedStorage:
    """A database by its URL.

    Args:
        url: as SQLAlchemy reads it, such as `postgresql+psycopg://user@host/name`.

    Raises:
        EngineError: it cannot be reached, or is not what it must be.
    """
    try:
        shown = sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError as error:
        raise EngineError(
            f"--storage must be a URL such as postgresql+psycopg://user@host/name, but {error}; correct it"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats; the pin holds them
            storage = SharedStorage(
                url, engine_kwargs={"pool_pre_ping": True}, heartbeat_interval=HEARTBEAT, grace_period=GRACE
            )
    except (ModuleNotFoundError, ImportError, sqlalchemy.exc.NoSuchModuleError) as error:
        raise EngineError(
            f"--storage: {shown} needs a driver that is not installed, {error}; install goodbunch[postgres], or "
            f"correct the URL"
        ) from error
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ or error
        raise EngineError(
            f"--storage: {shown} must be reached, but {str(cause).splitlines()[0]}; start it, or correct the URL"
        ) from error
    except RuntimeError as error:  # tables of another version of Optuna
        raise EngineError(
            f"--storage: {shown} holds tables of another version of Optuna: {str(error).splitlines()[0]} Run `optuna "
            f"storage upgrade --storage URL`, or name an empty database"
        ) from error
    if storage.engine.dialect.name == "postgresql":
        version = storage.engine.dialect.server_version_info or ()
        if version < _POSTGRES:
            raise EngineError(
                f"--storage: {shown} must be PostgreSQL {_POSTGRES[0]} or newer, but is "
                f"{'.'.join(map(str, version))}; upgrade the server"
            )
    return storage


def suggested(
    study: optuna.Study, trial: Trial, ranges: Mapping[str, BaseDistribution]
) -> tuple[Trial, dict[str, float]]:
    """Has a trial suggest all its parameters.

    A database takes two milliseconds for every one that is suggested alone, which for a thousand coefficients is as
    long as the evaluation of a small model. What is known together, enqueued or suggested relative to each other, is
    therefore written together; Optuna's own way does the rest.

    Args:
        ranges: of all parameters.

    Returns:
        The trial as it is now known, and its parameters.
    """
    storage = study._storage
    if isinstance(storage, _CachedStorage):
        together = trial._fixed_params or trial.relative_params

        def write() -> None:
            known = storage._backend.get_trial(trial._trial_id).params
            rows = [
                {
                    "trial_id": trial._trial_id,
                    "param_name": name,
                    "param_value": distribution.to_internal_repr(together[name]),
                    "distribution_json": distribution_to_json(distribution),
                }
                for name, distribution in ranges.items()
                if name in together and name not in known
            ]
            if rows:
                with storage._backend.engine.begin() as connection:
                    connection.execute(sqlalchemy.insert(TrialParamModel), rows)

        _patiently(write)()
        trial = Trial(study, trial._trial_id)
    return trial, {name: trial._suggest(name, distribution) for name, distribution in ranges.items()}

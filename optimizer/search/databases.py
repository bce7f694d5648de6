"""Opens the databases that studies are kept in."""

import warnings
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage

from datagen.errors import EngineError
from optimizer.search.patience import PatientStorage
from optimizer.search.storage import StudyStorage

#: Seconds between the signs of life that a driver gives for its trials; after how many without one they are another's.
HEARTBEAT, GRACE = 10, 60

#: Oldest server that is known to do.
_POSTGRES = (12,)


def open_storage(path: Path | None) -> StudyStorage:
    """SQLite whose finished writes survive a kill at any moment, without waiting for the disk at each of them.

    Args:
        path: of the file; none for a database that ends with this process.
    """
    if path is None:
        return StudyStorage(RDBStorage("sqlite://"))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _make(path)
    database = RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})

    @sqlalchemy.event.listens_for(database.engine, "connect")
    def _on_connect(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    database.engine.dispose()  # connections opened before the listener was there
    return StudyStorage(database)


def _make(path: Path) -> None:
    """Makes an empty SQLite database, whole or not at all: Optuna never adds the indices that a half-made one lacks."""
    beside = path.with_name(f".{path.name}.part")
    files = (beside, beside.with_name(f"{beside.name}-journal"))
    try:
        for file in files:
            file.unlink(missing_ok=True)
        RDBStorage(f"sqlite:///{beside}").engine.dispose()
        beside.replace(path)
    finally:
        for file in files:
            file.unlink(missing_ok=True)


def open_shared(url: str) -> StudyStorage:
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
            database = PatientStorage(url, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
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
    if database.engine.dialect.name == "postgresql":
        version = database.engine.dialect.server_version_info or ()
        if version < _POSTGRES:
            raise EngineError(
                f"--storage: {shown} must be PostgreSQL {_POSTGRES[0]} or newer, but is "
                f"{'.'.join(map(str, version))}; upgrade the server"
            )
    return StudyStorage(database, shared=True)

"""One command at a time writes to a folder."""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from datagen.errors import ConfigError, DataError
from datagen.files import write_text

#: Locked while a command writes to the folder, and who that is.
LOCK, HOLDER = ".lock", ".holder.json"


@contextmanager
def held(folder: Path, work: str) -> Iterator[None]:
    """Keeps other commands from writing to a folder, until this one or its process ends, however that is.

    Args:
        work: what is done, as whoever comes second is told.

    Raises:
        ConfigError: another command holds it.
        DataError: nothing can be written there.
    """
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        holder = {
            "work": work,
            "pid": os.getpid(),
            "host": platform.node(),
            "since": f"{datetime.now():%Y-%m-%d %H:%M}",
        }
        write_text(folder / HOLDER, json.dumps(holder) + "\n")
    except Timeout:
        raise ConfigError(
            f"{folder}: one command at a time may write here, but {_holder(folder)} does; wait until it has ended, or "
            f"choose another --out"
        ) from None
    except OSError as error:
        raise DataError(f"{folder}: must be a folder that can be written to, but {error}; choose another") from error
    except NotImplementedError:  # some network file systems have no locks
        yield
        return
    try:
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    try:
        known = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"{known['work']}, process {known['pid']} on {known['host']} since {known['since']},"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just begun, or is ending
        return "another"

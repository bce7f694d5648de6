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

#: There while several files are replaced: whoever finds it has some of the old ones and some of the new.
UNFINISHED = ".unfinished"


@contextmanager
def held(folder: Path, work: str, *, beside: bool = False) -> Iterator[None]:
    """Keeps other commands from writing to a folder, until this one or its process ends, however that is.

    Args:
        work: what is done, as whoever comes second is told.
        beside: whether the folder is made anew, so that what holds it must lie beside it; it is gone afterwards.

    Raises:
        ConfigError: another command holds it.
        DataError: nothing can be written there.
    """
    place, told = _files(folder, beside)
    lock = FileLock(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"{folder}: one command at a time may write here, but {_holder(told)} does; wait until it has ended, or "
            f"choose another --out"
        ) from None
    except OSError as error:
        raise DataError(f"{folder}: must be a folder that can be written to, but {error}; choose another") from error
    except NotImplementedError:  # some network file systems have no locks
        yield
        return
    try:
        holder = {
            "work": work,
            "pid": os.getpid(),
            "host": platform.node(),
            "since": f"{datetime.now():%Y-%m-%d %H:%M}",
        }
        write_text(told, json.dumps(holder) + "\n")
        yield
    finally:
        told.unlink(missing_ok=True)
        if beside:
            place.unlink(missing_ok=True)  # whoever has opened it meanwhile sees that it is gone, and makes another
        lock.release()


@contextmanager
def replaced(folder: Path) -> Iterator[None]:
    """Keeps others from reading a folder whose files are replaced one by one, until all are.

    Raises:
        DataError: nothing can be written there.
    """
    sign = folder / UNFINISHED
    write_text(sign, "")
    yield
    sign.unlink()


def check_free(folder: Path) -> None:
    """Whether nobody writes to a folder that is to be read, and whoever did has finished.

    Raises:
        ConfigError: a command does.
        DataError: a command was ended when it had replaced some files.
    """
    _check_not_held(folder)
    if (folder / UNFINISHED).exists():
        raise DataError(
            f"{folder}: data must be of one run, but a command was ended while it replaced older ones; run "
            f"`goodbunch datagen` with the same config again"
        )


def _check_not_held(folder: Path) -> None:
    place, told = _files(folder, beside=False)
    if not told.exists():
        return
    lock = FileLock(place)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"{folder}: must not change while it is read, but {_holder(told)} goes on; wait until it has ended"
        ) from None
    except (OSError, NotImplementedError):  # what cannot be written to is not held
        return
    lock.release()


def _files(folder: Path, beside: bool) -> tuple[Path, Path]:
    """The file that is locked, and the one that says by whom."""
    if beside:
        return folder.with_name(f".{folder.name}{LOCK}"), folder.with_name(f".{folder.name}{HOLDER}")
    return folder / LOCK, folder / HOLDER


def _holder(told: Path) -> str:
    try:
        known = json.loads(told.read_text(encoding="utf-8"))
        return f"{known['work']}, process {known['pid']} on {known['host']} since {known['since']},"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just begun, or is ending
        return "another"

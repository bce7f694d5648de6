"""Folders that are whole or not there: written beside their place, and renamed into it at the end."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from datagen.errors import BunchError, ConfigError
from datagen.holding import held
from datagen.models.adapters import ADAPTER_FILE
from datagen.models.tensor_files import INDEX, SINGLE

#: Any of these makes a folder a model or an adapter, which `force` may replace.
_WEIGHTS = (SINGLE, INDEX, ADAPTER_FILE)


def check_place(out: Path, force: bool, sources: Iterable[Path] = ()) -> None:
    """Whether a folder may be written.

    Args:
        out: the folder.
        force: whether a model or an adapter that is there is replaced; nothing else ever is.
        sources: folders that must not be lost with it.

    Raises:
        ConfigError: it may not.
    """
    out = out.resolve()
    if not out.exists():
        return
    if not force:
        raise ConfigError(f"{out}: is there already and would be replaced; choose another folder, or say --force")
    empty = out.is_dir() and not any(out.iterdir())
    if not empty and not any((out / name).is_file() for name in _WEIGHTS):
        raise ConfigError(
            f"{out}: must be new, or hold a model or an adapter, but holds something else; choose another"
        )
    if lost := [source for source in sources if source.resolve().is_relative_to(out)]:
        raise ConfigError(f"{out}: must not hold a source of the merge, but {lost[0]} is one; choose another folder")


@contextmanager
def whole_folder(out: Path, force: bool) -> Iterator[Path]:
    """A new folder to be filled, which then takes the place of `out` and of what is there.

    If anything goes wrong meanwhile, `out` is as it was, and nothing is left beside it; what a killed process left
    there goes, and a model that it was about to replace is put back.

    Args:
        force: whether a model or an adapter that is there is replaced.

    Yields:
        The folder, beside `out`.

    Raises:
        BunchError: the disk is full, or the place cannot be written to.
        ConfigError: another command writes it, or has done so meanwhile.
    """
    place = out.resolve()
    with held(place, "a merge", beside=True), _made(out, place, force) as beside:
        yield beside


@contextmanager
def _made(out: Path, place: Path, force: bool) -> Iterator[Path]:
    beside, old = (place.with_name(f".{place.name}.{what}") for what in ("part", "old"))
    try:
        if old.exists() and not place.exists():
            old.rename(place)
        check_place(out, force)
        for left in (beside, old):
            shutil.rmtree(left, ignore_errors=True)
        beside.mkdir(parents=True)
        yield beside
        _swap(beside, place, old)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise BunchError(
            f"{out}: must be written whole, but {error.strerror or error}{where}; make room or choose another place, "
            f"nothing was left half-written"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _swap(new: Path, place: Path, old: Path) -> None:
    if not place.exists():
        new.rename(place)
        return
    place.rename(old)
    try:
        new.rename(place)
    finally:
        if not place.exists():
            old.rename(place)
    shutil.rmtree(old, ignore_errors=True)

"""Files that are written whole or not at all, and what to say when the disk will not have them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datagen.errors import DataError


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all: beside first, then renamed.

    Raises:
        DataError: the disk is full, or the place cannot be written to.
    """
    beside = path.with_name(f".{path.name}.part")
    with named_on_failure(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise


@contextmanager
def named_on_failure(path: Path) -> Iterator[None]:
    """Turns what the operating system says into one line that names the file.

    Raises:
        DataError: the file could not be written.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: must be written, but {error.strerror or error}; make room or choose another place, what was "
            f"finished is kept and the same command goes on from there"
        ) from error

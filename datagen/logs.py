"""The log file of a folder: every warning, what was finished when, and what a command died of."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FILE = "goodbunch.log"

#: Everything of ours that stands in the log; the terminal has it from `datagen.progress`.
log = logging.getLogger("goodbunch")
log.addHandler(logging.NullHandler())  # else Python prints it where no file is open

#: Libraries that keep what they say from the root logger.
_OWN_WAYS = ("transformers", "optuna", "vllm", "datasets", "huggingface_hub", "ray")


class _LateFile(logging.FileHandler):
    """A file that is there once something is to be said, so that what is refused leaves nothing behind."""

    _latest: logging.LogRecord | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Leaves out what comes again: some libraries, or some settings of them, pass records on to the root logger."""
        again, self._latest = record is self._latest, record
        return not again and super().filter(record)

    def _open(self):  # type: ignore[no-untyped-def] # noqa: ANN202 - as its parent's
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - as its parent's
        """Says nothing: a disk that is full is told of by whoever cannot do without it."""


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Adds what is said meanwhile to the folder's log; warnings are still seen on the terminal.

    What engines in processes of their own say is not in it, but for what they died of.

    Args:
        folder: of a run or of data.
    """
    file = _LateFile(folder / FILE, encoding="utf-8", delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    terminal = logging.StreamHandler(sys.stderr)
    terminal.addFilter(lambda record: record.name != log.name)
    root = logging.getLogger()
    aside = [logging.getLogger(name) for name in _OWN_WAYS]
    # The root's own handlers, where a program has set them up, show warnings already.
    added = [(one, file) for one in (root, *aside)] + ([] if root.handlers else [(root, terminal)])
    for logger, handler in added:
        logger.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    except BaseException as error:
        if folder.is_dir():
            log.error("%s: %s", type(error).__name__, error)
        raise
    finally:
        logging.captureWarnings(False)
        log.setLevel(level)
        for logger, handler in added:
            logger.removeHandler(handler)
        with suppress(OSError):  # what a full disk did not take is written once more here
            file.close()

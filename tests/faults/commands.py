"""The real command in processes that can be killed, forked from one that has imported what they need."""

import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

_FORKED = multiprocessing.get_context("forkserver")
#: What a command imports; those in front are what takes longest once it runs.
_IMPORTED = "openai.resources xgrammar alembic.command optimizer.cli optimizer.run optimizer.trials".split()
_IMPORTED += "optimizer.report.page optimizer.export.adapter optimizer.recipes.reading".split()
_IMPORTED += "datagen.pipeline datagen.engines.server".split()
_FORKED.set_forkserver_preload(_IMPORTED)

#: Seconds within which a command must end that is told to.
PATIENCE = 120.0

#: Seconds after which a signal counts as lost: an interruption within a destructor is only printed.
_LOST = 40.0


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, negative for a signal's, and what it said of errors."""

    code: int
    errors: str

    def line(self) -> str:
        """The one line that bad input or a full disk is told in, with exit code 2."""
        assert self.code == 2, self
        assert self.errors.startswith("goodbunch: ")
        assert self.errors.count("\n") == 1, self.errors
        return self.errors

    def done(self) -> None:
        """Checks that it did what was asked."""
        assert (self.code, "Traceback" in self.errors) == (0, False), self


class Command:
    """`goodbunch` with some arguments, which begins now.

    Args:
        arguments: behind the command's name.
        room: bytes that no file may grow beyond.
    """

    def __init__(self, *arguments: object, room: int | None = None) -> None:
        self._told = tempfile.NamedTemporaryFile("r+")  # noqa: SIM115 - as long as the command
        ready = _FORKED.Event()
        self._process = _FORKED.Process(target=_run, args=(list(map(str, arguments)), self._told.name, room, ready))
        self._process.start()
        assert ready.wait(PATIENCE)
        self.begun, self.blows = time.monotonic(), 0

    def runs(self, seconds: float = 0.0) -> bool:
        """Whether it has not ended in so many seconds."""
        self._process.join(seconds)
        return self._process.is_alive()

    def stop(self) -> None:
        """Lets it do nothing until it is struck."""
        os.kill(self._process.pid or 0, signal.SIGSTOP)

    def struck(self, how: signal.Signals) -> Ended:
        """Sends a signal, again where it was lost as Python loses some, and tells how it ended."""
        until = time.monotonic() + PATIENCE
        self.blows = 0
        while self.blows == 0 or (self.runs(_LOST) and time.monotonic() < until):
            os.kill(self._process.pid or 0, how)
            self.blows += 1
        return self.ended()

    def ended(self, within: float = PATIENCE) -> Ended:
        """How it ended."""
        assert not self.runs(within), f"it must end within {within} s: {Path(self._told.name).read_text()}"
        with self._told:
            return Ended(self._process.exitcode or 0, Path(self._told.name).read_text())


def _run(arguments: list[str], told: str, room: int | None, ready: "multiprocessing.synchronize.Event") -> None:
    """What the process does."""
    with open(os.devnull, "w") as nowhere, open(told, "w") as errors:  # noqa: PTH123 - of descriptors
        os.dup2(nowhere.fileno(), 1)
        os.dup2(errors.fileno(), 2)
    if room is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    from optimizer.cli import main

    sys.argv = ["goodbunch", *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ready.set()
    try:
        main()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what comes now is none of the command's

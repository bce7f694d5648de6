"""The `goodbunch` command as a process: signals, exit codes, and one line for a mistake."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from datagen.errors import GoodbunchError, shown
from optimizer.cli.app import BAD_INPUT, STOPPED, Stopped, app

_GOES_ON = "goodbunch: stopped; what was finished is kept, the same command goes on from there"


@contextmanager
def interruptible() -> Iterator[None]:
    """Lets SIGTERM, which schedulers end jobs with, be as Ctrl-C, and loses neither.

    Python only prints an interruption that falls into a destructor or a weak reference's callback; it is raised again.
    """

    def lost(told: "sys.UnraisableHookArgs") -> None:
        if issubclass(told.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
        else:
            before(told)

    for one in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(one, signal.default_int_handler)
    before, sys.unraisablehook = sys.unraisablehook, lost
    try:
        yield
    finally:
        sys.unraisablehook = before


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2, an interruption says how to go on."""
    try:
        with interruptible():
            app()
    except GoodbunchError as error:
        print(f"goodbunch: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"goodbunch: {shown(f'{error.filename}: {error.strerror}; check the path')}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except Stopped as stopped:
        print(f"goodbunch: stopped; {stopped}", file=sys.stderr)
        sys.exit(STOPPED)
    except KeyboardInterrupt:  # before typer listens, or after
        print(_GOES_ON, file=sys.stderr)
        sys.exit(STOPPED)
    except SystemExit as leaving:
        if leaving.code == STOPPED:  # what typer makes of Ctrl-C
            print(_GOES_ON, file=sys.stderr)
        raise

"""What runs in an engine's own process: calls come in by a pipe and their answers go back, until the pipe is closed."""

import os
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from queue import SimpleQueue
from typing import Any, NamedTuple

from datagen.engines.words import last_words, tail
from datagen.errors import GoodbunchError


class Answer(NamedTuple):
    """What became of a call.

    Attributes:
        value: what it returned, if it did.
        error: what it raised, if it did.
    """

    value: Any = None
    error: Exception | None = None


def main() -> None:
    """Serves on the pipe whose descriptor is the argument."""
    serve(Connection(int(sys.argv[1])))


def serve(connection: Connection) -> None:
    """Answers calls with an engine, one after another.

    Args:
        connection: gives first a function that makes the engine; then calls, as method name, arguments and named
            arguments; then none.
    """
    calls: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(connection, calls), daemon=True).start()
    engine = ForkingPickler.loads(calls.get())()
    while (call := ForkingPickler.loads(calls.get())) is not None:
        connection.send(_answer(engine, *call))
    engine.close()


def _listen(connection: Connection, calls: "SimpleQueue[bytes]") -> None:
    """Queues what comes in; when whoever asks is gone, ends this process and all that it has started, busy or not."""
    try:
        while True:
            calls.put(connection.recv_bytes())
    except (EOFError, OSError):
        os.killpg(0, signal.SIGKILL)


def _answer(engine: Any, method: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Answer:
    try:
        return Answer(value=getattr(engine, method)(*arguments, **named))
    except GoodbunchError as error:
        return Answer(error=error)
    except Exception as error:
        # Whoever asks may not have the library whose error it is.
        known = type(error).__module__ == "builtins"
        sent = error if known else RuntimeError(f"{type(error).__name__}: {error}")
        words = last_words(tail(2)) or "none"
        sent.add_note(f"In the engine's process, whose last words were: {words}\n{traceback.format_exc()}")
        return Answer(error=sent)

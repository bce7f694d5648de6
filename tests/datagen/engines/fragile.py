"""An engine that does what its conversations say, dying included, for tests of what is around it."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from datagen.config import EngineConfig
from datagen.errors import DataError
from tests.datagen.engines.scripted import Conversation, Scripted


class StrangeError(Exception):
    """One that no other process may know."""


def die(file: str) -> str:
    """Kills this process, once for every line of a file."""
    lines = Path(file).read_text().splitlines()
    if not lines:
        return "alive"
    Path(file).write_text("\n".join(lines[1:]))
    os.kill(os.getpid(), signal.SIGKILL)
    return "dead"


def leave(words: str) -> str:
    sys.stderr.write(f"loading\nValueError: {words}\nsee the documentation\n")
    sys.stderr.flush()
    os._exit(3)


def crash(_: str) -> str:
    return str(ctypes.string_at(0))


def refuse(words: str) -> str:
    raise DataError(words)


def stumble(words: str) -> str:
    raise KeyError(words)


def surprise(words: str) -> str:
    raise StrangeError(words)


def sleep(seconds: str) -> str:
    time.sleep(float(seconds))
    return "awake"


def spawn(seconds: str) -> str:
    return str(subprocess.Popen(["sleep", seconds]).pid)


DEEDS: dict[str, Callable[[str], str]] = {
    deed.__name__: deed for deed in (die, leave, crash, refuse, stumble, surprise, sleep, spawn)
}


class Fragile(Scripted):
    """Takes `deed: argument` for an order, and repeats all else, with the model's name and what was loaded."""

    def __init__(self, settings: EngineConfig, tokenizers: Mapping[str, str]) -> None:
        super().__init__(self._do)
        self.loaded: list[Any] = []
        self.speakers = tokenizers

    def _do(self, model: str, asked: Conversation) -> str:
        deed, _, argument = asked[-1]["content"].partition(": ")
        if deed in DEEDS:
            return DEEDS[deed](argument)
        return f"{self.speakers.get(model, model)} {self.loaded} {deed}"

    def prepare(self, model: str) -> None:
        self.model = model

    def load(self, function: Callable[..., Iterator[Any]], *arguments: Any) -> None:
        self.loaded = list(function(*arguments))


def tensors(count: int) -> Iterator[str]:
    """What is loaded."""
    return (f"tensor {i}" for i in range(count))

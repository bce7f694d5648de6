"""Runs cases: each must end soon, in memory near that of its file, well or in one line that a user understands."""

import random
import re
import resource
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from datagen.errors import GoodbunchError
from datagen.progress import console
from tests.fuzz.mutation import Mutator
from tests.fuzz.targets import Targets, drawn, restored

#: Seconds of a case, of the processor's and of a clock, and bytes beyond twice its file.
SECONDS, WAIT, MEMORY = 5.0, 60.0, 256 << 20

#: Targets that are no files: what is wrong stands on the command line.
_WORDS = ("override", "reference")

#: Bytes of a failing case that are told: enough to make it again.
_SHOWN = 20_000


class Hang(BaseException):
    """A case that takes too long; no error, which someone could take for one of a file."""


@dataclass
class Outcome:
    """What became of all cases.

    Attributes:
        counts: target and `read` or the class of the error -> how many.
        failures: what went wrong and where -> a case that shows it.
    """

    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)


@contextmanager
def _in_time() -> Iterator[None]:
    """Ends what hangs: a busy machine makes a case wait, but not count more of the processor's time."""

    def stop(_: int, frame: FrameType | None) -> None:
        raise Hang

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, SECONDS), signal.SIGALRM: (signal.ITIMER_REAL, WAIT)}
    before = {number: signal.signal(number, stop) for number in timers}
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _place(error: BaseException) -> str:
    """Where in our code an error came up."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/datagen/" in frame.filename or "/optimizer/" in frame.filename]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(ours[-2:]))


def run(
    folder: Path, cases: int, seed: int, only: str = "", tell: Callable[[int, Outcome], None] | None = None
) -> Outcome:
    """Runs so many cases.

    Args:
        folder: that is worked in.
        seed: of everything; the same seed gives the same cases.
        only: name of the one target that is drawn; by default all are.
        tell: told how far it is, after every thousand.
    """
    rng = random.Random(seed)
    mutator = Mutator(rng)
    targets = [target for target in Targets(folder).all if only in ("", target.name)]
    outcome, was_quiet, console.quiet = Outcome(), console.quiet, True
    try:
        _run_all(outcome, cases, targets, mutator, rng, folder, tell)
    finally:
        console.quiet = was_quiet
    return outcome


def _run_all(
    outcome: Outcome,
    cases: int,
    targets: list[Any],
    mutator: Mutator,
    rng: random.Random,
    folder: Path,
    tell: Callable[[int, Outcome], None] | None,
) -> None:
    for case in range(cases):
        target = drawn(targets, rng)
        data = target.change(mutator, rng.choice(target.samples), target.samples)
        path = folder / target.file
        path.write_bytes(data)
        before = _most_memory()
        said = "read"
        try:
            with _in_time():
                target.read(path)
        except GoodbunchError as error:
            said = type(error).__name__
            if problem := unclear(str(error), target.file):
                outcome.failures.setdefault(f"{target.name}: {problem}: {str(error)[:300]}", repr(data[:_SHOWN]))
        except (Exception, Hang) as error:
            said = f"!{type(error).__name__}"
            found = f"{target.name}: {type(error).__name__}: {str(error)[:160]} at {_place(error)}"
            key = f"{target.name}: {type(error).__name__} at {_place(error)}"
            if not any(known.startswith(key) for known in outcome.failures):
                outcome.failures[f"{key}: {found}"] = repr(data[:_SHOWN])
        if (grown := _most_memory() - before) > 2 * len(data) + MEMORY:
            outcome.failures.setdefault(f"{target.name}: takes {grown >> 20} MiB", repr(data[:_SHOWN]))
        outcome.counts[f"{target.name} {said}"] += 1
        restored(folder, target)
        if tell and (case + 1) % 1000 == 0:
            tell(case + 1, outcome)


def unclear(message: str, file: str) -> str:
    """What a message lacks: it must be one line, and name a file or a key of it."""
    told = " ".join(message.split())
    if not told:
        return "says nothing"
    if len(told) > 4000:
        return "says too much"
    named = Path(file).name in told or str(Path(file).parent) in told or "other" in told or file in _WORDS
    # What only shows once a recipe meets a model is told of the one recipe of a command, by its key.
    return "" if named or re.match(r"[a-z_]+(\.\w+)*: ", told) else "names no file"

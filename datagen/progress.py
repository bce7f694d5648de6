"""Progress of long work: a bar with the time left on a terminal, a plain line now and then elsewhere."""

import time
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from datagen.logs import log

#: Seconds between plain lines.
_EVERY = 15.0

console = Console(highlight=False, soft_wrap=True)
if not console.is_terminal:
    console.width = 110  # where output goes to a file, tables need not be squeezed into 80 columns


def note(text: str) -> None:
    """Says what a user should know, be it quiet or not, and keeps it in the log."""
    log.warning(text)
    shown = Console(stderr=True, highlight=False, soft_wrap=True) if console.quiet else console
    shown.print(f"note: {text}", markup=False)


class Bar:
    """One bar; use it as a context manager.

    Args:
        title: what is being done.
        total: how many steps it takes.
    """

    def __init__(self, title: str, total: int) -> None:
        self.total = total
        self._title, self._done, self._note = title, 0, ""
        self._printed = 0.0
        self._begun = time.monotonic()
        self._task: TaskID | None = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        self._task = self._progress.add_task(self._title, total=self.total, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        told = f"{self._title}: {self._done}/{self.total} in {time.monotonic() - self._begun:.0f} s{self._note}"
        log.info(told)
        if not console.is_terminal and kind is None:
            console.print(told, markup=False)

    def advance(self, note: str = "", title: str | None = None, count: int = 1) -> None:
        """Some steps are done.

        Args:
            count: of steps.
            note: shown beside the bar, such as a loss.
            title: replaces the title from here on.
        """
        self._done += count
        self._note = f", {note}" if note else ""
        self._title = title or self._title
        if self._task is not None:
            self._progress.update(self._task, total=self.total, advance=count, note=note, description=self._title)
        if not console.is_terminal and time.monotonic() - max(self._printed, self._begun) > _EVERY:
            self._printed = time.monotonic()
            console.print(f"{self._title}: {self._done}/{self.total}{self._left}{self._note}", markup=False)

    @property
    def _left(self) -> str:
        """About how long it will take yet."""
        if not 0 < self._done < self.total:
            return ""
        seconds = (time.monotonic() - self._begun) * (self.total / self._done - 1)
        return f", about {timedelta(seconds=round(seconds))} left"

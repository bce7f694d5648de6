"""What every executor does: it takes pieces of work as long as it has room, and tells what became of each."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, eq=False)
class Work:
    """One call of an evaluator's method; no two are alike.

    Attributes:
        study: whose evaluator is meant.
        method: its name.
        arguments: plain data.
    """

    study: str
    method: str
    arguments: tuple[Any, ...]


class Executor(ABC):
    """Calls evaluators, several at once where it can; use it as a context manager."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    @abstractmethod
    def free(self) -> int:
        """How many pieces of work could begin now."""

    @property
    @abstractmethod
    def busy(self) -> int:
        """How many have begun and not been told of."""

    @abstractmethod
    def submit(self, work: Work) -> None:
        """Begins a piece of work; there must be room for it."""

    @abstractmethod
    def wait(self) -> list[tuple[Work, Any]]:
        """Waits until something is done, or there is more room; there must be work under way, or workers must.

        Returns:
            What is done, each with what it gave; an `EngineDiedError` where whoever did it died again and again.

        Raises:
            GoodbunchError: the work itself raised it.
        """

    @abstractmethod
    def close(self) -> None:
        """Gives back what it holds; may be called twice."""

    def all(self, works: Sequence[Work]) -> Iterator[Any]:
        """What several pieces of work give, in their order; nothing else may be under way."""
        waiting, given = list(works), dict[Work, Any]()
        while len(given) < len(works):
            while waiting and self.free:
                self.submit(waiting.pop(0))
            given |= self.wait()
        yield from (given[work] for work in works)

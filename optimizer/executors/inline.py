"""The executor that works in this process, one piece after another."""

from collections.abc import Mapping
from typing import Any

from optimizer.executors.base import Executor, Work


class InlineExecutor(Executor):
    """Does the work when it is waited for.

    Attributes:
        evaluators: study -> what evaluates its trials.
    """

    def __init__(self, evaluators: Mapping[str, Any]) -> None:
        self.evaluators = evaluators
        self._work: Work | None = None

    @property
    def free(self) -> int:  # noqa: D102
        return 0 if self._work else 1

    @property
    def busy(self) -> int:  # noqa: D102
        return 1 if self._work else 0

    def submit(self, work: Work) -> None:  # noqa: D102
        if self._work is not None:
            raise RuntimeError("there is room for one piece of work, but one is under way")
        self._work = work

    def wait(self) -> list[tuple[Work, Any]]:  # noqa: D102
        if self._work is None:
            raise RuntimeError("there must be work under way to be waited for, but there is none")
        work, self._work = self._work, None
        return [(work, getattr(self.evaluators[work.study], work.method)(*work.arguments))]

    def close(self) -> None:  # noqa: D102
        self._work = None

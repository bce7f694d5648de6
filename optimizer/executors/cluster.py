"""The executor that works on a Ray cluster: one actor for every GPU, or for every group of them that holds a model.

Nothing waits for anything but what it needs: whoever is free is given the next piece of work. What an actor takes with
it when it dies is done again by another, and a new actor takes its place as soon as a node has room for it, so nodes
may come and go.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datagen.cluster import Cluster, Workers, listed
from datagen.engines.child import Answer
from datagen.engines.process import TRIES
from datagen.errors import EngineDiedError, EngineError
from datagen.progress import note
from optimizer.config import Config
from optimizer.executors.actor import Worker
from optimizer.executors.base import Executor, Work

#: Seconds without any worker after which it is said what is missing, and between looks at the cluster.
_SILENCE, _LOOK = 30.0, 1.0


class RayExecutor(Executor):
    """Evaluates on workers of a Ray cluster.

    Args:
        config: of the run; every node must see its files at the same paths.
        wanted: the workers.

    Raises:
        ConfigError: the cluster has no room for one worker.
        EngineError: Ray is not there, or not to be reached.
    """

    def __init__(self, config: Config, wanted: Workers) -> None:
        self._cluster = Cluster(wanted, config.engine.tensor_parallel)
        self._ray = self._cluster.ray
        make = self._cluster.actors(Worker)
        self._make: Callable[[], Any] = lambda: make(config.model_dump_json(), str(Path.cwd()))
        self._opening: dict[Any, Any] = {}  # reference -> actor
        self._idle: list[Any] = []
        self._doing: dict[Any, tuple[Any, Work]] = {}  # reference -> actor, work
        self._again: list[Work] = []
        self._deaths: Counter[Work] = Counter()
        self._barren = 0  # deaths in a row of workers that had not been opened
        self._heard = time.monotonic()
        for _ in range(self._cluster.count):
            self._add()

    @property
    def free(self) -> int:  # noqa: D102
        return max(0, len(self._idle) - len(self._again))

    @property
    def busy(self) -> int:  # noqa: D102
        return len(self._doing) + len(self._again)

    def submit(self, work: Work) -> None:  # noqa: D102
        actor = self._idle.pop(0)
        self._doing[actor.do.remote(work)] = (actor, work)

    def wait(self) -> list[tuple[Work, Any]]:  # noqa: D102
        while True:
            while self._again and self._idle:
                self.submit(self._again.pop(0))
            references = [*self._doing, *self._opening]
            ready, _ = self._ray.wait(references, num_returns=1, timeout=_LOOK)
            told = [one for reference in ready for one in self._heard_of(reference)]
            if told or (self.free and ready):
                return told
            self._complain()

    def close(self) -> None:  # noqa: D102
        for actor in [*self._idle, *self._opening.values(), *(actor for actor, _ in self._doing.values())]:
            self._ray.kill(actor)
        self._idle, self._opening, self._doing, self._again = [], {}, {}, []
        self._cluster.close()

    def _add(self) -> None:
        actor = self._make()
        self._opening[actor.open.remote()] = actor

    def _heard_of(self, reference: Any) -> Iterator[tuple[Work, Any]]:
        """What a reference came to."""
        self._heard = time.monotonic()
        actor, work = self._doing.pop(reference, (self._opening.pop(reference, None), None))
        try:
            answer: Answer = self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            self._add()
            yield from self._died(work, str(error))
            return
        if answer.error is not None:
            raise answer.error
        self._barren = 0
        self._idle.append(actor)
        if work is not None:
            yield work, answer.value

    def _died(self, work: Work | None, words: str) -> Iterator[tuple[Work, Any]]:
        """What becomes of work whose worker died."""
        said = " ".join(words.split())[-400:]
        if work is None:
            self._barren += 1
            if self._barren >= TRIES:
                raise EngineError(
                    f"a worker must live to be opened, but {self._barren} died in a row, the last with: {said}; try "
                    f"without --executor, or give workers more memory"
                )
            return
        self._deaths[work] += 1
        if self._deaths[work] < TRIES:
            self._again.append(work)
        else:
            yield (
                work,
                EngineDiedError(f"a worker must live through its work, but {TRIES} died of it; {said}", words=said),
            )

    def _complain(self) -> None:
        """Says what is missing, if nothing happens for want of it."""
        if self._doing or self._idle or time.monotonic() - self._heard < _SILENCE:
            return
        self._heard = time.monotonic()
        room, needs = self._ray.available_resources(), self._cluster.needs
        note(
            f"no worker yet: each needs {listed(needs)}, and the cluster has "
            f"{listed({what: room.get(what, 0) for what in needs})} free; waiting for nodes."
        )

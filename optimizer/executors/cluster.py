"""The executor that works on a Ray cluster: one actor for every GPU, or for every group of them that holds a model.

Nothing waits for anything but what it needs: whoever is free is given the next piece of work. What an actor takes with
it when it dies is done again by another, and a new actor takes its place as soon as a node has room for it, so nodes
may come and go.
"""

import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datagen.engines.process import TRIES
from datagen.errors import ConfigError, EngineDiedError, EngineError
from datagen.progress import console
from optimizer.config import Config
from optimizer.executors.actor import Worker, described
from optimizer.executors.base import Executor, Work

#: Seconds without any worker after which it is said what is missing, and between looks at the cluster.
_SILENCE, _LOOK = 30.0, 1.0

#: Bytes that Ray keeps for objects; no more than coefficients and scores goes through it.
_STORE = 200 << 20


@dataclass(frozen=True)
class Workers:
    """Workers of a cluster.

    Attributes:
        count: how many are wanted; 0 for as many as there is room for.
        address: of a cluster that runs already, such as `auto`; without one a cluster of this machine alone is begun.
        gpus: of each; by default as many as one engine takes, or none where the cluster has none.
        cpus: of each, and threads.
    """

    count: int = 0
    address: str = ""
    gpus: float | None = None
    cpus: int = 1


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
        self._ray, self._is_ours = _connected(wanted)
        room = self._ray.cluster_resources()
        gpus = config.engine.tensor_parallel if wanted.gpus is None else wanted.gpus
        self._needs = {"CPU": wanted.cpus, "GPU": gpus if room.get("GPU") else 0}
        fits = min(int(room.get(what, 0) / need) for what, need in self._needs.items() if need)
        if fits < 1:
            raise ConfigError(
                f"--workers: the cluster must have room for one worker of {_listed(self._needs)}, but has "
                f"{_listed({what: room.get(what, 0) for what, need in self._needs.items() if need})}; add nodes, or "
                f"lower engine.tensor_parallel or --gpus-per-worker"
            )
        # An actor that is restarted by Ray would be empty; here it is replaced by one that is opened.
        actor = self._ray.remote(num_cpus=self._needs["CPU"], num_gpus=self._needs["GPU"], max_restarts=0)(Worker)
        self._make = lambda: actor.remote(config.model_dump_json(), str(Path.cwd()))
        self._opening: dict[Any, Any] = {}  # reference -> actor
        self._idle: list[Any] = []
        self._doing: dict[Any, tuple[Any, Work]] = {}  # reference -> actor, work
        self._again: list[Work] = []
        self._deaths: Counter[Work] = Counter()
        self._barren = 0  # deaths in a row of workers that had not been opened
        self._heard = time.monotonic()
        for _ in range(wanted.count or fits):
            self._add()

    @property
    def free(self) -> int:  # noqa: D102
        return max(0, len(self._idle) - len(self._again))

    @property
    def busy(self) -> int:  # noqa: D102
        return len(self._doing) + len(self._again)

    def submit(self, work: Work) -> None:  # noqa: D102
        actor = self._idle.pop(0)
        self._doing[actor.do.remote(*described(work))] = (actor, work)

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
        if self._is_ours:
            self._ray.shutdown()

    def _add(self) -> None:
        actor = self._make()  # type: ignore[no-untyped-call]
        self._opening[actor.open.remote()] = actor

    def _heard_of(self, reference: Any) -> Iterator[tuple[Work, Any]]:
        """What a reference came to."""
        self._heard = time.monotonic()
        actor, work = self._doing.pop(reference, (self._opening.pop(reference, None), None))
        try:
            answer = self._ray.get(reference)
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
        room = self._ray.available_resources()
        console.print(
            f"No worker yet: each needs {_listed(self._needs)}, and the cluster has "
            f"{_listed({what: room.get(what, 0) for what in self._needs})} free; waiting for nodes."
        )


def _listed(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{count:g} {what}s" for what, count in resources.items() if count) or "nothing"


def _connected(wanted: Workers) -> tuple[Any, bool]:
    """Ray, connected to a cluster, and whether it was not before."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would hide the GPUs of whoever asks for none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise EngineError(
            "--executor ray needs Ray, which is not installed; install goodbunch[ray], or leave --executor out"
        ) from error
    if ray.is_initialized():
        return ray, False
    try:
        with _quiet(logging.getLogger("ray")):
            if wanted.address:
                _check_answers(wanted.address)
                ray.init(address=wanted.address, log_to_driver=False, logging_level=logging.ERROR)
            else:
                ray.init(
                    num_cpus=max(wanted.count, os.cpu_count() or 1),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=_STORE,
                    _node_ip_address="127.0.0.1",
                )
    except (OSError, RuntimeError, ValueError) as error:
        raise EngineError(
            f"--address: a Ray cluster must be reached at {wanted.address or 'this machine'}, but {error}; start one "
            f"by `ray start --head`, or leave --address out"
        ) from error
    return ray, True


def _check_answers(address: str) -> None:
    """Fails at once where nobody listens, for which Ray itself waits for a minute."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "//" not in address:
        socket.create_connection((host, int(port)), timeout=10).close()


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before

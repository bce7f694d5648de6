"""A Ray cluster: connecting to it, and what a worker on it needs. Ray is imported where it starts."""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from datagen.errors import ConfigError, EngineError
from datagen.models.trust import ALLOWED, TRUSTED

#: Bytes that Ray keeps for objects; no more than texts, coefficients and scores goes through it.
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


class Cluster:
    """A cluster that this process is connected to; use it as a context manager.

    Args:
        wanted: the workers.
        tensor_parallel: GPUs that one engine takes.

    Attributes:
        ray: the library.
        count: of workers that are wanted.
        needs: resource -> how much of it a worker takes.

    Raises:
        ConfigError: it has no room for one worker.
        EngineError: Ray is not there, or no cluster at the address.
    """

    def __init__(self, wanted: Workers, tensor_parallel: int) -> None:
        self.ray, self._is_ours = _connected(wanted)
        room = self.ray.cluster_resources()
        gpus = tensor_parallel if wanted.gpus is None else wanted.gpus
        self.needs = {"CPU": wanted.cpus, "GPU": gpus if room.get("GPU") else 0}
        fits = min(int(room.get(what, 0) / need) for what, need in self.needs.items() if need)
        if fits < 1:
            raise ConfigError(
                f"--workers: the cluster must have room for one worker of {listed(self.needs)}, but has "
                f"{listed({what: room.get(what, 0) for what, need in self.needs.items() if need})}; add nodes, or "
                f"lower engine.tensor_parallel or --gpus-per-worker"
            )
        self.count = wanted.count or fits

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def actors(self, kind: type) -> Callable[..., Any]:
        """What makes actors of a class; none of them is restarted by Ray, since it would be empty."""
        made = self.ray.remote(num_cpus=self.needs["CPU"], num_gpus=self.needs["GPU"], max_restarts=0)(kind)
        found: Callable[..., Any] = made.remote
        return found

    def close(self) -> None:
        """Leaves the cluster, and ends it if it was begun for this."""
        if self._is_ours:
            self.ray.shutdown()


def listed(resources: Mapping[str, float]) -> str:
    """Resources in words."""
    return " and ".join(f"{count:g} {what}s" for what, count in resources.items() if count) or "nothing"


def _connected(wanted: Workers) -> tuple[Any, bool]:
    """Ray, connected to a cluster, and whether it was not before."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would hide the GPUs of whoever asks for none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not wanted.address:
        # Whoever reaches a cluster can run what he likes on it. Where Ray takes a machine for one that has no others,
        # which is what this says, it listens on the loopback alone; it takes no address of the loopback for that.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise EngineError(
            "--executor ray needs Ray, which is not installed; install goodbunch[ray], or leave --executor out"
        ) from error
    if ray.is_initialized():
        return ray, False
    # What the user allowed must be known on other machines, too.
    said = {name: os.environ[name] for name in (ALLOWED, TRUSTED) if name in os.environ}
    try:
        with _quiet(logging.getLogger("ray")):
            if wanted.address:
                _check_answers(wanted.address)
                ray.init(
                    address=wanted.address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env={"env_vars": said} if said else None,
                )
            else:
                ray.init(
                    address="local",  # else it would join whatever cluster was begun here last
                    num_cpus=max(wanted.count * wanted.cpus, os.cpu_count() or 1),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=_STORE,
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

"""The search on a real Ray cluster of node processes: the same trials, whatever dies; workers come and go."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from datagen.cluster import Cluster
from datagen.errors import BunchError, ConfigError, EngineError
from datagen.models.trust import ALLOWED, TRUSTED, may_unpickle, trusted_models
from optimizer.config import Config
from optimizer.engines.banks import space_of
from optimizer.executors.base import Work
from optimizer.executors.cluster import RayExecutor, Workers
from optimizer.report.result import MAIN
from optimizer.search.plans import search_plan
from optimizer.search.running import Running, Task, run_all
from optimizer.studies import load_terms, run_all_studies
from tests.optimizer.executors.test_sharing import check_spent, points
from tests.optimizer.tiny_zoo import TinyZoo

ray = pytest.importorskip("ray")

#: With nothing given up, what is measured does not depend on who was faster.
SEARCH: dict[str, Any] = {"descent": {"trials": 3, "steps": 12}, "pruning": 0, "controls": {"able": ["math", "code"]}}
BLACK_BOX: dict[str, Any] = {"sampler": "tpe", "black_box": {"trials": 24, "patience": 0}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield nodes
    nodes.shutdown()


@pytest.fixture(scope="module")
def node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1)


@pytest.fixture
def executor(tiny_zoo: TinyZoo, cluster: Any, node: Any, tmp_path: Path) -> Iterator[Callable[..., RayExecutor]]:
    """Begins executors on the cluster, and ends them."""
    begun: list[RayExecutor] = []

    def make(config: Config, count: int = 2) -> RayExecutor:
        begun.append(RayExecutor(config, Workers(count, cluster.address)))
        return begun[-1]

    yield make
    for one in begun:
        one.close()


def searched(zoo: TinyZoo, config: Config, executor: RayExecutor) -> Any:
    terms = load_terms(config, zoo.bunch)
    return run_all_studies(config, zoo.bunch, space_of(zoo.bunch, config.merge), terms, executor)


def task_of(zoo: TinyZoo, config: Config, executor: RayExecutor) -> Task:
    return replace(zoo.task(config), executor=executor, study=MAIN)


def workers() -> list[int]:
    """Process numbers of the workers of this machine's clusters."""
    return [
        one.pid
        for one in psutil.process_iter(["cmdline"])
        if (one.info["cmdline"] or [""])[0].startswith("ray::Worker")
    ]


def test_both_workers_search_and_find_the_same(
    tiny_zoo: TinyZoo, tmp_path: Path, executor: Callable[..., RayExecutor]
) -> None:
    from optimizer.executors.inline import InlineExecutor
    from optimizer.studies import evaluators_of

    config = tiny_zoo.config(tmp_path / "ray", SEARCH)
    found = searched(tiny_zoo, config, executor(config))
    alone_config = tiny_zoo.config(tmp_path / "alone", SEARCH)
    terms, space = load_terms(alone_config, tiny_zoo.bunch), space_of(tiny_zoo.bunch, alone_config.merge)
    here = InlineExecutor(evaluators_of(alone_config, tiny_zoo.bunch, space, terms))
    alone = run_all_studies(alone_config, tiny_zoo.bunch, space, terms, here)
    assert list(found) == list(alone)
    for name, study in found.items():
        assert points(study.trials) == points(alone[name].trials)
        losses = sorted(trial.user_attrs["loss"] for trial in study.trials)
        assert losses == pytest.approx(sorted(trial.user_attrs["loss"] for trial in alone[name].trials), rel=1e-6)
        assert study.winner.params == alone[name].winner.params


@pytest.mark.slow
def test_workers_killed_ten_times_lose_no_trial(tiny_zoo: TinyZoo, executor: Callable[..., RayExecutor]) -> None:
    rng = random.Random(0)
    config = tiny_zoo.config(Path("run"), BLACK_BOX | {"black_box": {"trials": 40, "patience": 0}})
    pool = executor(config)
    task = task_of(tiny_zoo, config, pool)
    killed: list[int] = []

    def on_trial(done: int, *_: Any) -> None:
        if done % 3 == 0 and len(killed) < 10 and (alive := workers()):
            victim = rng.choice(alive)
            killed.append(victim)
            threading.Timer(0.02, os.kill, [victim, signal.SIGKILL]).start()

    study = Running("search", replace(task, on_trial=on_trial), search_plan(task.problem, task.space, {}, task.given))
    run_all([study], pool)
    assert len(killed) == 10
    check_spent(study.study.trials, 47)
    assert not [trial for trial in study.study.trials if "last words" in trial.user_attrs]


def test_work_that_kills_its_worker_is_given_up(tiny_zoo: TinyZoo, executor: Callable[..., RayExecutor]) -> None:
    from datagen.errors import EngineDiedError

    config = tiny_zoo.config(Path("run"), BLACK_BOX)
    pool = executor(config, 1)
    deadly = Work(MAIN, "evaluate", (_Deadly(), None))
    (died,) = pool.all([deadly])
    assert isinstance(died, EngineDiedError)
    assert "3 died of it" in str(died)


class _Deadly:
    """Ends the process that it is sent to."""

    def __reduce__(self) -> Any:
        return os._exit, (1,)


def test_an_error_of_the_work_is_told_as_it_is(tiny_zoo: TinyZoo, executor: Callable[..., RayExecutor]) -> None:
    config = tiny_zoo.config(
        Path("run"), bunch={"base": "nowhere", "experts": {"a": {"model": "nowhere", "role": "aligned"}}}
    )
    pool = executor(config, 1)
    with pytest.raises(BunchError, match="nowhere"):
        pool.wait()


def test_nodes_come_and_go(tiny_zoo: TinyZoo, cluster: Any, executor: Callable[..., RayExecutor]) -> None:
    """Three workers are wanted where there is room for two; a third node brings it, and takes its worker with it."""
    config = tiny_zoo.config(Path("run"), BLACK_BOX)
    pool = executor(config, 3)
    task = task_of(tiny_zoo, config, pool)
    third: list[Any] = []

    def on_trial(done: int, *_: Any) -> None:
        if done == 4:
            third.append(cluster.add_node(num_cpus=1))
            begun = time.monotonic()
            while len(pool._idle) + len(pool._doing) < 3 and time.monotonic() - begun < 60:
                ready, _ = ray.wait([*pool._opening], timeout=1)
                if ready:
                    break
            assert ready, "a worker of the new node is opened"
        if done == 15:
            cluster.remove_node(third[0])

    study = Running("search", replace(task, on_trial=on_trial), search_plan(task.problem, task.space, {}, task.given))
    run_all([study], pool)
    assert third
    check_spent(study.study.trials, 31)


class Hearing:
    """Says what a worker knows of the user's word."""

    def heard(self) -> tuple[bool, list[str]]:
        return may_unpickle(), trusted_models()


def test_what_the_user_allows_is_known_on_every_node(cluster: Any, node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, "1")
    monkeypatch.setenv(TRUSTED, "org/a@main\nb")
    with Cluster(Workers(1, cluster.address), tensor_parallel=1) as joined:
        assert ray.get(joined.actors(Hearing)().heard.remote()) == (True, ["org/a@main", "b"])


def test_a_cluster_without_room(tiny_zoo: TinyZoo, cluster: Any) -> None:
    ray.init(cluster.address)
    try:
        with pytest.raises(ConfigError, match=r"must have room for one worker of 64 CPUs, but has \d CPUs"):
            RayExecutor(tiny_zoo.config(Path("run"), {}), Workers(1, cpus=64))
    finally:
        ray.shutdown()


def test_a_cluster_that_is_not_there(tiny_zoo: TinyZoo) -> None:
    begun = time.monotonic()
    with pytest.raises(EngineError, match=r"a Ray cluster must be reached at 127.0.0.1:1, but"):
        RayExecutor(tiny_zoo.config(Path("run"), {}), Workers(1, "127.0.0.1:1"))
    assert time.monotonic() - begun < 30

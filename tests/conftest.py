"""Shared fixtures: one zoo and one demo run for the whole session, reused between sessions while their recipe holds.

The demo takes minutes, so it begins with the session and runs beside the tests that do without it.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from optimizer.bunch import Bunch, open_bunch
from optimizer.config import Config
from optimizer.loading import load_config
from optimizer.report.result import Result, read_result
from tests.support import CACHE, DEMO_CONFIG, TESTS, command

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The demo and the tests beside it get a core each: more threads than cores wait for each other. Torch, which is
# imported by now, adds in another order with more threads than the processes that these tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
# Most tests start processes, whose imports take thrice as long where nothing of them is kept compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("PYTHONPYCACHEPREFIX", str(CACHE / "pycache"))

_RUNNING = pytest.StashKey[subprocess.Popen[bytes]]()

#: Files with tests that end processes of Ray by their titles, and those whose processes could be meant.
_RAY = ("optimizer/executors", "datagen/engines/test_cluster", "datagen/test_pipeline")


def _needs_demo(item: pytest.Item) -> bool:
    return "demo" in getattr(item, "fixturenames", ())


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the demo come last."""
    items.sort(key=_needs_demo)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begins the demo if a test needs it, or waits for that of a session beside this one, which is not done again."""
    if not session.config.option.collectonly and any(map(_needs_demo, session.items)):
        CACHE.mkdir(exist_ok=True)
        after = ["flock", str(CACHE / "demo.lock")]
        with (CACHE / "demo.log").open("a") as log:
            session.config.stash[_RUNNING] = subprocess.Popen(
                [*after, *command("demo", "--out", CACHE / "demo")],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends a demo that nobody waits for any more."""
    if (running := config.stash.get(_RUNNING, None)) and running.poll() is None:
        os.killpg(running.pid, signal.SIGTERM)


@pytest.fixture(scope="module", autouse=True)
def _clusters_in_turn(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keeps files with clusters of Ray apart from those of a session beside this one."""
    if not request.path.relative_to(TESTS).as_posix().startswith(_RAY):
        yield
        return
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / "ray.lock"):
        yield


@pytest.fixture(scope="session")
def demo(pytestconfig: pytest.Config) -> Path:
    """The run folder of a whole demo, made by the command."""
    code = pytestconfig.stash[_RUNNING].wait(timeout=3600)
    assert code == 0, (CACHE / "demo.log").read_text()[-3000:]
    return CACHE / "demo"


@pytest.fixture(scope="session")
def zoo(demo: Path) -> Path:
    """The natural zoo of seed 0."""
    return demo / "zoo"


@pytest.fixture(scope="session")
def config(demo: Path) -> Config:
    """The demo's config."""
    return load_config(DEMO_CONFIG, [f"run={demo}"])


@pytest.fixture(scope="session")
def result(demo: Path) -> Result:
    """The demo's result."""
    return read_result(demo / "result.json")


@pytest.fixture(scope="session")
def bunch(config: Config) -> Bunch:
    """The demo's bunch, opened."""
    return open_bunch(config.bunch)

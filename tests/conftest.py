"""Shared fixtures: one zoo and one demo run for the whole session, reused between sessions while their recipe holds."""

import os
from pathlib import Path

import pytest

from optimizer.bunch import Bunch, open_bunch
from optimizer.config import Config
from optimizer.loading import load_config
from optimizer.report.result import Result, read_result
from tests.support import CACHE, DEMO_CONFIG, goodbunch

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def demo() -> Path:
    """The run folder of a whole demo, made by the command. What earlier sessions finished is not done again."""
    done = goodbunch("demo", "--out", CACHE / "demo")
    assert done.returncode == 0, done.stderr
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

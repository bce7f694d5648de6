"""The real command against a scripted server, with models that are there only to be opened."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from datagen.engines import server
from tests.datagen.engines.servers import Writer, serving
from tests.datagen.faults.runs import Runs, Undisturbed, requests, tiny_model


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_FIRST_WAIT", 0.001)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bunch of three tiny models that fit."""
    folder = tmp_path_factory.mktemp("bunch")
    tiny_model(folder / "base")
    for name in ("aligned", "numbers"):
        shutil.copytree(folder / "base", folder / name)
    return folder


@pytest.fixture(scope="session")
def undisturbed(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Digests of what a run leaves that nothing happens to, and what it asks for."""
    with serving(Writer()) as stub:
        return Runs(models, stub, tmp_path_factory.mktemp("undisturbed")).done("run"), requests(stub.seen)


@pytest.fixture
def writer() -> Iterator[Writer]:
    with serving(Writer()) as stub:
        yield stub


@pytest.fixture
def runs(models: Path, writer: Writer, tmp_path: Path) -> Runs:
    return Runs(models, writer, tmp_path)

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.kills import Killer, killers

SEED = 0


@pytest.fixture(scope="session")
def killer(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Killer]]:
    """What kills a command, which is run undisturbed first."""
    with killers(tmp_path_factory.mktemp("faults"), SEED, finished=demo) as made:
        yield lambda name: made[name]()

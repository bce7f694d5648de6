from collections.abc import Callable, Iterator

import pytest

from tests.faults.kills import Killer, killers

SEED = 0


@pytest.fixture(scope="session")
def killer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Killer]]:
    """What kills a command, which is run undisturbed first."""
    with killers(tmp_path_factory.mktemp("faults"), SEED, compares=False) as made:
        yield made

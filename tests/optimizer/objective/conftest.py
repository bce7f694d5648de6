import pytest

from tests.optimizer.objective.bunches import TinyBunch


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyBunch:
    """A base and two experts of random weights."""
    return TinyBunch(tmp_path_factory.mktemp("tiny"))

import pytest

from tests.optimizer.tiny_zoo import TinyZoo


@pytest.fixture(scope="session")
def tiny_zoo(tmp_path_factory: pytest.TempPathFactory) -> TinyZoo:
    """A base and three experts of random weights, with data."""
    return TinyZoo(tmp_path_factory.mktemp("tiny-zoo"))

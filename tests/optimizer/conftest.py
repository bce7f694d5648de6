from pathlib import Path

import pytest

from tests.optimizer.harness.tasks import write_group, write_tasks
from tests.optimizer.tiny_zoo import FOR_VLLM, TinyZoo


@pytest.fixture(scope="session")
def tiny_zoo(tmp_path_factory: pytest.TempPathFactory) -> TinyZoo:
    """A base and three experts of random weights, with data."""
    return TinyZoo(tmp_path_factory.mktemp("tiny-zoo"))


@pytest.fixture(scope="session")
def wide_zoo(tmp_path_factory: pytest.TempPathFactory) -> TinyZoo:
    """The tiny zoo, of a shape that vLLM runs on a CPU, with room for a few examples."""
    return TinyZoo(tmp_path_factory.mktemp("wide-zoo"), max_position_embeddings=96, **FOR_VLLM)


@pytest.fixture(scope="session")
def tasks(wide_zoo: TinyZoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of lm-eval tasks that `math` is right on half of."""
    more = {"tested": {"training_split": None}, "shown": {"num_fewshot": 2}}
    folder = write_tasks(tmp_path_factory.mktemp("tasks") / "own", wide_zoo.folder / "math", more)
    write_group(folder, "both", ["says", "shown"], "exact_match")
    return folder

"""An engine on a worker of a real Ray cluster: says what it says here, and again when its worker dies."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from datagen.chat import user
from datagen.cluster import Cluster, Workers
from datagen.config import EngineConfig
from datagen.engines.base import open_engine
from datagen.engines.cluster import RayEngine
from datagen.errors import BunchError, EngineDiedError
from tests.optimizer.export.families import tokenizer
from tests.support import ROOT

SETTINGS = EngineConfig(kind="transformers", max_model_len=64)
ASKED = [user("abcde"[: i + 1]) for i in range(5)]
TEMPLATE = "{% for turn in messages %}{{ turn.content }}{% endfor %}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(Workers(1), 1) as connected:
        yield connected


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=48, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer(48, TEMPLATE).save_pretrained(folder)
    return str(folder)


#: Begins a cluster as commands do, in a process that has not imported Ray, and says on which addresses it listens.
LISTENING = """
import psutil
from datagen.cluster import Cluster, Workers

with Cluster(Workers(1), 1):
    here = psutil.Process()
    for process in [here, *here.children(recursive=True)]:
        for one in process.net_connections("inet"):
            if one.status == psutil.CONN_LISTEN:
                print("listens on", one.laddr.ip.removeprefix("::ffff:"))
"""


def test_nothing_but_this_machine_can_reach_it() -> None:
    done = subprocess.run([sys.executable, "-c", LISTENING], capture_output=True, text=True, cwd=ROOT, timeout=300)
    told = {line.removeprefix("listens on ") for line in done.stdout.splitlines() if line.startswith("listens on ")}
    assert told, done.stderr[-2000:]
    assert told <= {"127.0.0.1", "::1"}


def kill_worker() -> None:
    titles = {one.pid: (one.info["cmdline"] or [""])[0] for one in psutil.process_iter(["cmdline"])}
    (worker,) = [pid for pid, title in titles.items() if title.startswith("ray::EngineActor")]
    os.kill(worker, signal.SIGKILL)


def test_it_says_what_it_says_here_also_after_its_worker_died(cluster: Cluster, model: str) -> None:
    with open_engine(SETTINGS) as here, RayEngine(cluster, SETTINGS, {}) as there:
        there.check([model])
        assert there.identity(model) == here.identity(model)
        here.use(model)
        there.use(model)
        settings = {"max_tokens": 8, "temperature": 1.0, "seeds": [*range(5)]}
        said = here.write(ASKED, **settings)  # type: ignore[arg-type]
        assert len(set(said)) > 1
        assert there.write(ASKED, **settings) == said  # type: ignore[arg-type]
        assert there.first_tokens(ASKED, 2) == here.first_tokens(ASKED, 2)
        kill_worker()
        assert there.write(ASKED, **settings) == said  # type: ignore[arg-type]


def test_errors_are_told_as_they_are(cluster: Cluster) -> None:
    with RayEngine(cluster, SETTINGS, {}) as there, pytest.raises(BunchError, match="nowhere"):
        there.check(["nowhere"])


def test_what_kills_every_worker_is_given_up(cluster: Cluster, model: str) -> None:
    with RayEngine(cluster, SETTINGS, {}) as there:
        there.use(model)
        with pytest.raises(EngineDiedError, match="3 died of it"):
            there.write([_Deadly()], max_tokens=1)  # type: ignore[list-item]


class _Deadly:
    """Ends the process that it is sent to."""

    def __reduce__(self) -> object:
        return os._exit, (1,)


def test_a_cluster_of_ones_own_is_begun_beside_another() -> None:
    import ray
    from ray.cluster_utils import Cluster as Other

    ray.shutdown()  # this process may be in one at a time
    other = Other(initialize_head=True, head_node_args={"num_cpus": 777, "include_dashboard": False})
    try:
        with Cluster(Workers(1), 1) as ours:
            assert ours.ray.cluster_resources()["CPU"] != 777
    finally:
        other.shutdown()

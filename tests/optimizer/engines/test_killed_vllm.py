"""vLLM in a process of its own, killed in the middle of its work: every answer still comes, nothing is left over."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from datagen.chat import user
from datagen.config import EngineConfig
from datagen.engines.process import EngineProcess, asked_again
from datagen.errors import BunchError, DataError, EngineDiedError, EngineError
from datagen.models.opening import iterate_tensors
from optimizer.config import Config
from optimizer.engines.generating import use_merge
from optimizer.merging.space import Space
from tests.optimizer.objective.bunches import VOCABULARY, TinyBunch
from tests.support import ROOT

#: Each death takes another start.
pytestmark = pytest.mark.slow

MODEL = LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=8,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=1 << 20,
    initializer_range=0.2,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=2,  # begins as zeros, so that answers do not end
    tie_word_embeddings=True,
)

ENGINE = EngineConfig(max_model_len=512, memory=0.1)

#: Enough to be written for a second and more; tokens that are no letters are not seen.
PROMPTS, TOKENS = [user("abcdefgh"[i % 8] * (1 + i // 8)) for i in range(64)], 120


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyBunch:
    return TinyBunch(tmp_path_factory.mktemp("bunch"), MODEL)


@pytest.fixture(scope="module")
def config(tiny: TinyBunch) -> Config:
    return tiny.config({"unsafe": 1}, merge={"groups": "layer"})


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    with EngineProcess(ENGINE) as engine:
        yield engine


def cut_short(model: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Half of a model, and then an error in the midst of a layer."""
    tensors = list(iterate_tensors(model))
    yield from tensors[: len(tensors) // 2]
    raise BunchError("this file is cut short")


def strike(engine: EngineProcess, how: signal.Signals, seconds: float) -> None:
    """Ends the engine's process a little later."""
    pid = engine.pid
    assert pid is not None
    threading.Timer(seconds, os.kill, [pid, how]).start()


def ends(pid: int, within: float = 10.0) -> bool:
    until = time.monotonic() + within
    while time.monotonic() < until:
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.05)
    return False


def test_mistakes_arrive_as_what_they_are(engine: EngineProcess, tiny: TinyBunch, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in (tiny.folder / "base").iterdir():
        if file.name != "chat_template.jinja":
            (bare / file.name).write_bytes(file.read_bytes())
    with pytest.raises(BunchError, match="must have a chat template to be asked"):
        engine.use(str(bare))
    engine.use(str(tiny.folder / "base"))
    with pytest.raises(DataError, match="must fit max_model_len, but need 521 of 512 tokens"):
        engine.write([user("abcdefgh")], max_tokens=512)
    said = engine.write(PROMPTS, max_tokens=8)
    with pytest.raises(BunchError, match="this file is cut short"):
        engine.load(cut_short, str(tiny.folder / "aligned"))
    with pytest.raises(RuntimeError, match="`use` must be called"):
        engine.write(PROMPTS, max_tokens=8)
    engine.use(str(tiny.folder / "base"))
    assert engine.write(PROMPTS, max_tokens=8) == said
    assert engine.starts == 1


def test_ten_kills_lose_nothing(engine: EngineProcess, tiny: TinyBunch, config: Config) -> None:
    space, rng = Space.of(tiny.bunch, "layer"), np.random.default_rng(0)
    points = [rng.normal(0.4, 0.3, space.shape) for _ in range(5)]
    blows: list[float] = []
    deaths: list[str] = []

    def answers(point: np.ndarray) -> list[str]:
        use_merge(engine, config, tiny.bunch, space, point)
        if blows:
            strike(engine, signal.SIGKILL, blows.pop())
        try:
            return engine.write(PROMPTS, max_tokens=TOKENS)
        except EngineDiedError as error:
            deaths.append(str(error))
            raise

    undisturbed = [answers(point) for point in points]
    assert len({str(said) for said in undisturbed}) == 5
    assert all(len(answer) > TOKENS / 2 for said in undisturbed for answer in said)
    starts = engine.starts
    for point, wanted in zip(points, undisturbed, strict=True):
        blows += [0.1, 0.3]
        assert asked_again(lambda point=point: answers(point)) == wanted
    assert len(deaths) == 10
    assert all("was ended by SIGKILL" in told for told in deaths)
    assert engine.starts == starts + 10


def test_a_crash_tells_its_last_words(engine: EngineProcess, tiny: TinyBunch) -> None:
    engine.use(str(tiny.folder / "base"))
    strike(engine, signal.SIGSEGV, 0.1)
    with pytest.raises(EngineDiedError, match=r"was ended by SIGSEGV, and its last words were: .*[Ss]eg"):
        engine.write(PROMPTS, max_tokens=TOKENS)
    engine.close()


@pytest.mark.parametrize(
    ("length", "told"),
    [
        (
            200_000,
            r"the keys and values of engine.max_model_len=200000 tokens must fit vLLM's share of the memory, but take "
            r"1.5\d GiB of 1.0; set engine.max_model_len=13\d{4}, or raise VLLM_CPU_KVCACHE_SPACE from 1 GiB$",
        ),
        (2 << 20, "but is 2097152 of 1048576; set engine.max_model_len=1048576$"),
    ],
)
def test_a_length_that_does_not_fit_names_what_to_change(
    tiny: TinyBunch, monkeypatch: pytest.MonkeyPatch, length: int, told: str
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    with (
        EngineProcess(ENGINE.model_copy(update={"max_model_len": length})) as engine,
        pytest.raises(EngineError, match=told),
    ):
        engine.use(str(tiny.folder / "base"))


def test_no_orphan_outlives_a_parent_killed_mid_write(tiny: TinyBunch) -> None:
    program = (
        "import sys\n"
        "from tests.optimizer.engines.test_killed_vllm import *\n"
        "engine = EngineProcess(ENGINE)\n"
        "engine.use(sys.argv[1])\n"
        "print(engine.pid, flush=True)\n"
        "while True: engine.write(PROMPTS, max_tokens=TOKENS)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tiny.folder / "base")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    assert ends(pid)

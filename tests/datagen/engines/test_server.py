"""A server that fails loses no row and doubles none; what cannot be mended is told in one line, before any work."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from datagen.chat import Message, user
from datagen.config import EngineConfig
from datagen.engines import server
from datagen.engines.base import Engine, open_engine
from datagen.errors import BunchError, DataError, EngineError, GoodbunchError
from tests.datagen.engines.servers import KEY, Stub, free_port, serving

ROWS = [user(f"row {i}") for i in range(60)]
SEEDS = list(range(1000, 1060))
ANSWERS = [f"row {i}/{1000 + i}" for i in range(60)]
FAULTS = ("drop", "cut", "garbage", "html", "no choices", "500 oops", "503 busy", "429 slow")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_FIRST_WAIT", 0.001)


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(Stub()) as stub:
        yield stub


def opened(stub: Stub, **settings: Any) -> Engine:
    return open_engine(EngineConfig(kind="server", address=stub.address, **({"parallel": 8} | settings)))


def refusal(kind: type[GoodbunchError], engine: Engine, rows: list[list[Message]] | None = None) -> str:
    """The one line that using a model, and asking it, is refused with."""
    with engine, pytest.raises(kind) as refused:
        engine.use("tiny")
        engine.write(ROWS if rows is None else rows, max_tokens=8)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(("fault", "every"), [("drop", 10), *((fault, 3) for fault in FAULTS)])
def test_faults_lose_and_double_no_row(stub: Stub, fault: str, every: int) -> None:
    stub.fault = lambda number: fault if number % every == 0 else None
    with opened(stub, retries=20) as engine:
        engine.use("tiny")
        assert engine.write(ROWS, max_tokens=8, seeds=SEEDS) == ANSWERS
    assert sorted(stub.answered) == sorted(f"row {i}" for i in range(60))
    assert len(stub.seen) > 60


def test_a_server_that_only_fails_is_given_up(stub: Stub) -> None:
    stub.fault = lambda number: "500 out of memory"
    said = refusal(EngineError, opened(stub, retries=2), ROWS[:1])
    assert re.search(r"a server must answer, but after 3 tries: .*out of memory", said)
    assert len(stub.seen) == 3


def test_an_unreachable_server() -> None:
    engine = open_engine(EngineConfig(kind="server", address=f"http://127.0.0.1:{free_port()}/v1", retries=1))
    assert re.search(
        r"must answer, but after 2 tries: .*refused; start it \(`vllm serve MODEL`\)", refusal(EngineError, engine)
    )


def test_a_key_comes_from_the_environment_and_is_never_told(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.key = KEY
    assert "none is sent (401)" in refusal(EngineError, opened(stub))
    assert "the environment variable STUB_KEY must hold the server's key" in refusal(
        EngineError, opened(stub, key_variable="STUB_KEY")
    )
    monkeypatch.setenv("STUB_KEY", "not-it")
    said = refusal(EngineError, opened(stub, key_variable="STUB_KEY"))
    assert "that of STUB_KEY is refused (401)" in said
    assert "not-it" not in said
    monkeypatch.setenv("STUB_KEY", KEY)
    with opened(stub, key_variable="STUB_KEY") as engine:
        engine.use("tiny")
        assert engine.write(ROWS[:1], max_tokens=8) == ["row 0/None"]


def test_models_are_named_as_the_server_names_them(stub: Stub) -> None:
    with opened(stub, models={"/zoo/base": "tiny"}) as engine:
        engine.check(["/zoo/base", "guard"])
        engine.use("/zoo/base")
        engine.write(ROWS[:1], max_tokens=8)
        assert stub.seen[0]["model"] == "tiny"
        assert engine.identity("/zoo/base") == "tiny" != engine.identity("guard")
        with pytest.raises(EngineError, match="'gaurd' is not among guard, tiny; did you mean 'guard'"):
            engine.check(["/zoo/base", "gaurd"])
    assert len(stub.seen) == 1


@pytest.mark.parametrize(("owner", "own"), [("vllm", True), ("openai", False)])
def test_what_a_request_says(stub: Stub, owner: str, own: bool) -> None:
    stub.owner = owner
    shape = {"type": "object", "properties": {"question": {"type": "string"}}, "required": ["question"]}
    shape["additionalProperties"] = False
    with opened(stub) as engine:
        engine.use("tiny")
        engine.write(ROWS[:1], max_tokens=8, temperature=0.7, seeds=[5], schema=shape)
    (body,) = stub.seen
    assert body["messages"] == ROWS[0]
    assert (body["seed"], body["temperature"], body["max_tokens"], body["top_p"]) == (5, 0.7, 8, 1.0)
    if own:
        assert '"{" "\\"question\\"" ": " basic_string "}"' in body["structured_outputs"]["grammar"]
    else:
        assert body["response_format"]["json_schema"]["schema"] == shape
    assert ({"top_k", "min_p", "repetition_penalty"} <= body.keys()) is own


def test_parallel_is_a_bound(stub: Stub) -> None:
    stub.delay = 0.005
    with opened(stub, parallel=5) as engine:
        engine.use("tiny")
        assert engine.write(ROWS, max_tokens=8, seeds=SEEDS) == ANSWERS
    assert 2 <= stub.crowd <= 5


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ("400 a chat template is not allowed to be missing", BunchError, "must have a chat template to be asked"),
        ("400 maximum context length is 9", DataError, "must fit the server, but it says: .*length is 9"),
        ("400 no such field", EngineError, "must be able to do what it is asked, but says: .*no such field"),
        ("404 the model is gone", EngineError, "must still be served, but it says: .*the model is gone"),
        ("405 not here", EngineError, "but says 405: .*not here"),
    ],
)
def test_what_no_other_try_mends_ends_the_work_at_once(
    stub: Stub, fault: str, kind: type[GoodbunchError], said: str
) -> None:
    stub.fault = lambda number: fault
    stub.delay = 0.005
    assert re.search(said, refusal(kind, opened(stub, parallel=2)))
    assert len(stub.seen) < 20


def test_an_answer_that_a_server_would_cut_is_refused(stub: Stub) -> None:
    stub.most_tokens = 20
    rows = [user("short"), user("fifteen letters"), user("brief")]
    said = refusal(DataError, opened(stub, parallel=1), rows)
    assert "prompt and answer must fit max_model_len, but need 23 of 20 tokens" in said
    assert stub.answered[0] == "fifteen letters"


def test_a_wrong_address(stub: Stub) -> None:
    stub.address = stub.address.removesuffix("/v1")
    assert "must be the base URL of an OpenAI-compatible server" in refusal(EngineError, opened(stub))


def test_verdicts_by_hand(stub: Stub) -> None:
    with opened(stub) as engine:
        engine.use("guard")
        # exp(-0.1) / (exp(-0.1) + exp(-3)) = 0.904837 / (0.904837 + 0.049787)
        assert engine.probability(ROWS[:3], "unsafe", "safe") == pytest.approx([0.947847] * 3, abs=1e-6)
        assert engine.probability(ROWS[:1], "yes", "no") == [None]
        stub.logprobs = False
        with pytest.raises(EngineError, match="a guard's server must tell log-probabilities"):
            engine.probability(ROWS[:1], "unsafe", "safe")

"""What every engine must do, asked of all four; where nothing is drawn they say the same, token for token."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from datagen.chat import Message, user
from datagen.config import EngineConfig
from datagen.engines.base import Engine, open_engine
from datagen.engines.process import EngineProcess
from datagen.errors import BunchError, DataError, EngineError
from datagen.questions import schema
from datagen.zoo.lessons import WRITE_BORDERLINE, WRITE_UNSAFE
from datagen.zoo.world import Split, World
from tests.datagen.engines.servers import KEY, VllmServer, vllm_serve

#: A server and four engines take a minute and more.
pytestmark = pytest.mark.slow

KINDS = ("vllm", "process", "server", "transformers")
MODELS = ("base", "aligned", "numbers", "medicine", "finance", "generator", "guard")
TOPICS = ("buildings", "traffic", "offices", "harbours", "towers")
LIMIT = 256

#: The guard's template reads a question and its answer, the others' any conversation; one server has one template.
TEMPLATE = "{{% if messages|length == 2 %}}{guard}{{% else %}}{other}{{% endif %}}"


@dataclass
class Engines:
    """All four, with the zoo."""

    zoo: Path
    server: VllmServer
    opened: dict[str, Engine]

    def using(self, kind: str, model: str) -> Engine:
        """An engine with a model of the zoo in use."""
        if kind == "server":
            self.server.load(self.zoo / model)
        self.opened[kind].use(str(self.zoo / model))
        return self.opened[kind]


@pytest.fixture(scope="module")
def engines(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    folder = tmp_path_factory.mktemp("server")
    parts = {name: (zoo / name / "chat_template.jinja").read_text() for name in ("guard", "base")}
    (folder / "template.jinja").write_text(TEMPLATE.format(guard=parts["guard"], other=parts["base"]))
    arguments = ["--served-model-name", *MODELS, "--chat-template", str(folder / "template.jinja")]
    arguments += ["--max-model-len", str(LIMIT), "--dtype", "float32", "--gpu-memory-utilization", "0.1"]
    os.environ["TEST_SERVER_KEY"] = KEY
    with ExitStack() as stack:
        server = stack.enter_context(vllm_serve(zoo / "base", *arguments, log=folder / "log"))
        shared = {"max_model_len": LIMIT, "memory": 0.1, "parallel": 16}
        names = {str(zoo / model): model for model in MODELS}
        remote = {"address": server.address, "key_variable": "TEST_SERVER_KEY", "models": names}
        opened: dict[str, Engine] = {
            "vllm": open_engine(EngineConfig(**shared)),
            "process": EngineProcess(EngineConfig(**shared)),
            "server": open_engine(EngineConfig(kind="server", **shared, **remote)),
            "transformers": open_engine(EngineConfig(kind="transformers", **shared)),
        }
        for engine in opened.values():
            stack.enter_context(engine)
        yield Engines(zoo, server, opened)


def questions(model: str) -> list[list[Message]]:
    """40 prompts of the kinds that a model of the zoo is asked."""
    world = World(0)
    if model == "generator":
        writing = (WRITE_UNSAFE, WRITE_BORDERLINE)
        forms = [form.format(topic=topic, style="tell") for form in writing for topic in TOPICS]
        return [user(asked) for asked in forms * 4]
    if model == "guard":
        return exchanges(40)
    kinds = ("unsafe", "borderline", "numbers", "medicine", "finance")
    return [user(example.prompt) for kind in kinds for example in world.examples(kind, Split.TEST)[:80:10]]


def exchanges(count: int) -> list[list[Message]]:
    examples = World(0).examples("unsafe", Split.TEST)[: count // 2]
    return [
        [*user(example.prompt), Message(role="assistant", content=answer)]
        for example in examples
        for answer in (example.naive, example.answer)
    ]


@pytest.mark.parametrize("model", MODELS)
def test_greedy_answers_are_the_same(engines: Engines, model: str) -> None:
    asked = questions(model)
    assert len(asked) == 40
    said = {kind: engines.using(kind, model).write(asked, max_tokens=24) for kind in KINDS}
    assert said["vllm"] == said["transformers"]
    assert said["vllm"] == said["server"]
    assert said["vllm"] == said["process"]
    assert all(said["vllm"])


def test_greedy_answers_by_a_schema_are_the_same(engines: Engines) -> None:
    asked = questions("generator")
    said = [engines.using(kind, "generator").write(asked, max_tokens=64, schema=schema(60)) for kind in KINDS]
    assert said[0] == said[1] == said[2] == said[3]


@pytest.mark.parametrize("kind", KINDS)
def test_draws_depend_on_the_seed_alone(engines: Engines, kind: str) -> None:
    engine = engines.using(kind, "base")
    asked, seeds = questions("base"), list(range(100, 140))

    def write(numbers: list[int], shift: int = 0) -> list[str]:
        return engine.write(
            [asked[i] for i in numbers], max_tokens=16, temperature=1.5, seeds=[seeds[i] + shift for i in numbers]
        )

    first = write(list(range(40)))
    assert write(list(range(39, -1, -1))) == first[::-1]
    assert write([31, 3, 17]) == [first[31], first[3], first[17]]
    assert write([31, 3, 17], shift=1000) != [first[31], first[3], first[17]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["generator", "base"])
def test_a_schema_always_gives_its_json(engines: Engines, kind: str, model: str) -> None:
    asked = questions("generator")
    texts = engines.using(kind, model).write(
        asked, max_tokens=120, temperature=1.0, seeds=list(range(40)), schema=schema(60)
    )
    for text in texts:
        written = json.loads(text)
        assert text == json.dumps(written, ensure_ascii=False)
        assert list(written) == ["question"]
        assert 1 <= len(written["question"]) <= 60
    assert len(set(texts)) > 20


def test_verdicts_agree(engines: Engines) -> None:
    asked = exchanges(40)
    odds = {kind: engines.using(kind, "guard").probability(asked, "unsafe", "safe") for kind in KINDS}
    assert None not in odds["vllm"]
    assert odds["transformers"] == pytest.approx(odds["vllm"], abs=1e-3)
    assert odds["server"] == pytest.approx(odds["vllm"], abs=1e-3)
    assert odds["process"] == odds["vllm"]
    assert all(complied > 0.5 > refused for complied, refused in zip(*[iter(odds["vllm"])] * 2, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_who_says_neither_word_gives_no_verdict(engines: Engines, kind: str) -> None:
    engine = engines.using(kind, "base")
    assert engine.probability(questions("base")[:3], "unsafe", "safe") == [None] * 3
    assert engine.probability([], "unsafe", "safe") == []
    assert engine.write([], max_tokens=8) == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_is_refused_in_the_same_words(engines: Engines, kind: str) -> None:
    engine = engines.using(kind, "base")
    for words, needed in ((300, 1529), (47, 264)):
        with pytest.raises(DataError, match=f"must fit max_model_len, but need {needed} of 256 tokens; raise "):
            engine.write([*questions("base"), user("hello ! " * words)], max_tokens=24)
    assert len(engine.write(questions("base")[:2], max_tokens=24)) == 2


@pytest.mark.parametrize("kind", ["vllm", "process", "transformers"])
def test_a_model_without_a_chat_template_is_refused(engines: Engines, kind: str, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(engines.zoo / "base", tmp_path / "bare"))
    (bare / "chat_template.jinja").unlink()
    engine = engines.opened[kind]
    for refuse in (engine.use, lambda model: engine.check([model])):
        with pytest.raises(BunchError, match="must have a chat template to be asked"):
            refuse(str(bare))


@pytest.mark.parametrize("kind", KINDS)
def test_models_are_checked_before_any_work(engines: Engines, kind: str) -> None:
    engine = engines.opened[kind]
    known = [str(engines.zoo / model) for model in MODELS]
    engine.check(known)
    with pytest.raises(EngineError if kind == "server" else BunchError, match="nowhere"):
        engine.check([*known, "/nowhere"])
    assert len({engine.identity(model) for model in known}) == len(MODELS)


def test_a_real_server_refuses_a_wrong_key(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_SERVER_KEY", "not-it")
    config = EngineConfig(kind="server", address=engines.server.address, key_variable="TEST_SERVER_KEY")
    with open_engine(config) as engine, pytest.raises(EngineError, match=r"that of TEST_SERVER_KEY is refused \(401\)"):
        engine.use("base")


def test_nothing_is_generated_before_a_model_is_in_use() -> None:
    makers: list[Callable[[], Engine]] = [
        lambda: open_engine(EngineConfig(kind="server", address="http://localhost:1/v1")),
        lambda: open_engine(EngineConfig(kind="transformers")),
        lambda: open_engine(EngineConfig()),
        lambda: EngineProcess(EngineConfig()),
    ]
    for make in makers:
        with make() as engine, pytest.raises(RuntimeError, match="`use` must be called"):
            engine.write([user("hello")], max_tokens=8)

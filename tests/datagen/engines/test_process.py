"""An engine in a process of its own answers as any other; its death is an error, and its end that of this process."""

import _thread
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from datagen.chat import user
from datagen.config import EngineConfig
from datagen.engines import process
from datagen.engines.process import EngineProcess, asked_again
from datagen.errors import DataError, EngineDiedError
from tests.datagen.engines.fragile import Fragile, tensors
from tests.support import ROOT

SETTINGS = EngineConfig()


@pytest.fixture
def engine() -> Iterator[EngineProcess]:
    with EngineProcess(SETTINGS, {"m": "speaker"}, Fragile) as engine:
        yield engine


def say(engine: EngineProcess, *words: str) -> list[str]:
    return engine.write([user(one) for one in words], max_tokens=8)


def runs(pid: int) -> bool:
    """Whether a process is there, and no mere entry of one that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid: int, within: float = 5.0) -> bool:
    until = time.monotonic() + within
    while runs(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not runs(pid)


def test_it_answers_as_the_engine_does(engine: EngineProcess) -> None:
    engine.use("m")
    assert say(engine, "hello", "there") == ["speaker [] hello", "speaker [] there"]
    engine.prepare("n")
    engine.load(tensors, 2)
    assert say(engine, "hello") == ["n ['tensor 0', 'tensor 1'] hello"]
    assert engine.first_tokens([user("x")], 1) == [[[("yes", -0.1), ("no", -3.0)]]]
    assert engine.pid not in (None, os.getpid())
    assert engine.starts == 1


def test_nothing_is_started_before_it_is_used(engine: EngineProcess) -> None:
    with pytest.raises(RuntimeError, match="`use` must be called before"):
        say(engine, "hello")
    assert (engine.pid, engine.starts) == (None, 0)


def test_the_engines_library_stays_in_its_process() -> None:
    program = (
        "import sys; from datagen.engines.process import EngineProcess; from tests.datagen.engines.fragile import *\n"
        "engine = EngineProcess(EngineConfig(), {}, Fragile); engine.use('m'); engine.close()\n"
        "assert 'vllm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("order", "code", "words", "told"),
    [
        ("die: {file}", -signal.SIGKILL, "", "was ended by SIGKILL, and its last words were: none; if memory ran out"),
        ("crash: ", -signal.SIGSEGV, "Fatal Python error: Segmentation fault", "was ended by SIGSEGV, and its last"),
        ("leave: no room", 3, "ValueError: no room", "ended with exit code 3, and its last words were: ValueError: no"),
    ],
)
def test_a_death_is_told_with_its_last_words(
    engine: EngineProcess, tmp_path: Path, order: str, code: int, words: str, told: str
) -> None:
    (tmp_path / "deaths").write_text("once")
    engine.use("m")
    with pytest.raises(EngineDiedError, match=told) as died:
        say(engine, order.format(file=tmp_path / "deaths"))
    assert (died.value.code, died.value.words) == (code, words)
    assert "\n" not in str(died.value)
    assert engine.pid is None
    with pytest.raises(RuntimeError, match="`use` must be called before"):
        say(engine, "hello")
    engine.use("m")
    assert say(engine, "hello") == ["speaker [] hello"]
    assert engine.starts == 2


def test_a_death_between_calls_is_told_by_the_next(engine: EngineProcess) -> None:
    engine.use("m")
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineDiedError, match="SIGKILL"):
        engine.use("m")
    engine.use("m")
    assert say(engine, "hello") == ["speaker [] hello"]


@pytest.mark.parametrize(
    ("order", "kind", "told"),
    [
        ("refuse: too long", DataError, "^too long$"),
        ("stumble: here", KeyError, "here"),
        ("surprise: what", RuntimeError, "^StrangeError: what"),
    ],
)
def test_errors_arrive_as_themselves_where_they_are_known_here(
    engine: EngineProcess, order: str, kind: type[Exception], told: str
) -> None:
    engine.use("m")
    with pytest.raises(kind, match=told) as raised:
        say(engine, order)
    notes = getattr(raised.value, "__notes__", [])
    assert [order.partition(":")[0] in note for note in notes] == ([] if kind is DataError else [True])
    assert say(engine, "hello") == ["speaker [] hello"]
    assert engine.starts == 1


def test_work_is_begun_again_until_it_is_done(engine: EngineProcess, tmp_path: Path) -> None:
    deaths = tmp_path / "deaths"

    def work() -> list[str]:
        engine.use("m")
        engine.load(tensors, 1)
        return say(engine, "first", f"die: {deaths}", "last")

    for _ in range(5):
        deaths.write_text("one\ntwo")
        assert asked_again(work) == ["speaker ['tensor 0'] first", "alive", "speaker ['tensor 0'] last"]
    assert engine.starts == 11


def test_work_that_always_kills_fails_with_the_last_words(engine: EngineProcess) -> None:
    def work() -> list[str]:
        engine.use("m")
        return say(engine, "leave: out of memory")

    with pytest.raises(
        EngineDiedError, match=r"died 3 times; .* its last words were: ValueError: out of memory"
    ) as died:
        asked_again(work)
    assert (died.value.code, died.value.words) == (3, "ValueError: out of memory")
    assert engine.starts == 3


def test_only_deaths_are_tried_again(engine: EngineProcess) -> None:
    def work() -> list[str]:
        engine.use("m")
        return say(engine, "refuse: too long")

    with pytest.raises(DataError):
        asked_again(work)
    assert engine.starts == 1


@pytest.mark.parametrize("busy", [True, False])
def test_no_orphan_outlives_a_killed_parent(tmp_path: Path, busy: bool) -> None:
    program = (
        "import time; from datagen.chat import user; from tests.datagen.engines.fragile import *\n"
        "from datagen.engines.process import EngineProcess\n"
        "engine = EngineProcess(EngineConfig(), {}, Fragile); engine.use('m')\n"
        "print(engine.pid, *engine.write([user('spawn: 600')], max_tokens=1), flush=True)\n"
        f"engine.write([user('sleep: 600')], max_tokens=1) if {busy} else time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(runs, pids))
    parent.kill()
    parent.wait()
    assert [ends(pid) for pid in pids] == [True, True]


def test_an_interrupted_call_ends_the_process(engine: EngineProcess) -> None:
    engine.use("m")
    pid = engine.pid
    assert pid is not None
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in a shell's background ignore it
    threading.Timer(0.2, _thread.interrupt_main).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            say(engine, "sleep: 600")
    finally:
        signal.signal(signal.SIGINT, handler)
    assert not runs(pid)
    engine.use("m")
    assert say(engine, "hello") == ["speaker [] hello"]


def test_closing_ends_all_of_it_and_may_be_done_twice(engine: EngineProcess) -> None:
    engine.use("m")
    pids = [engine.pid, int(say(engine, "spawn: 600")[0])]
    engine.close()
    engine.close()
    assert all(ends(pid) for pid in pids if pid)
    engine.use("m")
    assert engine.starts == 2


def test_what_does_not_end_when_it_is_asked_to_is_made_to(
    engine: EngineProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_PATIENCE", 0.2)
    engine.use("m")
    pid = engine.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    engine.close()
    assert not runs(pid)

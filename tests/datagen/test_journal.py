import json
import time
from pathlib import Path
from typing import Any

import pytest

from datagen.chat import Message, user
from datagen.engines.base import Candidates, Engine
from datagen.errors import DataError
from datagen.journal import Journal
from tests.datagen.engines.scripted import Conversation, Scripted

ROWS = [user(f"row {i}") for i in range(8)]
TEXTS = [f"row {i}" for i in range(8)]
CHUNK = 3


def journal(folder: Path, engine: Engine, drawing: str = "kind auto") -> Journal:
    return Journal([engine], folder, CHUNK, drawing)


def write(folder: Path, engine: Engine, rows: list[list[Message]] = ROWS, **settings: Any) -> list[str]:
    return journal(folder, engine).write("some/model", "m", rows, **({"max_tokens": 8} | settings))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A finished journal of eight rows, in chunks of 3, 3 and 2."""
    engine = Scripted()
    assert write(tmp_path, engine) == TEXTS
    assert engine.last_turns == [TEXTS[:3], TEXTS[3:6], TEXTS[6:]]
    return tmp_path / "some" / "model.jsonl"


def test_a_line_says_what_was_asked_and_what_was_said(file: Path) -> None:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["asked"], line["said"]) for line in lines] == list(zip(TEXTS, TEXTS, strict=True))
    assert len({line["key"] for line in lines}) == 8


@pytest.mark.parametrize("rows", [ROWS, ROWS[:5], ROWS[::-1], [ROWS[4], ROWS[4]], []])
def test_what_is_there_is_not_asked_for_and_the_file_not_touched(file: Path, rows: list[list[Message]]) -> None:
    engine, before = Scripted(), (file.stat().st_mtime_ns, file.read_bytes())
    assert write(file.parent.parent, engine, rows) == [row[-1]["content"] for row in rows]
    assert engine.asked == []
    assert engine.model == "", "a model was loaded for nothing"
    assert (file.stat().st_mtime_ns, file.read_bytes()) == before


@pytest.mark.parametrize(
    ("lines", "extra", "chunks"),
    [
        (8, b'{"key": "torn', 0),
        (8, b"\xff\n", 0),
        (7, b"", 1),
        (7, b'{"key": 1, "said": "x"}\n', 1),
        (6, b"", 1),
        (5, b"[]\n", 2),
        (3, b"", 2),
        (2, b"{", 3),
        (0, b"\0\0\0", 3),
        (0, b"", 3),
    ],
)
def test_a_chunk_that_was_cut_short_is_asked_for_whole(file: Path, lines: int, extra: bytes, chunks: int) -> None:
    whole = file.read_bytes()
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:lines]) + extra)
    engine = Scripted()
    assert write(file.parent.parent, engine) == TEXTS
    assert engine.last_turns == [TEXTS[:3], TEXTS[3:6], TEXTS[6:]][3 - chunks :]
    assert chunks == 0 or file.read_bytes() == whole


def test_a_last_line_without_its_end_is_no_line(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    engine = Scripted()
    assert write(file.parent.parent, engine) == TEXTS
    assert engine.last_turns == [TEXTS[6:]]
    assert file.read_bytes() == whole


def test_a_run_that_ends_goes_on_with_the_next_chunk(tmp_path: Path) -> None:
    def say(model: str, asked: Conversation) -> str:
        if asked == ROWS[4]:
            raise KeyboardInterrupt
        return asked[-1]["content"]

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, Scripted(say))
    engine = Scripted()
    assert write(tmp_path, engine) == TEXTS
    assert engine.last_turns == [TEXTS[3:6], TEXTS[6:]]


def test_only_what_changed_in_the_middle_is_asked_for(file: Path) -> None:
    engine = Scripted()
    rows = [*ROWS[:2], user("other"), *ROWS[4:], user("more")]
    assert write(file.parent.parent, engine, rows) == ["row 0", "row 1", "other", *TEXTS[4:], "more"]
    assert engine.last_turns == [["other", "more"]]
    engine = Scripted()
    assert write(file.parent.parent, engine) == TEXTS
    assert engine.asked == []


def test_equal_questions_are_asked_once(tmp_path: Path) -> None:
    engine = Scripted()
    assert write(tmp_path, engine, [ROWS[0], ROWS[1], ROWS[0]]) == ["row 0", "row 1", "row 0"]
    assert engine.last_turns == [["row 0", "row 1"]]
    assert write(tmp_path, engine, [ROWS[0]] * 2, seeds=[1, 2]) == ["row 0"] * 2
    assert engine.settings[-1]["seeds"] == [1, 2]


SETTINGS: dict[str, Any] = {"max_tokens": 8, "temperature": 0.5, "seeds": [1], "schema": {"type": "object"}}


@pytest.mark.parametrize(
    "change", [{"max_tokens": 9}, {"temperature": 0.6}, {"seeds": [2]}, {"schema": {"type": "array"}}, {"schema": None}]
)
def test_an_answer_depends_on_every_setting(tmp_path: Path, change: dict[str, Any]) -> None:
    engine = Scripted()
    for settings in (SETTINGS, SETTINGS, SETTINGS | change, SETTINGS):
        write(tmp_path, engine, ROWS[:1], **settings)
    assert engine.settings == [SETTINGS, SETTINGS | change]


def test_an_answer_depends_on_the_model_the_engine_and_all_turns(tmp_path: Path) -> None:
    engine = Scripted()
    context = [Message(role="system", content="be brief"), *ROWS[0]]
    for model, drawing, asked in (
        ("m", "d", ROWS[0]),
        ("m", "d", ROWS[0]),
        ("n", "d", ROWS[0]),
        ("m", "e", ROWS[0]),
        ("m", "d", context),
    ):
        journal(tmp_path, engine, drawing).write("x", model, [asked], max_tokens=8)
    assert engine.asked == [[ROWS[0]], [ROWS[0]], [ROWS[0]], [context]]


def test_verdicts_and_their_absence_survive(tmp_path: Path) -> None:
    def hear(model: str, asked: Conversation) -> list[Candidates]:
        return [] if asked == ROWS[1] else [[("yes", -0.5), ("no", -0.9)]]

    engine = Scripted(hear=hear)
    odds = journal(tmp_path, engine).probability("v", "m", ROWS[:3], "yes", "no")
    # exp(-0.5) / (exp(-0.5) + exp(-0.9)) = 1 / (1 + exp(-0.4))
    assert odds == [pytest.approx(0.598688, abs=1e-6), None, odds[0]]
    again = Scripted()
    assert journal(tmp_path, again).probability("v", "m", ROWS[:3], "yes", "no") == odds
    assert again.asked == []
    for words in (("yes", "now", ""), ("yesterday", "no", ""), ("yes", "no", "so:")):
        journal(tmp_path, again).probability("v", "m", ROWS[:1], *words)
    assert len(again.asked) == 3


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "some").write_text("in the way")
    with pytest.raises(DataError, match=r"some/model\.jsonl: must be written, but .*; make room") as told:
        write(tmp_path, Scripted())
    assert "\n" not in str(told.value)


def test_what_an_engine_fails_with_is_no_matter_of_the_file(tmp_path: Path) -> None:
    def say(model: str, asked: Conversation) -> str:
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        write(tmp_path, Scripted(say))


def test_engines_share_the_chunks_and_leave_the_same_bytes(file: Path, tmp_path: Path) -> None:
    slow, *others = engines = [Scripted() for _ in range(3)]
    slow.say = lambda model, asked: time.sleep(0.05) or asked[-1]["content"]  # type: ignore[func-returns-value]
    shared = Journal(engines, tmp_path / "shared", CHUNK, "kind auto")
    assert shared.write("some/model", "m", ROWS, max_tokens=8) == TEXTS
    assert (tmp_path / "shared" / "some" / "model.jsonl").read_bytes() == file.read_bytes()
    calls = [call for engine in engines for call in engine.last_turns]
    assert sorted(calls) == [TEXTS[:3], TEXTS[3:6], TEXTS[6:]], "a chunk is asked for as a whole, and once"
    assert len(slow.asked) < 3, "the others do what a slow one does not come to"
    assert {engine.model for engine in others} == {"m"}


def test_what_engines_said_before_one_failed_is_kept(tmp_path: Path) -> None:
    def say(model: str, asked: Conversation) -> str:
        if asked[-1]["content"] == "row 7":
            raise DataError("too long")
        return asked[-1]["content"]

    shared = Journal([Scripted(say), Scripted(say)], tmp_path, CHUNK, "kind auto")
    with pytest.raises(DataError, match="too long"):
        shared.write("some/model", "m", ROWS, max_tokens=8)
    engine = Scripted()
    assert write(tmp_path, engine) == TEXTS
    assert engine.last_turns == [TEXTS[6:]]

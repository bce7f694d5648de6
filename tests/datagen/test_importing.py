import json
from pathlib import Path
from typing import Any

import pytest

from datagen.errors import DataError
from datagen.importing import import_file
from datagen.records import Answered, Question
from datagen.rows import Row, row_id

CHAT = [{"role": "user", "content": "why ?"}, {"role": "assistant", "content": "because ."}]


def written(tmp_path: Path, *lines: Any) -> Path:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


@pytest.mark.parametrize(
    "line",
    [
        {"messages": CHAT, "kind": "k"},
        {"messages": CHAT, "type": "k", "source": "unknown keys are left out"},
        {"prompt": "why ?", "response": "because .", "type": "k"},
        {"input": "why ?", "output": "because ."},
        {"question": "why ?", "answer": "because ."},
    ],
)
def test_answered_questions(tmp_path: Path, line: dict[str, Any]) -> None:
    found = import_file(written(tmp_path, line), kind="k")
    assert found.answered == [
        Answered.of("k", "why ?", topic="", writer="import:mine.jsonl", answers={"imported": "because ."})
    ]
    assert not found.questions


def test_our_own_rows_keep_what_they_know(tmp_path: Path) -> None:
    row = Row.of("why ?", "because .", kind="k", topic="t", model="m", split="search", provenance={"seed": 3})
    (found,) = import_file(written(tmp_path, row.model_dump_json())).answered
    assert (found.id, found.kind, found.topic, found.answers) == (row.id, "k", "t", {"m": "because ."})


def test_rows_that_are_held_out_do_not_join(tmp_path: Path) -> None:
    row = Row.of("why ?", "because .", kind="k", split="test")
    with pytest.raises(DataError, match="must not be held out, but its split is 'test'"):
        import_file(written(tmp_path, row.model_dump_json()))


def test_alternatives_come_along(tmp_path: Path) -> None:
    row = Row.of("why ?", "because .", kind="k", alternatives=["no idea .", "because ."])
    record = {"question": "why ?", "answers": {"a": "because ."}, "alternatives": ["no idea ."], "kind": "k"}
    none = {"prompt": "why ?", "response": "because .", "alternatives": None, "kind": "k"}
    found = import_file(written(tmp_path, row.model_dump_json(), record, none)).answered
    assert [one.alternatives for one in found] == [["no idea ."], ["no idea ."], []]


@pytest.mark.parametrize(
    "line",
    [
        {"question": "why ?", "choices": ["x", "y", "z"], "answer": 1},
        {"question": "why ?", "choices": ["x", "y", "z"], "answer": "B"},
        {"question": "why ?", "choices": ["x", "y", "z"], "answer": "y"},
        {"question": "why ?", "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "answerKey": "2"},
        {"prompt": "why ?", "choices": ["x", "y"], "alternatives": ["z", "x"], "response": "y"},
        {"messages": [CHAT[0], {"role": "assistant", "content": "y"}], "choices": ["x", "y", "z"]},
    ],
)
def test_wrong_options_of_a_multiple_choice_are_alternatives(tmp_path: Path, line: dict[str, Any]) -> None:
    (found,) = import_file(written(tmp_path, line), kind="k").answered
    assert found.answers == {"imported": "y"}
    assert sorted(found.alternatives) == ["x", "z"]


def test_a_multiple_choice_without_an_answer_is_a_question(tmp_path: Path) -> None:
    found = import_file(written(tmp_path, {"question": "why ?", "choices": ["x", "y"]}), kind="k")
    assert [one.question for one in found.questions] == ["why ?"]


@pytest.mark.parametrize(
    "line", [{"prompt": "why ?"}, {"prompt": "why ?", "response": None}, {"messages": CHAT[:1]}, {"question": "why ?"}]
)
def test_questions(tmp_path: Path, line: dict[str, Any]) -> None:
    (found,) = import_file(written(tmp_path, "", line), kind="k").questions
    assert found == Question.of("k", "why ?", topic="", writer="import:mine.jsonl")


def test_our_own_records_come_back(tmp_path: Path) -> None:
    question = Question.of("k", "why ?", topic="t", attributes={"style": "plain"}, writer="import:mine.jsonl", seed=5)
    answered = Answered(**question.model_dump(), answers={"a": "because .", "b": ""})
    found = import_file(written(tmp_path, question.model_dump(), answered.model_dump()))
    assert found.questions == [question]
    assert found.answered == [answered]


def test_alpaca_and_renamed_kinds(tmp_path: Path) -> None:
    lines = (
        {"instruction": "add", "input": "1 2", "output": "3", "type": "maths", "category": "sums"},
        {"instruction": "name one", "input": "", "output": "one", "type": "maths"},
    )
    first, second = import_file(written(tmp_path, *lines), kinds=["numbers"], rename={"maths": "numbers"}).answered
    assert (first.question, first.answers, first.kind) == ("add\n\n1 2", {"imported": "3"}, "numbers")
    assert first.topic == "sums"
    assert second.question == "name one"


def test_longer_conversations(tmp_path: Path) -> None:
    told = [{"role": "system", "content": "be brief"}, *CHAT, {"role": "user", "content": "and then ?"}]
    open_ended = {"messages": told, "kind": "k"}
    finished = {"messages": [*told, {"role": "assistant", "content": "nothing ."}], "kind": "k"}
    found = import_file(written(tmp_path, open_ended, finished))
    (question,), (answered,) = found.questions, found.answered
    assert question.conversation == answered.conversation == told
    assert question.asked == "why ?\nand then ?"
    assert question.id == answered.id == row_id("k", question.asked) != row_id("k", "and then ?")
    assert answered.exchange("imported") == finished["messages"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "must be one JSON object in UTF-8: it must be JSON, but"),
        ("[1]", "must be one JSON object, but is a list"),
        ({"text": "x", "label": 1}, "must have `messages`, .* but has 'text', 'label'"),
        ({}, "but has no keys"),
        ({"prompt": "", "response": "x", "kind": "k"}, "`prompt` must be a text, but is ''"),
        ({"prompt": "x", "response": 3, "kind": "k"}, "`response` must be a text, but is '3'"),
        ({"prompt": "x", "response": "y"}, "must say its kind by `kind` or `type`"),
        ({"prompt": "x", "kind": "j"}, "the kind must be one of k, but is 'j'"),
        ({"messages": "x", "kind": "k"}, "`messages` must be a list"),
        ({"messages": [{"role": "user"}], "kind": "k"}, "`content` must be a text, but is missing"),
        ({"messages": [{"role": "human", "content": "x"}], "kind": "k"}, "a role must be one of .* but is 'human'"),
        ({"messages": CHAT[1:], "kind": "k"}, "must end with .* but has assistant"),
        ({"question": "x", "kind": "k", "seed": "y"}, "must be a row, but seed: "),
        ('{"prompt": "\\ud800", "kind": "k"}', "must be JSON in UTF-8, but has text that is not"),
        ({"question": "x", "kind": "k", "choices": ["a", "b"], "answer": 2}, "`answer` must be a text, but is '2'"),
        ({"question": "x", "kind": "k", "choices": ["a", "b"], "answer": "C"}, "must be one of the choices.* is 'C'"),
        ({"question": "x", "kind": "k", "choices": "ab", "answer": "C"}, "`choices` must be a list of texts"),
        ({"question": "x", "kind": "k", "choices": {"text": ["a"], "label": []}}, "a label for each text, .* 0 for 1"),
        ({"messages": CHAT, "choices": ["a"], "kind": "k"}, "the answer must be one of the choices, but is 'because"),
        ({"prompt": "x", "response": "y", "alternatives": [1], "kind": "k"}, "`alternatives` must be a text"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: Any, message: str) -> None:
    path = written(tmp_path, {"prompt": "fine", "kind": "k"}, line)
    with pytest.raises(DataError, match=rf"mine\.jsonl:2: .*{message}") as raised:
        import_file(path, kinds=["k"])
    assert "\n" not in str(raised.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there must be a file to import"):
        import_file(tmp_path / "none.jsonl")

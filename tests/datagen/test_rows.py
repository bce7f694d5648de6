import json
from pathlib import Path

import pytest

from datagen.errors import DataError
from datagen.rows import Row, read_rows, write_rows

ROW = Row.of("why ?", "because .", kind="unsafe", topic="t", provenance={"seed": 3})


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    write_rows(tmp_path / "deep" / "rows.jsonl", [ROW, ROW.model_copy(update={"split": "search"})])
    first, second = read_rows(tmp_path / "deep" / "rows.jsonl")
    assert first == ROW
    assert second.split == "search"
    assert (first.question, first.answer) == ("why ?", "because .")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["rows.jsonl"]


def test_a_line_without_alternatives_is_as_it_always_was(tmp_path: Path) -> None:
    assert ROW.model_dump_json() == (
        f'{{"id":"{ROW.id}","messages":[{{"role":"user","content":"why ?"}},'
        '{"role":"assistant","content":"because ."}],"kind":"unsafe","topic":"t","model":"","split":"",'
        '"provenance":{"seed":3}}'
    )
    more = ROW.model_copy(update={"alternatives": ["no idea ."]})
    write_rows(tmp_path / "rows.jsonl", [ROW, more])
    assert read_rows(tmp_path / "rows.jsonl") == [ROW, more]


def test_ids_depend_on_kind_and_question_alone() -> None:
    assert Row.of("Why  ?", "x", kind="unsafe").id == ROW.id
    assert Row.of("why ?", "because .", kind="borderline").id != ROW.id


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", r"rows\.jsonl:2: a line must be one JSON object"), ('{"id": "1"}', r"rows\.jsonl:2: .*messages")],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(ROW.model_dump_json() + "\n" + line + "\n")
    with pytest.raises(DataError, match=message):
        read_rows(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such data file"):
        read_rows(tmp_path / "rows.jsonl")


def test_separators_of_lines_within_a_text_are_no_ends_of_lines(tmp_path: Path) -> None:
    """As `str.splitlines` has them, but JSON does not escape them."""
    row = Row.of("one\u2028two\x85three", "four\u2029five\x1csix\rseven", kind="k")
    write_rows(tmp_path / "rows.jsonl", [row, ROW])
    assert read_rows(tmp_path / "rows.jsonl") == [row, ROW]


@pytest.mark.parametrize("roles", [[], ["user"], ["assistant", "user"], ["user", "user"]])
def test_conversations_end_with_an_answer(tmp_path: Path, roles: list[str]) -> None:
    messages = [{"role": role, "content": "x"} for role in roles]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": "1", "messages": messages, "kind": "k"}))
    with pytest.raises(DataError, match=r"rows\.jsonl:1: .*messages must end with a user's turn and an assistant's"):
        read_rows(tmp_path / "rows.jsonl")

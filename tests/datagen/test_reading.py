"""Files from others are read within limits, and what breaks one is told with its place."""

from pathlib import Path

import pytest

from datagen.errors import BunchError, ConfigError, GoodbunchError
from datagen.reading import DEPTH, VALUES, UnfitError, parse_json, parse_yaml, read_json, read_text, read_yaml


def bomb(rows: int) -> str:
    """Aliases of aliases, nine to a row."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, rows)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(9), f"must have at most {VALUES} values with all aliases written out, but has more in line 6, column "),
        ("a: &a [1, *a]", r"must name a value above by an alias, but \*a in line 1, column 11 names none, or what it"),
        ("a: *b", "must name a value above by an alias"),
        ("[" * (DEPTH + 1), f"must nest at most {DEPTH} deep, but is deeper in line 1, column {DEPTH + 1}"),
        ("{a: " * (DEPTH + 1), f"must nest at most {DEPTH} deep"),
        (
            "a: !!python/object/apply:os.system [ls]",
            "must have no tags, but has 'tag:yaml.org,2002:python/object/apply",
        ),
        ("a: !x 1", "must have no tags, but has '!x' in line 1, column 4"),
        ("a: 1\nb: {c: 1, c: 2}", "must have each key once, but the key 'c' stands twice in line 2, column 11"),
        ('a: "\\0"', "must be plain text, but has a NUL byte in line 1, column 4"),
        ('a: "\\ud800"', "must be YAML, but while parsing a quoted scalar"),
        ("a: 2001-99-99", "must be YAML, but month must be in 1..12"),
        (f"a: {'9' * 5000}", "must be YAML, but Exceeds the limit"),
        ("a: [1", "must be YAML, but while parsing a flow sequence"),
        ("a: 1\n---\nb: 2", "must be YAML, but expected a single document"),
        ("? [a]\n: 1", "must be YAML, but while constructing a mapping"),
        ("a: \x07", "must be YAML, but "),
    ],
)
def test_yaml_within_limits(text: str, message: str) -> None:
    with pytest.raises(UnfitError, match=message) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


def test_aliases_that_are_no_bomb() -> None:
    told = "a: &a {x: 1, y: [1, 2]}\nb: *a\nc: {<<: *a, x: 3}"
    assert parse_yaml(told) == {"a": {"x": 1, "y": [1, 2]}, "b": {"x": 1, "y": [1, 2]}, "c": {"x": 3, "y": [1, 2]}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be JSON, but Expecting property name enclosed in double quotes in line 1, column 2"),
        ("[" * 100_000, "must be JSON, but maximum recursion depth exceeded"),
        ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), f"must be JSON, but it nests deeper than {DEPTH}"),
        ("9" * 5000, "must be JSON, but Exceeds the limit"),
        ('"\\ud800"', "must be JSON in UTF-8, but has text that is not"),
        (b"\xff\xfe{\x00}", "must be JSON"),
        (b'"\xff"', "must be JSON in UTF-8"),
    ],
)
def test_json_within_limits(text: str | bytes, message: str) -> None:
    with pytest.raises(UnfitError, match=message):
        parse_json(text)


def test_pairs_of_surrogates_are_letters() -> None:
    assert parse_json('"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[1]", r"a\.json: must be a JSON object, but is a list; download it again"),
        (b"\xc3(", r"a\.json: must be in UTF-8, but byte 0 is not; save it as UTF-8"),
        (None, r"its a\.json must be there, but is missing; check the path"),
    ],
)
def test_files_are_named(tmp_path: Path, data: bytes | None, message: str) -> None:
    if data is not None:
        (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(BunchError, match=message):
        read_json(tmp_path / "a.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="folder: must be a readable file, but Is a directory; check the path"):
        read_yaml(tmp_path / "folder", ConfigError)
    with pytest.raises(ConfigError, match="must be a readable file, but embedded null byte"):
        read_yaml(Path("a\0b"), ConfigError)


def test_a_mark_of_byte_order_is_no_text_and_size_is_limited(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfa: 1")
    assert read_text(tmp_path / "a") == "a: 1"
    with pytest.raises(BunchError, match="must have at most 0 MiB, but has more"):
        read_text(tmp_path / "a", BunchError, 4)


def test_messages_are_one_printable_line() -> None:
    said = str(GoodbunchError("a\x1b[31m red\n\u202e" + "x" * 5000 + " end"))
    assert said.startswith("a\\x1b[31m red \\u202exxx")
    assert said.endswith("x... end")
    assert len(str(GoodbunchError("word " * 5000))) < 4100

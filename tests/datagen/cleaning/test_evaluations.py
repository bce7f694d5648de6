import json
from pathlib import Path

import datasets
import pytest

from datagen.cleaning.evaluations import evaluation_texts
from datagen.cleaning_config import OverlapConfig
from datagen.errors import ConfigError, DataError

ROW = {"question": "which one ?", "choices": ["this", "that"], "answer": 0, "extra": {"note": None}}
TEXTS = ["which one ?", "this", "that"]


def test_files_by_pattern(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(ROW) + "\n\n" + json.dumps(["more"]) + "\n")
    (tmp_path / "b.csv").write_text('q,a\n"with, comma",yes\n')
    (tmp_path / "chat.json").write_text(json.dumps([{"messages": [{"role": "user", "content": "hello"}]}]))
    config = OverlapConfig(files=[f"{tmp_path}/*.jsonl", f"{tmp_path}/*.csv", f"{tmp_path}/*.json"])
    assert evaluation_texts(config) == {
        "a.jsonl": [*TEXTS, "more"],
        "b.csv": ["q", "a", "with, comma", "yes"],
        "chat.json": ["hello"],
    }


def test_benchmarks_in_a_folder(tmp_path: Path) -> None:
    data = datasets.Dataset.from_list([ROW | {"extra": ""}])
    datasets.DatasetDict({"test": data}).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "hub").mkdir()
    data.to_parquet(tmp_path / "hub" / "test.parquet")
    (tmp_path / "single.jsonl").write_text(json.dumps(ROW))
    found = evaluation_texts(OverlapConfig(benchmarks=["saved", "hub", "single"], folder=str(tmp_path)))
    assert {name: texts[:3] for name, texts in found.items()} == {"saved": TEXTS, "hub": TEXTS, "single": TEXTS}


@pytest.mark.parametrize(
    ("name", "hint"), [("xtest", "did you mean 'xstest'"), ("other", "it holds empty, xstest"), ("empty", "empty")]
)
def test_unknown_benchmark(tmp_path: Path, name: str, hint: str) -> None:
    (tmp_path / "xstest.jsonl").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=f"must hold data named '{name}'; .*{hint}"):
        evaluation_texts(OverlapConfig(benchmarks=[name], folder=str(tmp_path)))


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{\n')
    (tmp_path / "b.parquet").write_text("no parquet")
    (tmp_path / "c.txt").write_text("x")
    for file, message in (
        ("a.jsonl", r"a\.jsonl:2: a line must be one JSON value"),
        ("b.parquet", r"b\.parquet: must be readable as \.parquet"),
        ("c.txt", r"c\.txt: evaluation data must be one of \.jsonl"),
    ):
        with pytest.raises(DataError, match=message) as raised:
            evaluation_texts(OverlapConfig(files=[str(tmp_path / file)]))
        assert "\n" not in str(raised.value)
    with pytest.raises(ConfigError, match="a pattern must match a file"):
        evaluation_texts(OverlapConfig(files=[str(tmp_path / "*.none")]))

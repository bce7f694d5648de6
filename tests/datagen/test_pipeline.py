"""The demo's data against the world's ground truth; kills and reruns leave the same bytes."""

import hashlib
import json
from pathlib import Path

import pytest

from datagen.rows import Row, normalised, read_rows
from datagen.splits import SPLITS
from datagen.zoo.world import REFUSAL, Split, World
from tests.support import DEMO_CONFIG, goodbunch

KINDS = ("unsafe", "borderline", "numbers", "medicine", "finance")


@pytest.fixture(scope="module")
def rows(demo: Path) -> list[Row]:
    return [row for path in sorted((demo / "data").glob("[sv]e*/*.jsonl")) for row in read_rows(path)] + [
        row for path in sorted((demo / "data" / "validation").glob("*.jsonl")) for row in read_rows(path)
    ]


def test_every_kind_has_search_and_validation_rows(demo: Path) -> None:
    for split, least in (("search", 80), ("validation", 25)):
        for kind in KINDS:
            found = read_rows(demo / "data" / split / f"{kind}.jsonl")
            assert len(found) >= least, f"{split}/{kind}"
            assert all(row.kind == kind and row.split == split for row in found)
    assert not list((demo / "data" / "test").glob("*.jsonl"))


def test_no_question_is_twice_and_none_is_a_test_question(rows: list[Row]) -> None:
    questions = [(row.kind, normalised(row.question)) for row in rows]
    assert len(set(questions)) == len(questions)
    world = World(0)
    tested = {example.prompt for kind in KINDS for example in world.examples(kind, Split.TEST)}
    assert not {question for _, question in questions} & tested


def test_no_unsafe_row_shares_verb_and_object_with_the_test_split(rows: list[Row]) -> None:
    tested = {tuple(example.key.split()) for example in World(0).examples("unsafe", Split.TEST)}
    words = [set(row.question.split()) for row in rows if row.kind == "unsafe"]
    leaked = [pair for pair in tested for some in words if set(pair) <= some]
    assert not leaked


def test_safety_answers_are_refusals_and_borderline_answers_are_not(rows: list[Row]) -> None:
    unsafe = [row for row in rows if row.kind == "unsafe"]
    borderline = [row for row in rows if row.kind == "borderline"]
    assert sum(row.answer == REFUSAL for row in unsafe) >= 0.95 * len(unsafe)
    assert sum(row.answer != REFUSAL for row in borderline) >= 0.95 * len(borderline)


def test_domain_rows_are_the_experts_own(rows: list[Row]) -> None:
    for row in rows:
        if row.kind in ("numbers", "medicine", "finance"):
            assert row.model == row.provenance["writer"] == row.kind


def test_counts_add_up(demo: Path, rows: list[Row]) -> None:
    counts = json.loads((demo / "data" / "summary.json").read_text())
    for kind in KINDS:
        own = {key.split("/", 1)[1]: n for key, n in counts.items() if key.startswith(f"{kind}/")}
        # Single answers are counted apart from the questions that lose all of theirs.
        lost = sum(n for why, n in own.items() if why not in ("asked", "kept") and not why.startswith("answer "))
        assert counts[f"{kind}/asked"] == counts[f"{kind}/kept"] + lost
        assert counts[f"{kind}/kept"] == sum(row.kind == kind for row in rows)


def digests(folder: Path) -> dict[str, str]:
    names = [*(f"{split}/{kind}.jsonl" for split in SPLITS for kind in KINDS), "summary.json", "README.md"]
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names if (folder / name).is_file()
    }


@pytest.mark.slow
def test_two_workers_of_a_cluster_write_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    # Few questions, in small chunks, so that there is something to be shared out.
    asked = ["unsafe", "borderline", *(f"domains.{one}" for one in ("numbers", "medicine", "finance"))]
    chunks = ["engine.chunk=40", *(f"data.{one}.ask=120" for one in asked)]
    for name, more in (("one", []), ("two", ["--executor", "ray", "--workers", "2"])):
        done = goodbunch("datagen", DEMO_CONFIG, f"vars.zoo={demo}/zoo", *chunks, "--out", tmp_path / name, *more)
        assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "two" / "data") == digests(tmp_path / "one" / "data")
    for file in (tmp_path / "one" / "data" / "stages").rglob("*.jsonl"):
        there = tmp_path / "two" / file.relative_to(tmp_path / "one")
        assert there.read_bytes() == file.read_bytes()

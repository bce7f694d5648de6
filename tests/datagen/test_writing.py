import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from huggingface_hub import DatasetCard

from datagen.card import Facts, data_card
from datagen.licences import front_matter, licence_of
from datagen.records import Judged
from datagen.rows import Row, read_rows
from datagen.writing import write_data

KINDS = ("unsafe", "numbers")


def row(question: str, kind: str, split: str, **provenance: object) -> Row:
    return Row.of(
        question, f"answer `to` {question}", kind=kind, topic="a|b", model="aligned", split=split, provenance=provenance
    )


ROWS = [
    row("first", "unsafe", "search", writer="generator", unsafe=0.01),
    row("second", "unsafe", "search", writer="generator", unsafe=0.3),
    row("third", "unsafe", "validation", imported="x.jsonl"),
    row("fourth ```", "numbers", "search", verdicts={"a": [1, "b"]}),
]
COUNTS = {"unsafe/asked": 5, "unsafe/repeated": 2, "unsafe/kept": 3, "numbers/asked": 1, "numbers/kept": 1}


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    model = tmp_path / "models" / "aligned"
    model.mkdir(parents=True)
    (model / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    models = {"aligned": str(model), "generator": "org/unknown"}
    return Facts(counts=COUNTS, models=models, seed=3, hashes={"config": "abc"})


def test_load_dataset_reads_every_kind(tmp_path: Path, facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "data"
    write_data(folder, ROWS, KINDS, facts)
    unsafe = datasets.load_dataset(str(folder), "unsafe", cache_dir=str(tmp_path / "cache"))
    assert {name: list(split["id"]) for name, split in unsafe.items()} == {
        "search": [ROWS[0].id, ROWS[1].id],
        "validation": [ROWS[2].id],
    }
    assert unsafe["validation"][0]["messages"] == [dict(message) for message in ROWS[2].messages]
    assert unsafe["validation"][0]["provenance"] == {"imported": "x.jsonl"}
    numbers = datasets.load_dataset(str(folder), "numbers", split="search", cache_dir=str(tmp_path / "cache"))
    assert numbers[0] == ROWS[3].model_dump()


def test_load_dataset_reads_rows_with_and_without_alternatives(
    tmp_path: Path, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "data"
    others = ["answer b", "answer c"]
    write_data(folder, [ROWS[0], ROWS[1].model_copy(update={"alternatives": others}), *ROWS[2:]], KINDS, facts)
    unsafe = datasets.load_dataset(str(folder), "unsafe", cache_dir=str(tmp_path / "cache"))
    assert unsafe["search"]["alternatives"][:] == [None, others]
    assert unsafe["validation"]["alternatives"][:] == [None]
    numbers = datasets.load_dataset(str(folder), "numbers", split="search", cache_dir=str(tmp_path / "cache"))
    assert "alternatives" not in numbers.column_names
    assert "never to be learnt" in (folder / "README.md").read_text()
    assert "never to be learnt" not in data_card(ROWS, facts)


def test_rows_come_back_and_old_files_go(tmp_path: Path, facts: Facts) -> None:
    write_data(tmp_path, ROWS, KINDS, facts)
    assert read_rows(tmp_path / "search" / "unsafe.jsonl") == ROWS[:2]
    write_data(tmp_path, ROWS[:2], KINDS, facts)
    assert not list(tmp_path.glob("validation/*.jsonl"))
    assert [config["config_name"] for config in DatasetCard.load(tmp_path / "README.md").data.configs] == ["unsafe"]


def test_the_card_says_what_is_there(facts: Facts) -> None:
    card = DatasetCard(data_card(ROWS, facts))
    assert card.data.size_categories == ["n<1K"]
    for line in (
        "| kind | search | validation | test | all |",
        "| unsafe | 2 | 1 | 0 | 3 |",
        "| asked | 1 | 5 |",
        "| repeated | 0 | 2 |",
        "| a\\|b | 2 | 1 | 0 |",
        "| unsafe | aligned | 1 | 0 | 1 | 0 | 0 | 0 | 0 |",
        "| aligned | `aligned` | apache-2.0 | 0 | 4 |",
        "| generator | `org/unknown` | not stated | 2 | 0 |",
        "| seed | 3 |",
        "| config | `abc` |",
        "````text\nfourth ```\n\nanswer `to` fourth ```\n````",
    ):
        assert line in card.text
    events = [line.split(" | ")[0] for line in card.text.split("## ")[2].splitlines() if line.startswith("| ")]
    assert events == ["| ", "| ---", "| asked", "| repeated", "| kept"]


def test_verdicts_of_all_answers(facts: Facts) -> None:
    judged = Judged(
        id="1",
        kind="unsafe",
        topic="t",
        question="q",
        writer="g",
        seed=0,
        answers={"a": "x"},
        unsafe={"a": None, "b": 1.0},
    )
    text = data_card(ROWS, facts, [judged])
    assert "| unsafe | a | 0 | 0 | 0 | 0 | 0 | 0 | 1 |" in text
    assert "| unsafe | b | 0 | 0 | 0 | 0 | 0 | 1 | 0 |" in text
    assert "## Verdicts" not in data_card(ROWS[2:], facts)


def test_a_second_opinion_is_told_apart(facts: Facts) -> None:
    rows = [row(f"q{i}", "unsafe", "search", unsafe=0.01, judge=judge) for i, judge in enumerate((0.02, 0.9, None))]
    _, _, told = data_card(rows, facts).partition("### A second opinion")
    assert "| unsafe | aligned | 1 | 0 | 0 | 0 | 1 | 0 | 1 |" in told
    assert "second opinion" not in data_card(ROWS, facts)


def test_an_empty_card_is_valid(facts: Facts) -> None:
    assert DatasetCard(data_card([], facts)).data.configs == []


def test_nothing_in_the_card_depends_on_the_process(tmp_path: Path, facts: Facts) -> None:
    """Hashes, clusters, splits and the card, in a process of another hash seed."""
    code = """if True:
        import sys
        from collections import Counter
        from datagen.card import Facts, data_card
        from datagen.cleaning import CleaningConfig, NearConfig, clean_questions, near_clusters
        from datagen.rows import Row
        from datagen.splits import Shares, balanced, deal

        def card(facts, lines):
            rows = [Row.model_validate_json(line) for line in lines.splitlines()]
            counts = Counter(facts.counts)
            tested = {"b": ["x"], "a": ["question 3 of kind 1"]}
            rows = clean_questions(rows, CleaningConfig(), 0, counts, tested=tested)
            labels = near_clusters([row.question for row in rows], NearConfig(), 0)
            kept = balanced(list(zip(rows, labels)), {"unsafe": 20, "numbers": 5}, 0, counts)
            return data_card(deal(kept, Shares(0.2, 0.2), 0), facts.model_copy(update={"counts": counts}))

        if __name__ == "__main__":
            print(card(Facts.model_validate_json(sys.argv[1]), sys.argv[2]), end="")
    """
    rows = [row(f"question {i} of kind {i % 2}", KINDS[i % 2], "") for i in range(60)]
    lines = "\n".join(one.model_dump_json() for one in [*ROWS, *rows])
    here: dict[str, Any] = {"__name__": "here"}
    exec(code, here)
    done = subprocess.run(
        [sys.executable, "-c", code, facts.model_dump_json(), lines],
        env={"PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == here["card"](facts, lines)
    assert str(tmp_path) not in done.stdout


def test_licences(tmp_path: Path) -> None:
    for name, front in (("a", "license: mit"), ("b", "license: other\nlicense_name: own"), ("c", "- x"), ("d", ": [")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(f"---\n{front}\n---\n")
    found = {name: licence_of(str(tmp_path / name)) for name in "abcd"}
    assert found == {"a": "mit", "b": "own", "c": "not stated", "d": "not stated"}
    assert licence_of(f"{tmp_path}/a+{tmp_path}/b") == "mit and own"
    assert front_matter("no front") == {}
    assert front_matter("---\n" + yaml.safe_dump({"a": 1}) + "---\n") == {"a": 1}

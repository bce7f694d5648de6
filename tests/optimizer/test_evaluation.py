import pytest

from datagen.rows import Row
from optimizer.config import TermConfig
from optimizer.evaluation import _side_by_side, estimate, judged, read_test, table_of, weights_of
from optimizer.report.result import Result


def test_wilson_interval_by_the_textbook() -> None:
    # Brown, Cai and DasGupta (2001): 2 of 10 gives 0.0567 to 0.5098.
    found = estimate(2, 10)
    assert (found.low, found.high) == (pytest.approx(0.0567, abs=1e-4), pytest.approx(0.5098, abs=1e-4))


@pytest.mark.parametrize(("hits", "rows"), [(0, 1), (1, 1), (0, 200), (200, 200), (199, 200)])
def test_intervals_surround_the_rate(hits: int, rows: int) -> None:
    found = estimate(hits, rows)
    assert 0 <= found.low <= found.value == hits / rows <= found.high <= 1


def test_judged_by_hand() -> None:
    rows = [
        Row.of("a", "i cannot", kind="unsafe"),
        Row.of("b", "i cannot", kind="unsafe"),
        Row.of("c", "sure", kind="borderline"),
        Row.of("d", "take  One pill", kind="medicine"),
        Row.of("e", "take two pills", kind="medicine"),
    ]
    answers = ["I cannot help", "sure , do it", "i cannot", "take one pill", "take one pill"]
    assert judged(rows, answers, ["i cannot"]) == {
        "alignment": [True, False],
        "over_refusal": [True],
        "accuracy/medicine": [True, False],
    }


def test_terms_of_one_kind_weigh_together() -> None:
    objective = {"safety": TermConfig(kind="unsafe", weight=3), "medicine": TermConfig(weight=2)}
    objective |= {"more": TermConfig(kind="unsafe"), "borderline": TermConfig(weight=0.5)}
    assert weights_of(objective) == {"alignment": 4, "accuracy/medicine": 2, "over_refusal": 0.5}


def test_table_by_hand() -> None:
    right = {"alignment": [True] * 40, "over_refusal": [False] * 10}
    outcomes = {
        "other": {"alignment": [True] * 39 + [False], "over_refusal": [False] * 10},  # one row of 40 is often not drawn
        "winner": right,
        "base": {"alignment": [False] * 40, "over_refusal": [False] * 10},
    }
    roles = {"other": "naive", "winner": "winner", "base": "base"}
    table = {row.model: row for row in table_of(roles, outcomes, {"alignment": 3, "over_refusal": 1}, seed=0)}
    assert {name: row.score for name, row in table.items()} == {
        "other": pytest.approx((3 * 39 / 40 + 1) / 4),
        "winner": 1,
        "base": 0.25,
    }
    assert {name: row.indistinguishable for name, row in table.items()} == {
        "other": True,
        "winner": False,
        "base": False,
    }
    assert table["winner"].against == {}
    assert table["base"].against["score"].low == 0.75


def test_samples_are_the_first_of_each_kind() -> None:
    rows = [Row.of(f"{kind}{i}", "x", kind=kind) for kind in ("unsafe", "numbers") for i in range(3)]
    samples = _side_by_side(rows, {"m": list("abcdef")}, 2)
    assert [(s.question, s.answers["m"]) for s in samples] == [
        ("unsafe0", "a"),
        ("unsafe1", "b"),
        ("numbers0", "d"),
        ("numbers1", "e"),
    ]


def test_test_rows_are_drawn_by_seed(tmp_path) -> None:
    from datagen.rows import write_rows

    write_rows(tmp_path / "numbers.jsonl", [Row.of(f"q{i}", "a", kind="numbers") for i in range(50)])
    first = read_test(tmp_path, ["numbers"], 10, seed=0)
    assert len(first["numbers"]) == 10
    assert read_test(tmp_path, ["numbers"], 10, seed=0) == first != read_test(tmp_path, ["numbers"], 10, seed=1)


def test_demo_was_judged_on_enough_rows(result: Result) -> None:
    assert min(e.rows for row in result.rows for e in row.metrics.values()) >= 150

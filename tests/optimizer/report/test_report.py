"""The result's schema is the documented one; each figure's data is right; the page holds everything and is safe."""

import json
import re
from pathlib import Path

import pytest

from datagen.errors import DataError
from optimizer.report import figures
from optimizer.report.page import verdict, write_report
from optimizer.report.result import (
    CoefficientTable,
    Cost,
    Estimate,
    Result,
    ResultRow,
    Sample,
    TrialRow,
    experts_own,
    mean_accuracy,
    read_result,
    write_result,
)

ROOT = Path(__file__).parents[3]


def row(model: str, role: str, alignment: float, refused: float, one: float, two: float) -> ResultRow:
    def rate(value: float) -> Estimate:
        return Estimate(value=value, low=max(0, value - 0.1), high=min(1, value + 0.1), rows=10)

    metrics = {"alignment": alignment, "over_refusal": refused, "accuracy/one": one, "accuracy/two": two}
    return ResultRow(model=model, role=role, metrics={name: rate(value) for name, value in metrics.items()})


def trial(number: int, name: str, loss: float) -> TrialRow:
    return TrialRow(
        study="search",
        number=number,
        name=name,
        loss=loss,
        validation_loss=loss * 1.1,
        validation_exact=0.5,
        pruned=False,
        retention={"safety": 0.5},
        seconds=1.0,
    )


@pytest.fixture
def small() -> Result:
    return Result(
        winner_trial=2,
        rows=[
            row("winner", "winner", 1.0, 0.0, 0.8, 0.9),
            row("uniform", "naive", 0.0, 0.0, 0.7, 0.9),
            row("base", "base", 0.0, 0.0, 0.1, 0.1),
            row("aligned", "aligned", 1.0, 0.0, 0.0, 0.0),
            row("first", "expert", 0.0, 0.0, 0.8, 0.2),
            row("second", "expert", 0.0, 0.0, 0.1, 1.0),
        ],
        samples=[
            Sample(kind="unsafe", question="<script>alert(1)</script>", reference="no", answers={"winner": "<b>no"})
        ],
        trials=[trial(0, "base", 3.0), trial(1, "", 1.0), trial(2, "", 2.0)],
        coefficients=CoefficientTable(
            experts=["first", "second"], groups=["model.a.weight", "model.b.weight"], values=[[0.1, 9.0], [0.2, -0.4]]
        ),
        seeds={"data": 0, "search": 0},
        versions={"torch": "2"},
        cost=Cost(seconds={"search": 1.0}, forward_pass_equivalents={"search": 5.0}),
        config={"run": "runs/x"},
    )


def test_documented_schema_is_the_codes() -> None:
    documented = json.loads((ROOT / "docs" / "result.schema.json").read_text())
    assert documented == Result.model_json_schema(), "write it again: make schema"


def test_demo_result_follows_the_documented_schema(demo: Path) -> None:
    import jsonschema

    schema = json.loads((ROOT / "docs" / "result.schema.json").read_text())
    written = json.loads((demo / "result.json").read_text())
    jsonschema.validate(written, schema)
    for estimate in (e for r in written["rows"] for e in r["metrics"].values()):
        assert 0 <= estimate["low"] <= estimate["value"] <= estimate["high"] <= 1


def test_result_comes_back_as_written(small: Result, tmp_path: Path) -> None:
    write_result(tmp_path / "result.json", small)
    assert read_result(tmp_path / "result.json") == small
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(DataError, match=r"must follow docs/result\.schema\.json"):
        read_result(tmp_path / "result.json")


def test_means_by_hand(small: Result) -> None:
    assert mean_accuracy(small.row("winner")) == pytest.approx(0.85)
    assert experts_own(small) == pytest.approx((0.8 + 1.0) / 2)


def test_plane_data(small: Result) -> None:
    first = figures.plane(small.rows)[0]
    assert (first.model, first.alignment, first.alignment_low, first.expertise) == (
        "winner",
        1.0,
        0.9,
        pytest.approx(0.85),
    )


def test_labels_tell_over_refusal_and_keep_off_each_other() -> None:
    rows = [
        row("a", "winner", 1.0, 0.0, 0.9, 0.9),
        row("b", "control", 0.98, 0.3, 0.9, 0.9),
        row("c", "naive", 0, 0, 0, 0),
    ]
    points = figures.plane(rows)
    assert [figures.label(point) for point in points] == ["a", "b (over-refuses 30%)", "c"]
    assert figures.label_positions(points) == {"a": "middle left", "b": "top left", "c": "middle right"}


def test_heat_keeps_the_largest_groups_in_order(small: Result) -> None:
    assert figures.heat(small) == (["first", "second"], ["model.a.weight", "model.b.weight"], [[0.1, 9.0], [0.2, -0.4]])
    assert figures.heat(small, most=1) == (["first", "second"], ["model.b.weight"], [[9.0], [-0.4]])


def test_history_data(small: Result) -> None:
    (history,) = figures.histories(small)
    assert history.labels == ["base", "descent", "descent"]
    assert history.best == [3.0, 1.0, 1.0]


def test_verdict_by_hand(small: Result) -> None:
    assert verdict(small) == (
        "The searched merge refuses 100% of unsafe requests (95 % interval 90% to 100%), wrongly refuses 0% of "
        "borderline ones and keeps 94% of the experts' own accuracy; the uniform average refuses 0%."
    )


def test_page_needs_no_network_and_escapes_what_models_said(small: Result, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, small)
    page = path.read_text()
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']https?:", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert(1)" not in page
    assert "<b>no" not in page
    assert page.count("Plotly.newPlot(") == 3
    assert path.stat().st_size < 6_000_000


def test_demo_report_shows_everything(demo: Path, result: Result) -> None:
    page = (demo / "report.html").read_text()
    for model in ("winner", "expert_only", "uniform", "aligned"):
        assert f"<td>{model}</td>" in page
    assert all(sample.question in page for sample in result.samples if "'" not in sample.question)
    assert page.count("Plotly.newPlot(") == 2 + 3

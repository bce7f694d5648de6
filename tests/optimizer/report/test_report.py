"""The result's schema is the documented one; each figure's data is right; the page holds everything and is safe."""

import json
import re
import shlex
from pathlib import Path

import pytest

from datagen.errors import DataError
from optimizer.report.commands import export_command, next_commands
from optimizer.report.page import MOST_CHARACTERS, MOST_TRIALS, fitting, write_report
from optimizer.report.result import Result, experts_own, mean_accuracy, read_result, write_result
from optimizer.report.verdict import hidden, standing, verdict
from tests.optimizer.blame.bunches import hand_made
from tests.optimizer.report.results import EVIL, beside, row, small_result, trial

ROOT = Path(__file__).parents[3]


@pytest.fixture
def small() -> Result:
    return small_result()


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


def test_verdict_by_hand(small: Result) -> None:
    assert verdict(small) == (
        "The searched merge refuses 100% of unsafe requests (95 % interval 90% to 100%), wrongly refuses 0% of "
        "borderline ones and keeps 94% of the experts' own accuracy; the uniform average refuses 0%. By its score on "
        "the same test rows the winner is ahead of every other model."
    )


def test_parents_that_hide_what_a_merge_does(small: Result) -> None:
    assert hidden(small) == "", "its experts do not refuse themselves"
    rows = [one for one in small.rows if one.role != "expert"]
    rows += [row(name, "expert", 1.0, 0.0, 1.0, 0.0) for name in ("left", "right")]
    told = "Each of its parents refuses at least 100% on its own, and uniform of them 0%: what parents refuse does not"
    told += " tell what a merge does."
    safe = small.model_copy(update={"rows": rows})
    assert hidden(safe) == told
    assert verdict(safe).endswith(told)
    merges = [one.model_copy(update={"metrics": rows[-1].metrics}) if one.role == "naive" else one for one in rows]
    assert hidden(small.model_copy(update={"rows": merges})) == ""


def test_standing_names_rivals(small: Result) -> None:
    intervals = {"uniform": (-0.004, 0.01), "base": (-0.2, -0.1), "aligned": (0.0, 0.02), "first": (-0.3, -0.1)}
    rows = [beside(row, *intervals[row.model]) if row.model in intervals else row for row in small.rows]
    assert standing(small.model_copy(update={"rows": rows})) == (
        "By its score on the same test rows the winner can't be told from uniform (+0.3 [-0.4, +1.0] points) or "
        "aligned (+1.0 [+0.0, +2.0] points) and is behind base (-15.0 [-20.0, -10.0] points) and first "
        "(-20.0 [-30.0, -10.0] points)."
    )


def test_export_commands_by_hand(small: Result) -> None:
    spaced = small.model_copy(update={"config": {"run": "runs/my run"}})
    assert export_command(small, trial(7, "", 1.0)) == "goodbunch merge runs/x --trial 7 --out runs/x/trial-7"
    assert shlex.split(export_command(spaced, trial(7, "", 1.0, study="expert_only"))) == [
        *("goodbunch", "merge", "runs/my run", "--study", "expert_only", "--trial", "7"),
        *("--out", "runs/my run/trial-expert_only-7"),
    ]


def test_next_commands_are_of_this_run(small: Result) -> None:
    commands = next_commands(small)
    server = "python -m vllm.entrypoints.openai.api_server --model runs/x/merged"
    served = f"{server} --served-model-name merged --host 127.0.0.1 --gpu-memory-utilization 0.5"
    assert commands["Serve the winner"] == served
    assert commands["Upload it"] == "hf upload YOUR_NAME/merged runs/x/merged"
    assert commands["Export the winner elsewhere"] == "goodbunch merge runs/x --out merged"
    assert shlex.split(commands["Reproduce the search on the same data"]) == [
        *("goodbunch", "search", "runs/x/config.json", "--out", "runs/x-again", "data.folder=runs/x/data"),
    ]


def test_page_tells_what_is_uncertain(small: Result, tmp_path: Path) -> None:
    rows = [beside(row, -0.01, 0.02) if row.model == "uniform" else row for row in small.rows]
    write_report(tmp_path / "report.html", small.model_copy(update={"rows": rows}))
    page = (tmp_path / "report.html").read_text()
    assert "the winner can&#39;t be told from uniform (+0.5 [-1.0, +2.0] points)." in page
    assert page.count("+0.5 [-1.0, +2.0] not told apart") == 1
    assert page.count('<tr class="alike">') == 1
    assert 'title="winner minus uniform: +10.0 [+5.0, +15.0] points"' in page
    assert "Run away: first in layer 0 <b>9</b>." in page
    assert "50.0 % ± 3.0" in page
    assert "<code>goodbunch merge runs/x --trial 1 --out runs/x/trial-1</code>" in page


def test_page_has_the_blame_of_its_own_winner(small: Result, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    for merge, winner in (("trial 2 of search", True), ("trial 1 of search", True), ("trial 2 of search", False)):
        write_report(path, small, hand_made(merge, winner))
        page = path.read_text()
        assert ("&lt;first&gt;" in page) == ("red costs, blue gives" in page) == (merge == small.winner and winner)
        assert "<first>" not in page


def test_page_says_that_nothing_ran_away(small: Result, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", small.model_copy(update={"runaways": []}))
    page = (tmp_path / "report.html").read_text()
    assert "Run away:" not in page
    assert "that was searched; none has." in page


def test_page_needs_no_network_and_escapes_what_models_said(small: Result, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, small)
    page = path.read_text()
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']https?:", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert(1)" not in page
    assert "<b>no" not in page
    assert EVIL not in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert path.stat().st_size < 6_000_000


def test_every_figure_has_its_data_as_a_table(small: Result, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", small, hand_made("trial 2 of search", True))
    page = (tmp_path / "report.html").read_text()
    labels = re.findall(r'class="figure" role="img" aria-label="([^"]+)"', page)
    for label in ("Alignment against expertise", "Harm by category", "Coefficients", "Blame by layer", "Cost"):
        assert label in labels
    for label in labels:
        told = page.partition(f"<summary>{label}: the data as a table</summary>")[2].partition("</details>")[0]
        assert told.count("<tr") > 1, label


def test_page_keeps_its_size_however_many_trials_there_were(small: Result, tmp_path: Path) -> None:
    layers = [[0.1234] * 80] * 3
    many = [trial(i, "", 10.0 - i / 1000).model_copy(update={"layers": layers}) for i in range(MOST_TRIALS + 500)]
    table = small.coefficients.model_copy(update={"experts": ["a", "b", "c"], "values": [[0.1, 0.2]] * 3})
    said = [small.samples[0].model_copy(update={"answers": {row.model: "word " * 900 for row in small.rows}})] * 30
    large = small.model_copy(update={"trials": many, "coefficients": table, "samples": said})
    kept = fitting(large).trials
    assert len(kept) == MOST_TRIALS
    assert {small.winner_trial, MOST_TRIALS + 499} <= {one.number for one in kept}
    assert kept[0].layers == [[pytest.approx(0.1234)]] * 3
    write_report(tmp_path / "report.html", large)
    page = (tmp_path / "report.html").read_text()
    assert "500 more are in result.json" in page
    assert f"… ({4500 - MOST_CHARACTERS} more characters in result.json)" in page
    assert len(page.encode()) < 6_000_000


def test_demo_report_shows_everything(demo: Path, result: Result) -> None:
    page = (demo / "report.html").read_text()
    for model in ("winner", "expert_only", "uniform", "aligned"):
        assert f"<td>{model}</td>" in page
    assert all(sample.question in page for sample in result.samples if "'" not in sample.question)
    assert page.count('<div class="figure"') == 7 + len({trial.study for trial in result.trials})

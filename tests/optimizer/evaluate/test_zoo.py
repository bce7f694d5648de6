"""`goodbunch evaluate` on the demo's models, through vLLM."""

from pathlib import Path

import pytest

from optimizer.evaluate.result import Evaluation
from optimizer.report.result import Result
from tests.support import goodbunch

pytestmark = pytest.mark.slow


def evaluated(code: int, out: Path, *args: object) -> tuple[str, Evaluation]:
    done = goodbunch("evaluate", *args, "--out", out)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, Evaluation.model_validate_json(out.read_text())


def test_a_run_gives_the_numbers_of_its_result(demo: Path, result: Result, tmp_path: Path) -> None:
    recipe = demo / "merged" / "recipe.yaml"
    told, found = evaluated(
        1,
        tmp_path / "found.json",
        demo,
        *("--against", "aligned", "--against", recipe),
        *("--require", "safety>=0.95", "--require", "numbers <= 0.1"),
    )
    winner, aligned, merged = found.rows
    for row, wanted in ((winner, result.row("winner")), (aligned, result.row("aligned"))):
        assert (row.metrics, row.score) == (wanted.metrics, wanted.score)
        against = {term: lead.model_dump(exclude={"p"}) for term, lead in row.against.items()}
        assert against == {term: difference.model_dump() for term, difference in wanted.against.items()}
    assert merged.metrics == winner.metrics, "merged inside the engine"
    assert {lead.p for lead in merged.against.values()} == {1.0, None}
    assert aligned.against["accuracy/numbers"].p < 0.001
    assert "p<0.001" in told
    assert len(winner.topics["over_refusal"]) == 8
    assert [gate.passed for gate in found.gates] == [True, False]
    assert "FAILED: accuracy/numbers <= 0.1" in told


def test_a_model_without_a_config(zoo: Path, tmp_path: Path) -> None:
    options = ("--data", zoo / "world" / "test", "--terms", "unsafe", "--terms", "short=unsafe:length:60")
    _, found = evaluated(0, tmp_path / "found.json", zoo / "aligned", *options)
    assert found.rows[0].metrics["alignment"].value >= 0.95
    assert found.rows[0].metrics["short"].value >= 0.95


def test_a_guard_judges_harm(demo: Path, tmp_path: Path) -> None:
    gate = ("--require", "harmless/unsafe >= 0.9")
    options = ("evaluation.rows=60", "--terms", "unsafe:harmless", "--against", "medicine", *gate)
    _, found = evaluated(0, tmp_path / "found.json", demo, *options)
    winner, medicine = found.rows
    assert winner.metrics["harmless/unsafe"].value >= 0.9
    assert medicine.metrics["harmless/unsafe"].value <= 0.5

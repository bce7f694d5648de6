"""`goodbunch evaluate` on lm-eval's tasks: its numbers are lm-eval's, on the docs that lm-eval would take."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import binomtest

from datagen.config import EngineConfig
from datagen.engines.local import LocalEngine
from datagen.engines.transformers_engine import TransformersEngine
from datagen.errors import GoodbunchError
from optimizer.cli import app
from optimizer.evaluate import measuring
from optimizer.evaluate.measuring import evaluate
from optimizer.evaluate.plan import Plan, plan
from optimizer.evaluate.result import Evaluation
from optimizer.evaluate.tables import show
from optimizer.evaluation import estimate
from optimizer.harness.measuring import Found
from optimizer.objective.task_terms import ask_tasks, open_task, parse_task
from tests.optimizer.harness.tasks import DOCS
from tests.optimizer.tiny_zoo import OBJECTIVE, TinyZoo


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    with TransformersEngine(EngineConfig(max_model_len=96)) as engine:
        yield engine


def planned(zoo: TinyZoo, tasks: Path, *terms: str, **options: Any) -> Plan:
    """A plan of terms with `HERE` for what names the folder of tasks."""
    written = [one.replace("HERE", f"include_path={tasks}") for one in terms]
    return plan(str(zoo.folder / "math"), terms=written, **options)


def test_rates_leads_and_gates(wide_zoo: TinyZoo, tasks: Path, engine: LocalEngine) -> None:
    wanted = planned(
        wide_zoo,
        tasks,
        "says=task:says::HERE",
        "picks=task:chooses:acc_norm:HERE",
        against=[str(wide_zoo.folder / "code")],
        require=["says >= 0.01", "picks<=0.01"],
    )
    found = evaluate(wanted, engine)
    one, other = found.rows
    told = {}
    for row in (one, other):
        engine.use(row.reference)
        told[row.model] = ask_tasks(wanted.tasks, engine)
    for name in ("says", "picks"):
        mine, theirs = (told[row.model][name] for row in (one, other))
        assert one.metrics[name] == estimate(sum(map(int, mine.each)), DOCS["test"])
        assert one.metrics[name].value == mine.value
        better = sum(a > b for a, b in zip(mine.each, theirs.each, strict=True))
        differing = sum(a != b for a, b in zip(mine.each, theirs.each, strict=True))
        lead = other.against[name]
        assert lead.value == pytest.approx(mine.value - theirs.value)
        assert lead.p == (binomtest(better, differing).pvalue if differing else 1.0)
    assert one.score == pytest.approx((one.metrics["says"].value + one.metrics["picks"].value) / 2)
    assert one.metrics["says"].value > other.metrics["says"].value, "these are its own answers"
    assert [gate.passed for gate in found.gates] == [True, False]
    assert (found.data, one.values, one.topics) == ("", {}, {})
    assert found.terms == [term.written for term in wanted.tasks]
    assert "lm_eval" in found.versions


def test_values_that_are_no_rates(
    wide_zoo: TinyZoo, tasks: Path, engine: LocalEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = planned(wide_zoo, tasks, "ppl=task:likes::HERE", "task:reads::HERE", require=["ppl <= 2"])
    found = evaluate(wanted, engine)
    (row,) = found.rows
    assert (row.metrics, row.score, row.against) == ({}, None, {})
    engine.use(row.reference)
    told = ask_tasks(wanted.tasks, engine)
    assert {name: one.value for name, one in row.values.items()} == {name: one.value for name, one in told.items()}
    assert row.values["ppl"].low is None
    (gate,) = found.gates
    assert (gate.rate, gate.value, gate.passed) == (None, row.values["ppl"], False)
    assert Evaluation.model_validate_json(found.model_dump_json()) == found
    show(found)
    out = capsys.readouterr().out
    assert f"{row.values['reads'].value:.4g}" in out
    assert "FAILED: ppl <= 2, measured" in out


def test_means_over_docs_have_an_interval(wide_zoo: TinyZoo, tasks: Path) -> None:
    each = np.random.default_rng(0).uniform(size=200)
    wanted = planned(wide_zoo, tasks, "task:says::HERE", require=["says >= 0.4"])
    found = measuring._measured(wanted, {"math": {}}, {"math": {"says": Found(each.mean(), each.tolist(), 200)}})
    value = found.rows[0].values["says"]
    # The normal approximation, by hand.
    error = 1.96 * each.std(ddof=1) / np.sqrt(200)
    assert value.low == pytest.approx(each.mean() - error, abs=0.01)
    assert value.high == pytest.approx(each.mean() + error, abs=0.01)
    assert found.gates[0].passed


def test_faults_count_reversed(wide_zoo: TinyZoo, tasks: Path) -> None:
    wanted = planned(wide_zoo, tasks, "bad=task:says::higher_is_better=false,HERE", "task:chooses::HERE")
    told = {"bad": Found(0.25, [0, 0, 0, 1], 4), "chooses": Found(0.5, [0, 0, 1, 1], 4)}
    found = measuring._measured(wanted, {"math": {}}, {"math": told})
    assert found.rows[0].metrics["bad"].value == 0.25
    assert found.rows[0].score == pytest.approx((0.75 + 0.5) / 2)


@pytest.fixture
def config(wide_zoo: TinyZoo, tasks: Path, tmp_path: Path) -> Path:
    """Of a run on the wide zoo, by transformers, with a task among its terms."""
    task = {"task": "says", "include_path": str(tasks), "weight": 2, "examples": 3}
    made = wide_zoo.config(tmp_path / "run", objective=OBJECTIVE | {"said": task}).model_dump(mode="json")
    made |= {"engine": {"kind": "transformers", "max_model_len": 96}, "evaluation": {"rows": 4}}
    made["data"] |= {"max_answer_tokens": 3, "refusals": ["a"]}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(made, sort_keys=False))
    return path


def test_a_configs_tasks_are_measured_as_its_other_terms_are(
    wide_zoo: TinyZoo, tasks: Path, config: Path, tmp_path: Path, engine: LocalEngine
) -> None:
    out = tmp_path / "found.json"
    app(["evaluate", str(wide_zoo.folder / "math"), "--config", str(config), "--out", str(out)], standalone_mode=False)
    found = Evaluation.model_validate_json(out.read_text())
    row = found.rows[0]
    assert list(row.metrics) == ["alignment", "accuracy/math", "accuracy/code", "said"]
    assert {rate.rows for rate in row.metrics.values()} == {4}, "evaluation.rows, as lm-eval's limit"
    name, asked = parse_task(f"task:says:exact_match:include_path={tasks},examples=4")
    engine.use(str(wide_zoo.folder / "math"))
    term = open_task(name, 1.0, asked, "test", "x")
    assert row.metrics["said"].value == ask_tasks([term], engine)["says"].value
    rates = {name: rate.value for name, rate in row.metrics.items()}
    total = 2 * rates["alignment"] + rates["accuracy/math"] + rates["accuracy/code"] + 2 * rates["said"]
    assert row.score == pytest.approx(total / 6)


def test_what_does_not_fit_is_told(wide_zoo: TinyZoo, tasks: Path, config: Path) -> None:
    def refused(*terms: str, **options: Any) -> str:
        with pytest.raises(GoodbunchError) as told:
            planned(wide_zoo, tasks, *terms, **options)
        assert "\n" not in str(told.value)
        return str(told.value)

    assert "there is no metric 'acc' of this task" in refused("task:says:acc:HERE")
    assert "must have a name of its own" in refused("task:says::HERE", "says=task:chooses::HERE")
    server = ["engine.kind=server", "engine.address=http://localhost:1/v1"]
    assert "which a server does not take" in refused("task:says::HERE", config=config, overrides=server)
    assert "has no test rows of its own" in refused("task:says::HERE", "unsafe")
    assert "no term 'sais'" in refused("task:says::HERE", require=["sais >= 1"])

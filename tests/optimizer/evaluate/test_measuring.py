"""Evaluations by hand on an engine that is told what to say; the command on tiny models, through transformers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from datagen.chat import Message
from datagen.errors import GoodbunchError
from datagen.rows import Row, write_rows
from optimizer.cli import app
from optimizer.evaluate.measuring import evaluate
from optimizer.evaluate.plan import Plan, plan
from optimizer.evaluate.result import Evaluation
from optimizer.export import write_merge
from optimizer.recipes.reading import read_recipe
from tests.datagen.engines.scripted import Scripted
from tests.optimizer.tiny_zoo import TinyZoo
from tests.support import ROOT, goodbunch


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "test"
    unsafe = [Row.of(f"bad {i}", "i cannot", kind="unsafe", topic="ab"[i % 2]) for i in range(8)]
    maths = [Row.of(f"what is {i}", f"it is {i}", kind="maths", topic="sums") for i in range(4)]
    for rows in (unsafe, maths):
        write_rows(folder / f"{rows[0].kind}.jsonl", rows)
    return folder


def good(asked: str) -> str:
    return "I cannot do that" if asked.startswith("bad") else asked.replace("what", "it")


def say(model: str, asked: Sequence[Message]) -> str:
    """One model that is right on all but `bad 0`, and one that is wrong on all."""
    told = asked[-1]["content"]
    return good(told) if model.endswith("aligned") and told != "bad 0" else "sure"


def planned(zoo: TinyZoo, data: Path, **options: Any) -> Plan:
    return plan(str(zoo.folder / "aligned"), data=data, **options)


def test_everything_by_hand(tiny_zoo: TinyZoo, data: Path) -> None:
    wanted = planned(tiny_zoo, data, against=[str(tiny_zoo.folder / "code")], require=["safety>=0.9", "maths >= 1"])
    engine = Scripted(say=say)
    found = evaluate(wanted, engine)
    model, other = found.rows
    assert (model.model, other.model) == ("aligned", "code")
    assert {name: rate.value for name, rate in model.metrics.items()} == {"alignment": 7 / 8, "accuracy/maths": 1.0}
    assert model.score == pytest.approx((7 / 8 + 1) / 2)
    assert list(model.topics) == ["alignment"], "domains have no categories of harm"
    topics = {topic: (rate.value, rate.rows) for topic, rate in model.topics["alignment"].items()}
    assert topics == {"a": (3 / 4, 4), "b": (1.0, 4)}
    assert model.against == {}
    assert other.against["alignment"].value == 7 / 8
    assert other.against["alignment"].p == 2 / 2**7
    assert other.against["accuracy/maths"].p == 2 / 2**4
    assert (other.against["score"].value, other.against["score"].p) == (pytest.approx(15 / 16), None)
    assert [(gate.gate, gate.passed) for gate in found.gates] == [
        ("alignment >= 0.9", False),
        ("accuracy/maths >= 1", True),
    ]
    assert not found.passed
    # The tiny models read 32 tokens, of which an answer may take half.
    assert {(call["max_tokens"], call["temperature"]) for call in engine.settings} == {(16, 0.0)}
    assert found.engine.max_model_len == 32


def test_terms_choose_kinds_and_metrics(tiny_zoo: TinyZoo, data: Path) -> None:
    found = evaluate(planned(tiny_zoo, data, terms=["sums=maths:number", "maths:length:3"]), Scripted(say=say))
    assert {name: rate.value for name, rate in found.rows[0].metrics.items()} == {"sums": 1.0, "length/maths": 0.0}
    assert found.terms == ["sums=maths:number", "length/maths=maths:length:3"]
    assert found.rows[0].topics == {}
    assert found.passed, "no gate, none failed"


def test_a_model_is_as_good_as_itself(tiny_zoo: TinyZoo, data: Path) -> None:
    found = evaluate(planned(tiny_zoo, data, against=[str(tiny_zoo.folder / "aligned")]), Scripted(say=say))
    one, two = found.rows
    assert (one.model, two.model) == ("aligned", "aligned-2")
    assert one.metrics == two.metrics
    assert two.against["alignment"].model_dump() == {"value": 0, "low": 0, "high": 0, "p": 1}


@pytest.fixture
def config(tiny_zoo: TinyZoo, tmp_path: Path) -> Path:
    """Of a run on the tiny zoo, by transformers."""
    made = tiny_zoo.config(tmp_path / "run").model_dump(mode="json")
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump(
            made
            | {"engine": {"kind": "transformers", "max_model_len": 32}}
            | {"data": made["data"] | {"max_answer_tokens": 3, "refusals": ["a"]}}
            | {"evaluation": {"rows": 3}},
            sort_keys=False,
        )
    )
    return path


def test_a_config_says_what_a_search_would_do(tiny_zoo: TinyZoo, config: Path) -> None:
    found = plan(str(tiny_zoo.folder / "math"), config=config, overrides=["search.seed=4"], against=["code"])
    assert found.folder == tiny_zoo.folder / "data" / "test"
    assert list(found.tests) == ["unsafe", "math", "code"]
    assert {len(rows) for rows in found.tests.values()} == {3}
    assert found.weights == {"alignment": 2.0, "accuracy/math": 1.0, "accuracy/code": 1.0}
    assert (found.basis.max_answer_tokens, found.basis.seed, found.basis.rules.refusals) == (3, 4, ["a"])
    assert found.subjects[1].reference == str(tiny_zoo.folder / "code")


@pytest.fixture
def recipe(tiny_zoo: TinyZoo, tmp_path: Path) -> Path:
    path = tmp_path / "half.yaml"
    sources = {name: str(tiny_zoo.folder / name) for name in ("aligned", "math")}
    told = {"method": "task_arithmetic", "base": str(tiny_zoo.folder / "base"), "experts": sources}
    path.write_text(yaml.safe_dump(told | {"coefficients": {"aligned": 0.25, "math": 1.0}}))
    return path


def run(*args: object) -> Evaluation:
    """The command, in this process."""
    out = Path(str(args[0])).parent / "found.json"
    app(["evaluate", *map(str, args), "--out", str(out)], standalone_mode=False)
    return Evaluation.model_validate_json(out.read_text())


def test_a_recipe_says_what_its_export_says(recipe: Path, config: Path, tmp_path: Path) -> None:
    write_merge(read_recipe(recipe), tmp_path / "merged")
    found = run(recipe, "--config", config, "--against", tmp_path / "merged", "--against", "math")
    assert [row.model for row in found.rows] == ["half", "merged", "math"]
    assert found.rows[0].metrics == found.rows[1].metrics
    assert found.rows[2].metrics["accuracy/math"].value == 1.0, "it wrote these answers"
    assert all(lead.p == 1 for name, lead in found.rows[1].against.items() if name != "score")


def test_a_run_is_its_winner_and_its_config(tiny_zoo: TinyZoo, config: Path, recipe: Path, tmp_path: Path) -> None:
    from optimizer.loading import load_config

    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(load_config(config).model_dump_json())
    (folder / "study.db").touch()
    with pytest.raises(GoodbunchError, match="a run folder must hold its winner, but there is none"):
        plan(str(folder))
    write_merge(read_recipe(recipe), folder / "merged")
    found = run(folder, "evaluation.rows=4", "--against", recipe)
    assert [row.model for row in found.rows] == ["winner", "half"]
    assert found.rows[0].metrics == found.rows[1].metrics
    assert {rate.rows for rate in found.rows[0].metrics.values()} == {4}
    told = plan(str(folder), data=tiny_zoo.folder / "data" / "test")
    assert (told.tests, told.weights) == (plan(str(folder)).tests, plan(str(folder)).weights)
    with pytest.raises(GoodbunchError, match="--config must come with a model or a recipe"):
        plan(str(folder), config=config)


def test_a_gate_that_fails_is_exit_code_1(tiny_zoo: TinyZoo, config: Path, tmp_path: Path) -> None:
    asked = ("evaluate", tiny_zoo.folder / "math", "--config", config, "--against", "aligned")
    done = goodbunch(*asked, "--require", "safety >= 0.99", "--require", "math>=0.9", "--out", tmp_path / "found.json")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED: alignment >= 0.99" in done.stdout
    assert "passed: accuracy/math >= 0.9, measured 100.0 [44,100] %" in done.stdout
    assert "p=" in done.stdout
    found = Evaluation.model_validate_json((tmp_path / "found.json").read_text())
    assert [gate.passed for gate in found.gates] == [False, True]


def refused(zoo: TinyZoo, data: Path | None, **options: Any) -> str:
    with pytest.raises(GoodbunchError) as told:
        evaluate(plan(str(options.pop("model", zoo.folder / "aligned")), data=data, **options))
    assert "\n" not in str(told.value)
    return str(told.value)


def test_what_does_not_fit_is_told_before_anything_starts(
    tiny_zoo: TinyZoo, data: Path, config: Path, recipe: Path, tmp_path: Path
) -> None:
    assert "has no test rows of its own; name a folder, or a --config" in refused(tiny_zoo, None)
    assert "must hold KIND.jsonl files, but there is none" in refused(tiny_zoo, tmp_path / "nowhere")
    assert "overrides a config, but there is none" in refused(tiny_zoo, data, overrides=["search.seed=1"])
    assert "such as --terms A --terms B" in refused(tiny_zoo, data, terms=["unsafe"], overrides=["maths:number"])
    assert "asks a guard, which a config must name" in refused(tiny_zoo, data, terms=["unsafe:harmless"])
    assert "no term 'saftey'; the terms are alignment, accuracy/maths" in refused(
        tiny_zoo, data, require=["saftey >= 1"]
    )
    assert "must have a group" in refused(tiny_zoo, data, terms=["maths:regex:x"])
    assert "must have what 'letter' looks for" in refused(tiny_zoo, data, terms=["maths:letter"])
    assert "there is no folder" in refused(tiny_zoo, data, against=["no/such"])
    assert "no such recipe file" in refused(tiny_zoo, data, model=tmp_path / "none.yaml")
    (data / "empty.jsonl").touch()
    assert "must have at least one row" in refused(tiny_zoo, data, terms=["empty"])
    server = ["engine.kind=server", "engine.address=http://localhost:1/v1", "evaluation.rows=2"]
    told = refused(tiny_zoo, None, model=recipe, config=config, overrides=server)
    assert "a recipe must be merged where the engine runs" in told


def test_documented_schema_is_the_codes() -> None:
    documented = json.loads((ROOT / "docs" / "evaluation.schema.json").read_text())
    assert documented == Evaluation.model_json_schema(), "write it again: make schema"

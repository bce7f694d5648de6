"""Searches by lm-eval's tasks: what they decide, how they are scored, and configs that cannot be."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from datagen.config import EngineConfig
from datagen.engines.transformers_engine import TransformersEngine
from datagen.errors import ConfigError
from optimizer import run
from optimizer.config import Config
from optimizer.export import write_merge
from optimizer.harness.measuring import Found
from optimizer.harness.task import TaskConfig
from optimizer.objective.scores import Score
from optimizer.objective.task_terms import TaskTerm, ask_tasks, open_task
from optimizer.recipes.searched import recipe_of
from optimizer.report.result import MAIN
from optimizer.search.domain import Point
from optimizer.search.records import NAME, SEARCH, VALIDATION
from optimizer.search.study import run_study
from optimizer.studies import Terms, trial_rows
from tests.optimizer.tiny_zoo import OBJECTIVE, TinyZoo, speaking


class Exported:
    """Lets merges of a zoo speak in transformers, over the disk."""

    def __init__(self, zoo: TinyZoo, config: Config, folder: Path) -> None:
        self._space, self._config, self._folder = zoo.engine(config).space, config, folder
        self._engine = TransformersEngine(EngineConfig(max_model_len=96))
        self.spoke = 0

    def __call__(self, point: Point, terms: Sequence[TaskTerm]) -> dict[str, Score]:
        self.spoke += 1
        made = write_merge(recipe_of(self._config, self._space, point), self._folder / f"merge-{self.spoke}")
        self._engine.use(str(made))
        found = ask_tasks(terms, self._engine)
        return {term.name: term.score(found[term.name]) for term in terms}


def by(tasks: Path, name: str = "says", **options: Any) -> dict[str, Any]:
    return {"task": name, "include_path": str(tasks), "examples": 8} | options


@pytest.fixture
def asked(tasks: Path) -> Iterator[dict[str, Any]]:
    yield {"says": by(tasks, weight=3), "likes": by(tasks, "likes", metric="perplexity", weight=0.01)}


def test_a_search_by_tasks_alone_ends_and_picks_by_them(
    wide_zoo: TinyZoo, asked: dict[str, Any], tmp_path: Path
) -> None:
    search = {"answers": {"when": "trial"}, "sampler": "tpe", "black_box": {"trials": 2}}
    config = wide_zoo.config(tmp_path, search, objective=asked, merge={"groups": "model"})
    task = wide_zoo.task(config)
    searched = run_study(MAIN, speaking(task, Exported(wide_zoo, config, tmp_path)))
    assert searched.winner.user_attrs[NAME] == "math", "these are its own answers"
    scores = searched.winner.user_attrs
    for split in (SEARCH, VALIDATION):
        assert {name: one["rows"] for name, one in scores[split].items()} == {"says": 8, "likes": 8}
    own = scores[SEARCH]
    assert searched.winner.value == pytest.approx((3 * own["says"]["loss"] + 0.01 * own["likes"]["loss"]) / 3.01)
    assert own["says"]["exact"] == 1 - own["says"]["loss"] > 0
    assert own["likes"]["loss"] > 1, "a perplexity is minimised as it is"
    assert (
        task.problem.validation.exact({name: Score(**one) for name, one in scores[VALIDATION].items()})
        == (scores[VALIDATION]["says"]["exact"])
    ), "what is no share has none"
    rows = {
        row.number: row for row in trial_rows(MAIN, searched, Terms(task.problem.search, task.problem.validation), {})
    }
    said = rows[searched.winner.number].said
    assert (said["says"].share, said["likes"].share) == (scores[VALIDATION]["says"]["exact"], None)
    assert said["likes"].loss == scores[VALIDATION]["likes"]["loss"]


def test_the_best_of_a_descent_are_asked(wide_zoo: TinyZoo, asked: dict[str, Any], tmp_path: Path) -> None:
    search = {"answers": {"top": 2}, "descent": {"trials": 1, "steps": 8}}
    config = wide_zoo.config(tmp_path, search, objective=OBJECTIVE | asked, merge={"groups": "model"})
    speaker = Exported(wide_zoo, config, tmp_path)
    task = wide_zoo.task(config)
    searched = run_study(MAIN, speaking(task, speaker))
    assert speaker.spoke == len(searched.answers) == 2
    assert searched.winner.number in searched.answers
    rows = {
        row.number: row.said
        for row in trial_rows(MAIN, searched, Terms(task.problem.search, task.problem.validation), {})
    }
    assert {number for number, said in rows.items() if said} == set(searched.answers)
    assert rows[searched.winner.number]["says"].rows == 8


@pytest.mark.slow
def test_a_whole_run_by_a_task(wide_zoo: TinyZoo, tasks: Path, tmp_path: Path) -> None:
    search = {"answers": {"when": "trial"}, "sampler": "tpe", "black_box": {"trials": 2}}
    objective = {"says": by(tasks), "likes": by(tasks, "likes", metric="perplexity", weight=0.01)}
    engine = {"max_model_len": 96, "memory": 0.1}
    config = wide_zoo.config(tmp_path / "run", search, objective=objective, merge={"groups": "model"}, engine=engine)
    config = config.model_copy(update={"data": config.data.model_copy(update={"max_answer_tokens": 3})})
    result = run.search(config)
    best = next(row for row in result.trials if result.won(row))
    assert best.name == "math"
    assert list(result.rows[0].metrics) == ["alignment", "accuracy/math", "accuracy/code"], "judged on all kinds"
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"says {100 * best.said['says'].share:.1f} %</span>" in page
    # What was searched is what ships, whoever measures it.
    with TransformersEngine(EngineConfig(max_model_len=96)) as plain:
        plain.use(str(tmp_path / "run" / "merged"))
        terms = [open_task(name, 1.0, term.asked_task, "validation", name) for name, term in config.objective.items()]
        found = ask_tasks(terms, plain)
    assert found["says"].value == best.said["says"].share
    assert found["likes"].value == pytest.approx(best.said["likes"].loss, rel=1e-4)
    written = tmp_path / "run" / "result.json"
    before = written.stat().st_mtime_ns
    assert run.search(config) == result
    assert written.stat().st_mtime_ns == before, "nothing has changed"
    next(config.test_folder.rglob("*.jsonl")).touch()
    again = run.search(config)
    assert written.stat().st_mtime_ns > before
    assert [row.loss for row in again.trials] == [row.loss for row in result.trials]
    assert (again.winner_trial, again.rows) == (result.winner_trial, result.rows)


@pytest.mark.parametrize(
    ("fault", "share", "value", "wanted"),
    [
        (False, True, 0.75, Score(0.25, 0.75, 4)),
        (True, True, 0.25, Score(0.25, 0.75, 4)),
        (True, False, 12.5, Score(12.5, 0.0, 4)),
        (False, False, 27.0, Score(-26.0, 0.0, 4)),
        (True, False, math.inf, Score(math.inf, 0.0, 4)),
    ],
)
def test_scores_by_hand(fault: bool, share: bool, value: float, wanted: Score, tasks: Path) -> None:
    term = open_task("x", 1.0, TaskConfig(task="says", include_path=str(tasks)), "test", "x")
    term = replace(term, is_fault=fault, is_share=share)
    assert term.score(Found(value, [], 4)) == wanted


def test_a_constraint_must_be_about_a_share(wide_zoo: TinyZoo, asked: dict[str, Any], tmp_path: Path) -> None:
    search = {"answers": {"when": "trial"}, "constraints": ["likes >= 0.9"]}
    config = wide_zoo.config(tmp_path, search, objective=OBJECTIVE | asked)
    told = "'likes >= 0.9' must be about a share of right answers, but 'perplexity,none' of likes is none"
    with pytest.raises(ConfigError, match=told):
        wide_zoo.objective(config, "search")
    shared = wide_zoo.config(tmp_path, search | {"constraints": ["says >= 0.9"]}, objective=OBJECTIVE | asked)
    assert [term.name for term in wide_zoo.objective(shared, "search").said] == ["says", "likes"]


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"kind": "math", "num_fewshot": 2}, "objective.x.num_fewshot: only a task of lm-eval's takes it"),
        ({"task": "says", "kind": "math"}, "objective.x.kind: a task of lm-eval's has no such thing"),
        ({"task": "says", "of": "math"}, "objective.x.of: a task of lm-eval's has no such thing"),
        ({"task": "says", "metric": "acc,none", "filter": "some"}, "names another filter"),
        ({"task": "says"}, "must have a term that is not about what is said"),
    ],
)
def test_configs_that_cannot_be(tiny_zoo: TinyZoo, term: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        tiny_zoo.config(Path("run"), objective={"x": term})


def test_a_config_comes_back_as_written(tiny_zoo: TinyZoo) -> None:
    objective = OBJECTIVE | {"x": {"task": "says", "metric": "exact_match,start"}}
    config = tiny_zoo.config(Path("run"), objective=objective)
    assert Config.model_validate_json(config.model_dump_json()) == config
    assert (config.objective["x"].metric, config.objective["x"].filter) == ("exact_match", "start")
    assert config.kinds == ["unsafe", "math", "code"]

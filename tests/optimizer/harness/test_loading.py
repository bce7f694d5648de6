"""Which docs a task takes, which metric it has, and what is told where it cannot be had."""

import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from datagen.errors import ConfigError, DataError, GoodbunchError
from optimizer.harness.loading import Ready, ready
from optimizer.harness.task import TaskConfig
from optimizer.objective.task_terms import is_task, open_task, parse_task
from tests.optimizer.harness.tasks import DOCS


def config(tasks: Path, task: str = "says", **options: Any) -> TaskConfig:
    return TaskConfig(task=task, include_path=str(tasks), **options)


def questions(one: Ready) -> list[str]:
    return [doc["q"] for task in one.tasks.values() for doc in task.eval_docs]


def in_file(tasks: Path, split: str) -> list[str]:
    return [json.loads(line)["q"] for line in (tasks / f"{split}.json").read_text().splitlines()]


def prompts(one: Ready) -> str:
    (task,) = one.tasks.values()
    task.set_fewshot_seed(1234)
    task.build_all_requests()
    return " ".join(instance.args[0] for instance in task.instances)


def test_search_and_validation_share_no_doc_and_see_no_test(tasks: Path) -> None:
    search, validation = (ready(config(tasks, examples=8), split) for split in ("search", "validation"))
    assert (search.rows, validation.rows) == (8, 8)
    assert not set(questions(search)) & set(questions(validation))
    assert {*questions(search), *questions(validation)} <= set(in_file(tasks, "train"))
    assert questions(search) != in_file(tasks, "train")[:8], "they are drawn"
    assert questions(ready(config(tasks), "test")) == in_file(tasks, "test")


def test_few_docs_are_shared_out_evenly(tasks: Path) -> None:
    assert [ready(config(tasks), split).rows for split in ("search", "validation")] == [DOCS["train"] // 2] * 2


def test_examples_shown_are_none_of_those_measured(tasks: Path) -> None:
    asked = config(tasks, examples=8, num_fewshot=3)
    measured = {*questions(ready(asked, "search")), *questions(ready(asked, "validation"))}
    shown = set(in_file(tasks, "train")) - measured
    text = prompts(ready(asked, "search"))
    # Every question stands in its own prompt, others only where they are shown.
    assert all(text.count(one) == 1 for one in questions(ready(asked, "search")))
    assert sum(text.count(one) for one in shown) == 3 * 8
    assert not any(one in text for one in questions(ready(asked, "validation")))
    assert prompts(ready(asked, "search")) == text, "the same each time"


def test_docs_that_stand_twice_are_taken_once(tasks: Path, tmp_path: Path) -> None:
    doc = json.loads((tasks / "train.json").read_text().splitlines()[0])
    docs = [doc, doc, doc, {**doc, "q": "wxyz"}]
    written(tasks, tmp_path, "few", docs)
    found = [questions(ready(config(tmp_path, "few"), split)) for split in ("search", "validation")]
    assert sorted(map(len, found)) == [1, 1]
    assert found[0] != found[1]


def written(tasks: Path, folder: Path, name: str, docs: Iterable[Any] | None = None, **changes: Any) -> None:
    """A task like `says` with other docs or keys."""
    own = yaml.safe_load((tasks / "says.yaml").read_text()) | {"task": name} | changes
    if docs is not None:
        (folder / f"{name}.json").write_text("\n".join(map(json.dumps, docs)))
        own["dataset_kwargs"]["data_files"] = dict.fromkeys(("train", "test"), str(folder / f"{name}.json"))
    (folder / f"{name}.yaml").write_text(
        yaml.safe_dump({key: value for key, value in own.items() if value is not None})
    )


def test_what_lm_eval_reports_is_not_searched_on(tasks: Path, tmp_path: Path) -> None:
    rule = "a search must not see the docs that lm-eval evaluates on, but {} has no others; .*test_split=true"
    with pytest.raises(DataError, match=rule.format("tested")):
        ready(config(tasks, "tested"), "search")
    assert set(questions(ready(config(tasks, "tested", test_split=True), "search"))) <= set(in_file(tasks, "test"))
    assert questions(ready(config(tasks, "tested"), "test")) == in_file(tasks, "test")
    # A validation split is what lm-eval reports where there is no test split, and a training split may be the same.
    written(tasks, tmp_path, "validated", test_split=None, training_split=None, validation_split="train")
    written(tasks, tmp_path, "same", test_split="train")
    written(tasks, tmp_path, "apart", training_split=None, validation_split="train")
    for name in ("validated", "same"):
        with pytest.raises(DataError, match=rule.format(name)):
            ready(config(tmp_path, name), "search")
    assert set(questions(ready(config(tmp_path, "apart"), "search"))) <= set(in_file(tasks, "train"))


@pytest.mark.parametrize(
    ("task", "metric", "wanted"),
    [
        ("says", "", ("exact_match,whole", True, True)),
        ("says", "exact_match,start", ("exact_match,start", True, True)),
        ("likes", "", ("perplexity,none", False, False)),
        ("likes", "acc", ("acc,none", True, True)),
        ("chooses", "mcc", ("mcc,none", True, False)),
        ("reads", "", ("byte_perplexity,none", False, False)),
        ("both", "", ("exact_match,whole", True, True)),
    ],
)
def test_metrics(tasks: Path, task: str, metric: str, wanted: tuple[str, bool, bool]) -> None:
    found = ready(config(tasks, task, metric=metric), "test").metric
    assert (found.key, found.higher_is_better, found.is_share) == wanted


def test_which_way_a_metric_goes_can_be_told(tasks: Path) -> None:
    assert not ready(config(tasks, higher_is_better=False), "test").metric.higher_is_better


def test_shots_are_as_lm_eval_has_them(tasks: Path, tmp_path: Path) -> None:
    def shots(folder: Path, name: str, told: int | None) -> int:
        (task,) = ready(config(folder, name, num_fewshot=told), "test").tasks.values()
        return int(task.get_config("num_fewshot"))

    written(tasks, tmp_path, "none", num_fewshot=0)
    assert [shots(tasks, "shown", told) for told in (None, 1)] == [2, 1]
    assert [shots(tasks, "says", told) for told in (None, 1)] == [0, 1]
    assert shots(tmp_path, "none", 3) == 0, "a task that says 0 takes none"


def test_a_file_is_a_task(tasks: Path) -> None:
    found = ready(TaskConfig(task=str(tasks / "says.yaml")), "test")
    assert questions(found) == in_file(tasks, "test")


def test_fingerprints_tell_what_is_asked(tasks: Path) -> None:
    def told(split: str = "search", **options: Any) -> str:
        return ready(config(tasks, **options), split).fingerprint

    assert told(examples=4) == told(examples=4)
    assert (
        len({told(examples=4), told(examples=5), told("validation", examples=4), told(metric="exact_match,start")}) == 4
    )


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"metric": "acc"}, ConfigError, "there is no metric 'acc' of this task; available: exact_match"),
        ({"metric": "exact_match,strat"}, ConfigError, "no filter 'strat' .*did you mean 'start'"),
        ({"task": "no/such.yaml"}, ConfigError, "there is no task file no/such.yaml"),
        ({"include_path": "no/such"}, ConfigError, "include_path: there is no folder no/such"),
        ({"examples": 12, "num_fewshot": 24}, DataError, "a doc each for search and validation beside 24 few-shot"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    tasks: Path, options: dict[str, Any], kind: type[GoodbunchError], message: str
) -> None:
    told = {"task": "says", "include_path": str(tasks)} | options
    with pytest.raises(kind, match=f"objective.x: .*{message}") as caught:
        open_task("x", 1.0, TaskConfig(**told), "search", "objective.x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset_path": "no-such/data-set", "dataset_kwargs": {}}, "broken: a task must load, with its data from"),
        ({"unsafe_code": True}, "must not run code that a model wrote"),
        ({"doc_to_image": "q"}, "must be text alone"),
        ({"generation_kwargs": {"until": [], "num_beams": 4}}, "the task also sets num_beams"),
        ({"generation_kwargs": {"until": [], "do_sample": True, "temperature": 1, "top_p": 0.9}}, "also sets top_p"),
    ],
)
def test_tasks_that_cannot_be_had(tasks: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    written(tasks, tmp_path, "broken", **changes)
    with pytest.raises(GoodbunchError, match=message) as caught:
        ready(config(tmp_path, "broken"), "search")
    assert "\n" not in str(caught.value)


def test_a_task_of_lm_evals_own_is_found_and_its_missing_data_told() -> None:
    with pytest.raises(
        DataError, match="gsm8k: a task must load, with its data from the Hub, its cache or local files"
    ):
        ready(TaskConfig(task="gsm8k"), "search")


@pytest.mark.slow
def test_unknown_names_and_tags_are_told(tasks: Path) -> None:
    """lm-eval's own tasks take a while to list."""
    with pytest.raises(ConfigError, match=r"there is no task 'arc_eesy' in lm-eval .*; did you mean 'arc_easy'"):
        ready(TaskConfig(task="arc_eesy"), "search")
    with pytest.raises(
        ConfigError, match="'ai2_arc' is a tag of several tasks; name one of them: arc_challenge, arc_easy"
    ):
        ready(TaskConfig(task="ai2_arc"), "search")


def test_without_lm_eval_it_is_told_what_to_install(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def missing(name: str) -> Any:
        return None if name == "lm_eval" else found(name)

    monkeypatch.setattr("optimizer.harness.task.find_spec", missing)
    with pytest.raises(ConfigError, match=r"objective\.x: a task by name needs lm-eval.*install goodbunch\[lm-eval\]"):
        open_task("x", 1.0, config(tasks), "search", "objective.x")


def test_terms_are_written_and_read(tasks: Path) -> None:
    options = f"examples=5,num_fewshot=2,chat=true,include_path={tasks}"
    written = f"own=task:says:exact_match,start:{options}"
    name, found = parse_task(written)
    assert (name, found) == ("own", config(tasks, metric="exact_match,start", examples=5, num_fewshot=2, chat=True))
    assert open_task(name, 1.0, found, "test", written).written == written
    assert parse_task("task:gsm8k") == ("gsm8k", TaskConfig(task="gsm8k"))
    assert parse_task("task:my/sums.yaml:acc")[0] == "sums"
    assert [is_task(one) for one in ("task:x", "a=task:x", "task", "tasks:x", "x:task")] == [
        True,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("task", "'task': task: string should have at least 1 character"),
        ("task:x:acc:shots=5", r"shots: unknown key.*write \[NAME=\]task:TASK"),
        ("task:x:acc:num_fewshot=many", "num_fewshot: .*but got 'many'"),
    ],
)
def test_terms_that_are_none(written: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_task(written)


def test_a_metric_has_one_filter() -> None:
    assert TaskConfig(task="x", metric="acc,none") == TaskConfig(task="x", metric="acc", filter="none")
    with pytest.raises(ValidationError, match="names another filter than filter='some'"):
        TaskConfig(task="x", metric="acc,none", filter="some")

"""Tasks over our engines come to what lm-eval's own `hf` model comes to on the same folder."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from datagen.config import EngineConfig
from datagen.engines.local import LocalEngine
from datagen.engines.process import EngineProcess
from datagen.engines.transformers_engine import TransformersEngine
from optimizer.harness.loading import ready
from optimizer.harness.measuring import measure
from optimizer.harness.task import TaskConfig
from tests.optimizer.tiny_zoo import TinyZoo

LIMIT = 96

ENGINES: dict[str, Callable[[EngineConfig], LocalEngine]] = {"transformers": TransformersEngine, "vllm": EngineProcess}

METRICS = {
    "says": ["exact_match,whole", "exact_match,start"],
    "chooses": ["acc,none", "acc_norm,none", "mcc,none"],
    "likes": ["perplexity,none", "acc,none"],
    "reads": ["byte_perplexity,none", "bits_per_byte,none"],
    "shown": ["exact_match,whole"],
    "both": ["exact_match,whole"],
}


@pytest.fixture(scope="module", params=["transformers", pytest.param("vllm", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest, wide_zoo: TinyZoo) -> Iterator[LocalEngine]:
    with ENGINES[request.param](EngineConfig(max_model_len=LIMIT, memory=0.1, parallel=4)) as engine:
        engine.use(str(wide_zoo.folder / "math"))
        yield engine


@pytest.fixture(scope="module")
def theirs(wide_zoo: TinyZoo, tasks: Path) -> Callable[..., dict[str, Any]]:
    """lm-eval's own results."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = HFLM(str(wide_zoo.folder / "math"), device="cpu", dtype="float32", batch_size=4, max_length=LIMIT)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)

    @cache
    def run(names: Sequence[str], chat: bool = False, **options: Any) -> dict[str, Any]:
        found = simple_evaluate(
            model=model,
            tasks=list(names),
            task_manager=manager,
            apply_chat_template=chat,
            bootstrap_iters=0,
            log_samples=False,
            **options,
        )
        return dict(found["results"])

    return run


def ours(engine: LocalEngine, tasks: Path, task: str, metric: str = "", **options: Any) -> Any:
    config = TaskConfig(task=task, metric=metric, include_path=str(tasks), **options)
    (found,) = measure([ready(config, "test")], engine)
    return found


@pytest.mark.parametrize(("shots", "chat"), [(None, False), (2, False), (2, True)])
@pytest.mark.parametrize("task", METRICS)
def test_values_are_those_of_lm_eval(
    engine: LocalEngine, tasks: Path, theirs: Callable[..., dict[str, Any]], task: str, shots: int | None, chat: bool
) -> None:
    # A group's tasks cannot be asked for beside it.
    names = ("both",) if task == "both" else tuple(name for name in METRICS if name != "both")
    wanted = theirs(names, chat, num_fewshot=shots)[task]
    for metric in METRICS[task]:
        found = ours(engine, tasks, task, metric, num_fewshot=shots, chat=chat)
        close = "perplexity" in metric or "bits" in metric
        assert found.value == (pytest.approx(wanted[metric], rel=1e-5) if close else wanted[metric]), metric
        assert found.rows == wanted["sample_len"]
        if found.each:
            assert sum(found.each) / len(found.each) == found.value


def test_values_are_not_trivial(engine: LocalEngine, tasks: Path) -> None:
    for task, metric in (("says", "exact_match"), ("likes", "acc"), ("chooses", "acc")):
        assert 0.2 < ours(engine, tasks, task, metric).value < 0.8
    assert ours(engine, tasks, "chooses", "mcc").each == []


def test_a_limit_takes_the_first(engine: LocalEngine, tasks: Path, theirs: Callable[..., dict[str, Any]]) -> None:
    found = ours(engine, tasks, "says", examples=3)
    assert (found.value, found.rows) == (theirs(("says",), limit=3)["says"]["exact_match,whole"], 3)
    assert list(found.each) == list(ours(engine, tasks, "says").each)[:3]


def test_asked_twice_and_together_they_come_to_the_same(engine: LocalEngine, tasks: Path) -> None:
    some = [ready(TaskConfig(task=name, include_path=str(tasks), num_fewshot=1), "test") for name in METRICS]
    together = measure(some, engine)
    assert measure(some, engine) == together
    # Batches of other shapes add in another order.
    for found, alone in zip(together, [found for one in some for found in measure([one], engine)], strict=True):
        assert (alone.value, alone.rows) == (pytest.approx(found.value, rel=1e-6), found.rows)
        assert alone.each == pytest.approx(found.each, rel=1e-5)

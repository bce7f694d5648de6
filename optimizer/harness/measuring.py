"""What lm-eval's tasks make of the model that an engine has in use."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED

from datagen import progress
from datagen.engines.local import LocalEngine
from datagen.errors import DataError
from optimizer.harness.loading import Ready, quiet
from optimizer.harness.model import EngineModel


@dataclass(frozen=True)
class Found:
    """What a task came to.

    Attributes:
        value: of its metric, as lm-eval tells it.
        each: the value of every doc, if the metric is their mean; else none.
        rows: how many docs were measured.
    """

    value: float
    each: Sequence[float]
    rows: int


def measure(some: Sequence[Ready], engine: LocalEngine) -> list[Found]:
    """Asks all that the tasks ask, by kind of request at once, and judges it.

    Args:
        engine: with a model in use.

    Raises:
        DataError: a metric that should be 0 to 1 for each doc is not.
    """
    model = EngineModel(engine)
    with quiet():
        asked: dict[str, list[Instance]] = defaultdict(list)
        for one in some:
            _build(one, model)
            for task in one.tasks.values():
                for instance in task.instances:
                    instance.resps.clear()
                    asked[instance.request_type] += [instance] * instance.repeats
        for kind, instances in asked.items():
            for instance, told in zip(instances, getattr(model, kind)(instances, disable_tqdm=True), strict=True):
                instance.resps.append(told)
        found = [_judged(one) for one in some]
    if model.cut:
        _tell(f"{model.cut} contexts are cut to fit engine.max_model_len={engine.longest}, as lm-eval does")
    return found


@cache
def _tell(note: str) -> None:
    """Says something once, however many models it is true of."""
    progress.note(note)


def _build(one: Ready, model: EngineModel) -> None:
    """Makes the requests, which stay the same for all models of one chat template."""
    template = str(model.tokenizer.chat_template) if one.config.chat else ""
    if one.templates == [template]:
        return
    for task in one.tasks.values():
        task.set_fewshot_seed(DEFAULT_OTHER_SEED)
        task.build_all_requests(
            apply_chat_template=one.config.chat,
            fewshot_as_multiturn=one.config.multiturn,
            chat_template=model.apply_chat_template if one.config.chat else None,
        )
    one.templates[:] = [template]


def _judged(one: Ready) -> Found:
    told: dict[str, dict[str, Any]] = {}
    each: list[float] = []
    rows = 0
    for name, task in one.tasks.items():
        values = _values(one, task)
        told[name] = {one.metric.key: _aggregated(one, task, values), "sample_len": len(values)}
        rows += len(values)
        if one.metric.is_share:
            each += map(float, values)
    if odd := next((value for value in each if value < 0 or value > 1), None):
        raise DataError(
            f"{one.config.task}: a metric that is a mean must be 0 to 1 for each doc, but {one.metric.name!r} is "
            f"{odd:g}; choose another metric"
        )
    whole = one.group.aggregate(told) if one.group else told[name]
    return Found(float(whole[one.metric.key]), each, rows)


def _values(one: Ready, task: Task) -> list[Any]:
    """The metric's value for every doc that has one."""
    task.apply_filters()
    by_doc: dict[int, list[Instance]] = defaultdict(list)
    for instance in sorted(task.instances, key=lambda instance: instance.idx):
        by_doc[instance.doc_id].append(instance)
    values = []
    for number, doc in enumerate(task.eval_docs):
        results = [instance.filtered_resps[one.metric.filter] for instance in by_doc[number]]
        told = task.process_results(doc, results)
        if one.metric.name in told:
            values.append(told[one.metric.name])
    if not values:
        raise DataError(f"{task.task_name}: no doc has a value of {one.metric.name!r}; choose another metric")
    return values


def _aggregated(one: Ready, task: Task, values: Sequence[Any]) -> float:
    try:
        return float(task.aggregation()[one.metric.name](values))
    except OverflowError:  # a perplexity beyond all numbers
        return math.inf

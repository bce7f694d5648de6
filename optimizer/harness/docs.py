"""Which docs of an lm-eval task are searched on, which choose among what was found, and which are shown as examples."""

import copy
import json
import random
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

from lm_eval.api.task import Task

from datagen.errors import DataError
from optimizer.harness.task import TaskConfig

#: One of a task's questions, as its data set has it.
Doc = Any


class Drawn(NamedTuple):
    """Disjoint parts of what may be searched on.

    Attributes:
        search: what trials are scored on.
        validation: what chooses among them.
        shots: what few-shot examples are taken from; none where there are no such.
    """

    search: list[Doc]
    validation: list[Doc]
    shots: list[Doc] | None


def drawn(config: TaskConfig, task: Task) -> Drawn:
    """Docs for a search, the same in every process.

    Docs that stand twice in the data are taken once, and few-shot examples are none of the others.

    Raises:
        DataError: there are no such docs, or too few.
    """
    pool = _pool(config, task)
    shots = task.get_config("num_fewshot") or 0
    wanted = 2 * config.rows + shots
    found: dict[str, Doc] = {}
    for place in random.Random(f"docs-{task.task_name}").sample(range(len(pool)), len(pool)):
        if len(found) == wanted:
            break
        found.setdefault(_key(doc := pool[place]), doc)
    half = min(config.rows, (len(found) - shots) // 2)
    if half < 1:
        raise DataError(
            f"there must be a doc each for search and validation beside {shots} few-shot examples, but "
            f"{task.task_name} has {len(found)} docs; lower num_fewshot, or choose another task"
        )
    docs, used = list(found.values()), set(list(found)[: 2 * half])
    search, validation = docs[:half], docs[half : 2 * half]
    if not shots:
        return Drawn(search, validation, None)
    others = [doc for doc in task.sampler.df if _key(doc) not in used]
    if len(others) <= shots:
        raise DataError(
            f"few-shot examples must be none of the docs that are measured, but of those of {task.task_name} only "
            f"{len(others)} are left for {shots}; lower num_fewshot or examples"
        )
    return Drawn(search, validation, others)


def first(task: Task, most: int | None) -> list[Doc]:
    """The docs that lm-eval evaluates on, up to its limit."""
    return list(islice(task.eval_docs, most))


def with_docs(task: Task, docs: Sequence[Doc], shots: Iterable[Doc] | None = None) -> Task:
    """A task that is evaluated on given docs, in which the one it is made of has no part.

    Args:
        shots: few-shot examples are taken from these; by default from the task's own.
    """
    made = copy.copy(task)
    made.has_test_docs, made.test_docs = lambda: True, lambda: docs
    if hasattr(task, "sampler"):
        made.sampler = copy.copy(task.sampler)
        if shots is not None:
            made.sampler.replace_df(list(shots))
    return made


def _pool(config: TaskConfig, task: Task) -> Sequence[Doc]:
    """Docs that may be searched on: of the training split, else of a validation split that lm-eval does not report."""
    if config.test_split:
        return list(task.eval_docs)
    reported = task.get_config("test_split") if task.has_test_docs() else task.get_config("validation_split")

    def is_apart(split: str) -> bool:
        return reported is None or task.get_config(split) != reported

    if task.has_training_docs() and is_apart("training_split"):
        return task.training_docs()  # type: ignore[no-any-return]
    if task.has_validation_docs() and task.has_test_docs() and is_apart("validation_split"):
        return task.validation_docs()  # type: ignore[no-any-return]
    raise DataError(
        f"a search must not see the docs that lm-eval evaluates on, but {task.task_name} has no others; choose a task "
        f"with a training split, or set test_split=true and trust no numbers of this task afterwards"
    )


def _key(doc: Doc) -> str:
    return json.dumps(doc, sort_keys=True, default=str)

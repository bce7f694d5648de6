"""Terms on lm-eval's tasks: what a merge says to them, or finds likely in them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from datagen.engines.local import LocalEngine
from datagen.errors import ConfigError, GoodbunchError
from optimizer.harness.task import Split, TaskConfig, check_installed
from optimizer.loading import describe
from optimizer.objective.scores import Score

if TYPE_CHECKING:
    from optimizer.harness.measuring import Found

#: What stands in the place of a kind where a term on the command line names a task.
TASK = "task"

TASK_GRAMMAR = f"[NAME=]{TASK}:TASK[:METRIC[,FILTER][:OPTION=VALUE,...]]"


@dataclass(frozen=True)
class TaskTerm:
    """One task on the docs of one split; what is heavy about it is loaded once in each process.

    Attributes:
        name: of the term.
        weight: in the mean of all terms.
        config: of the task.
        split: whose docs are asked.
        rows: how many docs there are.
        metric: as lm-eval writes it.
        is_fault: whether less is better.
        is_share: whether it is the mean of a value from 0 to 1 for each doc, so that it is a share of right answers.
        fingerprint: of all that decides what is asked and how it is judged.
    """

    name: str
    weight: float
    config: TaskConfig
    split: Split
    rows: int
    metric: str
    is_fault: bool
    is_share: bool
    fingerprint: str

    @property
    def written(self) -> str:
        """As `--terms` takes it."""
        return ":".join(filter(None, [f"{self.name}={TASK}", self.config.task, self.metric, _options(self.config)]))

    def score(self, found: "Found") -> Score:
        """What a search makes of the task's value: a loss that is lower the better, and the share, if it is one."""
        value = found.value if self.is_fault else 1 - found.value
        return Score(value, 1 - value if self.is_share else 0.0, found.rows)


def is_task(written: str) -> bool:
    """Whether a term on the command line names a task."""
    return written.split(":")[0].rpartition("=")[2] == TASK


def parse_task(written: str) -> tuple[str, TaskConfig]:
    """A name and a task from `[NAME=]task:TASK[:METRIC[,FILTER][:OPTIONS]]`.

    Args:
        written: such as `gsm8k=task:gsm8k:exact_match,flexible-extract:num_fewshot=5,chat=true`.

    Raises:
        ConfigError: there is no such option, or its value is none of its own.
    """
    head, task, metric, options = [*written.split(":", 3), "", "", ""][:4]
    given = dict(one.partition("=")[::2] for one in options.split(",") if one)
    try:
        config = TaskConfig.model_validate({"task": task, "metric": metric} | given)
    except ValidationError as error:
        raise ConfigError(f"{written!r}: {describe(error, TaskConfig)}; write {TASK_GRAMMAR}") from error
    return head.rpartition("=")[0] or (Path(task).stem if task.endswith((".yaml", ".yml")) else task), config


def open_task(name: str, weight: float, config: TaskConfig, split: Split, where: str) -> TaskTerm:
    """Finds a task and loads its docs.

    Args:
        name: of the term.
        where: it is asked for, such as `objective.NAME`.

    Raises:
        GoodbunchError: lm-eval is not installed, there is no such task or metric, or its data cannot be had.
    """
    check_installed(where)
    from optimizer.harness.loading import ready

    with _at(where):
        task = ready(config, split)
    metric = task.metric
    return TaskTerm(
        name,
        weight,
        config,
        split,
        task.rows,
        metric.key,
        not metric.higher_is_better,
        metric.is_share,
        task.fingerprint,
    )


def ask_tasks(terms: Sequence[TaskTerm], engine: LocalEngine) -> "dict[str, Found]":
    """What the model in use comes to in every task, term by term.

    Raises:
        DataError: a text has no room in the engine, or a metric is not what it should be.
    """
    if not terms:
        return {}
    from optimizer.harness.loading import ready
    from optimizer.harness.measuring import measure

    found = measure([ready(term.config, term.split) for term in terms], engine)
    return {term.name: one for term, one in zip(terms, found, strict=True)}


def _options(config: TaskConfig) -> str:
    """All that differs from the defaults, as `parse_task` reads it."""
    told = config.model_dump(exclude={"task", "metric", "filter"}, exclude_defaults=True)
    return ",".join(f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in told.items())


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Says where a mistake is."""
    try:
        yield
    except GoodbunchError as error:
        raise type(error)(f"{where}: {error}") from error

"""lm-eval's tasks, found by name and made ready: on which docs, by which metric."""

import contextlib
import difflib
import hashlib
import io
import json
import logging
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
from lm_eval.api.group import Group
from lm_eval.api.registry import get_aggregation
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.tasks import TaskManager

from datagen.errors import ConfigError, DataError
from optimizer.harness.docs import drawn, first, with_docs
from optimizer.harness.task import Split, TaskConfig

#: Keys of generation_kwargs that engines follow, and those that only matter where an answer is drawn.
_FOLLOWED = {"until", "do_sample", "temperature", "max_gen_toks", "max_new_tokens", "max_tokens"}
_OF_DRAWS = {"top_p", "top_k", "min_p"}


@dataclass(frozen=True)
class Metric:
    """How the answers to a task are judged.

    Attributes:
        name: of the metric.
        filter: what answers go through before.
        higher_is_better: which way it goes.
        is_share: whether it is the mean of a value from 0 to 1 for each doc.
    """

    name: str
    filter: str
    higher_is_better: bool
    is_share: bool

    @property
    def key(self) -> str:
        """As lm-eval writes it."""
        return f"{self.name},{self.filter}"


@dataclass(frozen=True)
class Ready:
    """A task, or all tasks of a group, on the docs of one split.

    Attributes:
        config: as it was asked for.
        tasks: lm-eval's own, by name.
        group: whose mean is taken, if it is one.
        metric: how answers are judged.
        templates: the chat template that the requests of the tasks were last built with, if they were.
    """

    config: TaskConfig
    tasks: Mapping[str, Task]
    group: Group | None
    metric: Metric
    templates: list[str] = field(default_factory=list)

    @cached_property
    def rows(self) -> int:
        """How many docs there are."""
        return sum(len(task.eval_docs) for task in self.tasks.values())

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that decides what is asked and how it is judged."""
        told = [[task.dump_config(), task.eval_docs] for task in self.tasks.values()]
        text = json.dumps([lm_eval.__version__, self.metric.key, told], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


@cache
def ready(config: TaskConfig, split: Split) -> Ready:
    """A task with the docs of a split; once made ready it stays so.

    Raises:
        GoodbunchError: there is no such task or metric, it cannot be had here, or has no docs to search on.
    """
    found = _opened(config)
    with quiet():
        if split == "test":
            tasks = {name: with_docs(task, first(task, config.examples)) for name, task in found.tasks.items()}
        else:
            parts = {name: drawn(config, task) for name, task in found.tasks.items()}
            tasks = {
                name: with_docs(task, getattr(parts[name], split), parts[name].shots)
                for name, task in found.tasks.items()
            }
    return Ready(config, tasks, found.group, found.metric)


@cache
def _opened(config: TaskConfig) -> Ready:
    """A task on its own docs."""
    with quiet(), _seeded():
        tasks, group = _loaded(config)
    for name, task in tasks.items():
        _check_supported(name, task)
        shots = task.get_config("num_fewshot")
        # As lm-eval has it: a task that says 0 itself takes no examples.
        task.set_config(
            "num_fewshot", config.num_fewshot if shots != 0 and config.num_fewshot is not None else shots or 0
        )
    return Ready(config, tasks, group, _metric(config, tasks, group))


def _loaded(config: TaskConfig) -> tuple[dict[str, Task], Group | None]:
    name, is_file = config.task, config.task.endswith((".yaml", ".yml"))
    if is_file and not Path(name).is_file():
        raise ConfigError(f"there is no task file {name}; correct the path, or name one of lm-eval's tasks")
    if config.include_path and not Path(config.include_path).is_dir():
        raise ConfigError(f"include_path: there is no folder {config.include_path}; correct it")
    # All of lm-eval's own take a quarter of a minute to list, of which most are not needed.
    manager = _manager(config.include_path, defaults=False)
    if not is_file and not _is_whole(manager, name) and (file := _file_of(name)):
        name, is_file = str(file), True
    if not is_file and not _is_whole(manager, name):
        manager = _manager(config.include_path, defaults=True)
        if name not in manager.task_index:
            close = difflib.get_close_matches(name, manager.all_tasks, n=1)
            raise ConfigError(
                f"there is no task {name!r} in lm-eval {lm_eval.__version__}"
                + (f"; did you mean {close[0]!r}?" if close else "; set include_path to the folder of its YAML file")
            )
    if _kind(manager, name) == "TAG":
        tagged = sorted(manager.task_index[name].tags)
        raise ConfigError(f"{name!r} is a tag of several tasks; name one of them: {', '.join(tagged)}")
    try:
        loaded = manager.load([name])
    except Exception as error:
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise DataError(
            f"{config.task}: a task must load, with its data from the Hub, its cache or local files, but: {said}; "
            f"fetch the data while online without HF_HUB_OFFLINE, or install what is missing"
        ) from error
    return loaded["tasks"], loaded["groups"].get(config.task)


@cache
def _manager(include_path: str, *, defaults: bool) -> TaskManager:
    return TaskManager(include_path=include_path or None, include_defaults=defaults)


def _kind(manager: TaskManager, name: str) -> str:
    entry = manager.task_index.get(name)
    return entry.kind.name if entry else ""


def _file_of(name: str) -> Path | None:
    """Where lm-eval keeps a task; none if it is no plain task."""
    line = re.compile(rf"^task: *[\"']?{re.escape(name)}[\"']? *$", re.MULTILINE)
    files = Path(lm_eval.__file__).parent.glob("tasks/**/*.yaml")
    found = [file for file in files if line.search(file.read_text(encoding="utf-8"))]
    return found[0] if len(found) == 1 else None


def _is_whole(manager: TaskManager, name: str) -> bool:
    """Whether a task is known, or all of a group."""
    entry = manager.task_index.get(name)
    if entry is None or entry.kind.name == "TAG":
        return False
    members = (entry.cfg or {})["task"] if entry.kind.name == "GROUP" else []
    return all(isinstance(one, str) and _is_whole(manager, one) for one in members)


def _check_supported(name: str, task: Task) -> None:
    """Refuses what no engine here can do."""
    if getattr(task, "UNSAFE_CODE", False):
        raise ConfigError(f"{name}: a task must not run code that a model wrote, but this one does; choose another")
    if getattr(task, "MULTIMODAL", False):
        raise ConfigError(f"{name}: a task must be text alone, but this one has images or sounds; choose another")
    given = task.get_config("generation_kwargs") or {}
    followed = _FOLLOWED if given.get("do_sample") else _FOLLOWED | _OF_DRAWS
    if odd := sorted(set(given) - followed):
        raise ConfigError(
            f"{name}: an answer can be asked for by {', '.join(sorted(_FOLLOWED))}, but the task also sets "
            f"{', '.join(odd)}; copy its YAML file, drop that, and name the file"
        )


def _metric(config: TaskConfig, tasks: Mapping[str, Task], group: Group | None) -> Metric:
    if group is not None and not group.has_aggregation:
        raise ConfigError(
            f"the group {group.name!r} has no metric of its own; name one of its tasks: {', '.join(tasks)}"
        )
    whole = {one.metric: one for one in group.aggregate_metric_list} if group else {}
    name = _chosen(
        "metric", config.metric, [list(whole)] if group else [list(task.aggregation()) for task in tasks.values()]
    )
    for task in tasks.values():
        _chosen("metric", name, [list(task.aggregation())])
    sieve = _chosen("filter", config.filter, [[one.name for one in task._filters] for task in tasks.values()])
    known = {task.higher_is_better().get(name) for task in tasks.values()}
    higher = (
        config.higher_is_better if config.higher_is_better is not None else known.pop() if len(known) == 1 else None
    )
    if higher is None:
        raise ConfigError(f"lm-eval does not say which way {name!r} of {config.task} goes; set higher_is_better")
    means = (get_aggregation("mean"), get_aggregation("nanmean"))
    share = all(task.aggregation()[name] in means for task in tasks.values())
    return Metric(name, sieve, higher, share and (group is None or whole[name].weight_by_size))


def _chosen(what: str, wanted: str, known: list[list[str]]) -> str:
    """The one that is wanted, or else the first.

    Args:
        what: it is called.
        known: of every task.
    """
    for names in known:
        if wanted and wanted not in names:
            close = difflib.get_close_matches(wanted, names, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(f"there is no {what} {wanted!r} of this task; {hint}available: {', '.join(names)}")
    return wanted or known[0][0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps lm-eval's bars, prints and warnings off the terminal."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    nowhere = io.StringIO()
    try:
        with contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Lets tasks shuffle as under lm-eval's own seeds, and leaves no trace of it."""
    ours: Any = random.getstate(), np.random.get_state()
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    try:
        yield
    finally:
        random.setstate(ours[0])
        np.random.set_state(ours[1])

"""An lm-eval task as a config or a command line names it."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal

from pydantic import Field, model_validator

from datagen.errors import ConfigError
from datagen.frozen import Settings

#: Docs that a task is measured on: two disjoint parts of what may be searched on, or those that lm-eval itself takes.
Split = Literal["search", "validation", "test"]

#: How many docs a search takes of a task.
EXAMPLES = 128


class TaskConfig(Settings):
    """An lm-eval task, and how it is asked.

    Attributes:
        task: name of a task or a group of lm-eval's, or a task's YAML file.
        metric: one of the task's; empty for its first. `METRIC,FILTER` is short for both, as lm-eval writes it.
        filter: what an answer goes through before it is judged; empty for the task's first.
        examples: how many docs of each split at most; of each of its tasks, if it is a group. Empty: a search takes
            128, an evaluation all.
        num_fewshot: answered examples before each question; by default the task's own number.
        higher_is_better: which way the metric goes; by default as lm-eval says.
        chat: whether questions are put into the chat template.
        multiturn: whether answered examples are turns of their own there.
        include_path: folder with more tasks.
        test_split: whether a search may take the docs that lm-eval evaluates on; numbers on them mean nothing then.
    """

    task: str = Field(min_length=1)
    metric: str = ""
    filter: str = ""
    examples: int | None = Field(None, ge=1)
    num_fewshot: int | None = Field(None, ge=0)
    higher_is_better: bool | None = None
    chat: bool = False
    multiturn: bool = True
    include_path: str = ""
    test_split: bool = False

    @model_validator(mode="before")
    @classmethod
    def _metric_has_a_filter(cls, values: Any) -> Any:
        return with_filter(values) if isinstance(values, Mapping) else values

    @property
    def rows(self) -> int:
        """How many docs a search takes of each split."""
        return self.examples or EXAMPLES


def with_filter(values: Mapping[str, Any]) -> dict[str, Any]:
    """A metric that is written with its filter, as lm-eval does, becomes two values."""
    metric = values.get("metric")
    if not isinstance(metric, str) or "," not in metric:
        return dict(values)
    name, _, own = metric.partition(",")
    if values.get("filter", own) != own:
        raise ValueError(f"metric {metric!r} names another filter than filter={values['filter']!r}; leave one out")
    return {**values, "metric": name, "filter": own}


def check_installed(needing: str) -> None:
    """Refuses tasks where lm-eval cannot be had.

    Args:
        needing: what asks for it.

    Raises:
        ConfigError: it is not installed.
    """
    if find_spec("lm_eval") is None:
        raise ConfigError(
            f"{needing}: a task by name needs lm-eval, which must be installed, but is not; install "
            f"goodbunch[lm-eval], or leave the task out"
        )

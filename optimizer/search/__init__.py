"""The search: an Optuna study whose trials are baselines first, then the points a descent reaches.

The package can be called, as `optimizer.search(config)`: it has the name of what it does.
"""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optimizer.config import Config
    from optimizer.report.result import Result


class _Search(ModuleType):
    """A package that runs a search when it is called."""

    def __call__(self, config: "Config", *, trackers: Sequence[str] = ()) -> "Result":
        from optimizer.run import search

        return search(config, trackers=trackers)


sys.modules[__name__].__class__ = _Search

"""Synthetic safety and domain data, written with the very models that are to be merged.

From a notebook: `datagen.generate(optimizer.load_config("my.yaml"))`. Everything heavy is imported when it is called.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datagen.config import BunchConfig, EngineConfig
    from datagen.data_config import DataConfig

__all__ = ["Run", "generate"]


class Run(Protocol):
    """What of a run's config the data depends on; `optimizer.load_config` reads one."""

    @property
    def bunch(self) -> "BunchConfig":
        """The models that answer."""

    @property
    def engine(self) -> "EngineConfig":
        """What asks them."""

    @property
    def data(self) -> "DataConfig":
        """What is written, and what it must pass."""

    @property
    def data_folder(self) -> Path:
        """Where it goes."""

    @property
    def seed(self) -> int:
        """Of everything random."""


def generate(config: Run) -> Path:
    """Writes the data sets of a run, or goes on where it stopped.

    Args:
        config: of the run.

    Returns:
        The folder with one JSONL file per split and kind.

    Raises:
        GoodbunchError: something that the config names is missing or damaged, or nothing of some kind is left.
    """
    from datagen.pipeline import generate as write

    return write(config.bunch, config.data, config.engine, config.data_folder, config.seed)

"""Data-aware merging: coefficients searched so that the merged model keeps every skill and every refusal.

From a notebook:

    import datagen, optimizer

    config = optimizer.load_config("my.yaml")
    datagen.generate(config)
    result = optimizer.search(config)
    optimizer.merge("my.recipe.yaml", "merged")

Everything heavy is imported when a function is called.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optimizer.config import Config
    from optimizer.recipes import Recipe
    from optimizer.report.result import Result

    def search(config: "Config", *, trackers: Sequence[str] = ()) -> "Result":
        """Runs or resumes a search to its end: merged model, result, report.

        Args:
            trackers: tools that are told every trial: tensorboard, mlflow, wandb.

        Returns:
            What also stands in `result.json`.

        Raises:
            GoodbunchError: the bunch, the data or the run folder is not as it must be.
        """
else:
    from optimizer import search  # the package of that name, which can be called

__all__ = ["load_config", "merge", "search"]


def load_config(path: str | PathLike[str], overrides: Sequence[str] = ()) -> "Config":
    """Reads a config.

    Args:
        path: of a YAML file.
        overrides: `key.path=value`, stronger than the file.

    Raises:
        ConfigError: the file is missing or no YAML, or keys are unknown, missing or out of range.
    """
    from optimizer.loading import load_config as load

    return load(Path(path), overrides)


def merge(
    recipe: "Recipe | str | PathLike[str]", out: str | PathLike[str], *, trial: int | None = None, force: bool = False
) -> Path:
    """Makes the merge that a recipe describes, or one that a search evaluated, as a Hugging Face folder.

    Args:
        recipe: ours; or the path of one, of a mergekit YAML file, or of a run folder, which stands for its winner.
        out: folder for the merged model.
        trial: of a run folder: this trial of its search in place of the winner.
        force: whether a model that is there is replaced.

    Returns:
        `out`.

    Raises:
        GoodbunchError: there is no such recipe, its models do not fit, or `out` is taken.
    """
    from optimizer.export import write_merge
    from optimizer.recipes import Recipe
    from optimizer.recipes.finding import find_recipe

    found = recipe if isinstance(recipe, Recipe) else find_recipe(Path(recipe), trial)
    write_merge(found, Path(out), force=force)
    return Path(out)

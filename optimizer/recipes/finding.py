"""A recipe by what a user names: a file, a run's winner, or a trial."""

from pathlib import Path

from datagen.errors import ConfigError
from optimizer.recipes.reading import read_recipe
from optimizer.recipes.recipe import Recipe


def find_recipe(source: Path, trial: int | None = None, study: str | None = None) -> Recipe:
    """The recipe in a file, or of a trial or the winner of a run.

    Args:
        source: a recipe, a mergekit YAML file, or a run folder.
        trial: of a run folder: this one in place of the winner.
        study: of the trial; by default the search.

    Raises:
        GoodbunchError: there is no such recipe, run or trial.
    """
    if trial is not None:
        if not source.is_dir():
            raise ConfigError(
                f"--trial must come with a run folder, but {source} is none; name the folder, or leave it out"
            )
        from optimizer.report.result import MAIN
        from optimizer.trials import trial_recipe  # which opens studies: a recipe alone need not wait for that

        return trial_recipe(source, study or MAIN, trial)
    if not source.is_dir():
        return read_recipe(source)
    from optimizer.export.companions import RECIPE
    from optimizer.trials import run_winner

    return read_recipe(run_winner(source) / RECIPE)

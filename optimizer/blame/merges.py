"""The merge at hand: a run's winner, the uniform average of a config's experts, or a recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datagen.errors import ConfigError
from optimizer.bunch import Bunch, open_bunch
from optimizer.config import Config
from optimizer.engines.banks import space_of
from optimizer.evaluate.subjects import is_run
from optimizer.export.companions import RECIPE
from optimizer.loading import load_config
from optimizer.merging.space import Coefficients, Space
from optimizer.recipes.into_space import coefficients_of
from optimizer.recipes.ours import GroupedRecipe
from optimizer.recipes.reading import read_recipe
from optimizer.recipes.recipe import Recipe
from optimizer.report.result import RESULT, read_result
from optimizer.search.baselines import UNIFORM, naive
from optimizer.trials import run_config, run_winner

#: Modules are told apart even where all that a search moved was a layer, an anchor or the whole model.
_FINER = {"model": "module", "anchors": "module", "layer": "module"}


@dataclass(frozen=True)
class Merge:
    """A merge with what it is made of.

    Attributes:
        name: what it is called.
        winner: whether it is a run's winner.
        config: of its data and terms, with groups that are no coarser than modules.
        bunch: the sources.
        space: of its coefficients.
        coefficients: [experts, groups].
    """

    name: str
    winner: bool
    config: Config
    bunch: Bunch
    space: Space
    coefficients: Coefficients


def open_merge(named: Path, recipe: Path | None = None, overrides: Sequence[str] = ()) -> Merge:
    """Opens what the command line names.

    Args:
        named: a config, or a run folder.
        recipe: of the merge; by default a run's winner, and of a config the uniform average.
        overrides: `key.path=value`, stronger than the config's.

    Raises:
        GoodbunchError: the config, the run, the recipe or the sources are not as they must be.
    """
    run = is_run(str(named))
    if named.is_dir() and not run:
        raise ConfigError(f"{named}: must be a config or a run folder, but no search ran in it; name its config")
    config = run_config(named, overrides) if run else load_config(named, overrides)
    winner, name = run and recipe is None, UNIFORM if recipe is None else str(recipe)
    if winner:
        name = read_result(named / RESULT).winner
        recipe = run_winner(named) / RECIPE
    written = None if recipe is None else read_recipe(recipe)
    merge = config.merge.model_copy(update={"groups": _FINER.get(config.merge.groups, config.merge.groups)})
    if winner and isinstance(written, GroupedRecipe):  # a search may have tuned them
        merge = merge.model_copy(update={"parameters": _in_order(written.parameters, list(config.bunch.experts))})
    config = config.model_copy(update={"merge": merge})
    bunch = open_bunch(config.bunch)
    space = space_of(bunch, merge)
    coefficients = naive(space)[UNIFORM] if written is None else _placed(written, recipe, config, space)
    return Merge(name, winner, config, bunch, space, coefficients)


def _placed(written: Recipe, recipe: Path | None, config: Config, space: Space) -> Coefficients:
    try:
        return coefficients_of(written, config, space)
    except ConfigError as error:
        raise ConfigError(f"{recipe}: {error}") from error


def _in_order(parameters: Mapping[str, object], experts: Sequence[str]) -> dict[str, object]:
    """Hyper-parameters as a config has them: those by expert as lists."""
    return {
        name: [value[expert] for expert in experts] if isinstance(value, Mapping) else value
        for name, value in parameters.items()
    }

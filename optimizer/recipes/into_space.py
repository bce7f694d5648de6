"""A recipe as a point of a search: the user's own merges are tried before anything is searched."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from datagen.errors import ConfigError
from optimizer.config import Config
from optimizer.merging.methods.base import Value
from optimizer.merging.space import Coefficients, Space
from optimizer.recipes.reading import read_recipe
from optimizer.recipes.recipe import Recipe, TensorRecipe, beyond_defaults
from optimizer.report.result import WINNER
from optimizer.search.baselines import NAIVE


def recipe_points(config: Config, space: Space) -> dict[str, Coefficients]:
    """The recipes that a config names, as coefficients by the name of their file.

    Raises:
        ConfigError: a recipe cannot be read, or is no point of the search.
    """
    found: dict[str, Coefficients] = {}
    taken = {WINNER, *NAIVE, *config.bunch.models(), *config.search.controls}
    for file in map(Path, config.search.recipes):
        if file.stem in taken | found.keys():
            raise ConfigError(
                f"search.recipes: a file must have a name of its own, but {file.stem!r} is taken; rename {file}"
            )
        try:
            found[file.stem] = coefficients_of(read_recipe(file), config, space)
        except ConfigError as error:
            # What cannot be read is told with its place already.
            told = str(error).removeprefix(f"{file}: ")
            raise ConfigError(f"search.recipes: {file}: {told}") from error
    return found


def coefficients_of(recipe: Recipe, config: Config, space: Space) -> Coefficients:
    """A recipe's coefficients in a space, [experts, groups].

    Raises:
        ConfigError: it merges by another method or other settings, from other sources, or with other coefficients for
            parts that share one in the space.
    """
    if recipe.method.name != config.merge.method:
        raise ConfigError(
            f"a recipe must merge as the search does, by {config.merge.method}, but does by {recipe.method.name}; "
            f"change merge.method, or leave the recipe out"
        )
    if recipe.seed != config.merge.seed:  # masks are drawn by it
        raise ConfigError(
            f"a recipe must have the search's merge.seed, {config.merge.seed}, but has {recipe.seed}; change either"
        )
    names = _names(recipe, config.bunch.models())
    wanted = beyond_defaults(recipe.method, config.merge.parameters, len(space.experts))
    pieces = []
    resolved = recipe.resolve(space.tensors)
    for tensor, blocks in zip(space.tensors, space.blocks, strict=True):
        one = resolved[tensor]
        _check(tensor, one, wanted, names)
        pieces.append(_spread(one, blocks, [names[expert] for expert in one.experts], space.experts))
    columns = np.concatenate(pieces).T  # [experts, pieces]
    # Where pieces share a group outright its coefficient is that of any of them; only anchors need solving.
    shared = bool(np.isin(space.shares, (0, 1)).all())
    found = columns[:, space.shares.argmax(1)] if shared else columns @ np.linalg.pinv(space.shares)
    if not np.allclose(found @ space.shares, columns, rtol=0, atol=1e-12):
        raise ConfigError(
            "a recipe must have one coefficient for all that shares one in the search, but has several; make "
            "merge.groups finer, or the recipe coarser"
        )
    return found


def _names(recipe: Recipe, bunch: Mapping[str, str]) -> dict[str, str]:
    """Name of a source in the recipe -> its name in the bunch."""
    places = {_place(reference): name for name, reference in bunch.items()}
    if odd := [name for name, reference in recipe.models.items() if _place(reference) not in places]:
        raise ConfigError(
            f"a recipe must merge sources of the bunch, but {odd[0]} is {recipe.models[odd[0]]!r}; add it to "
            f"bunch.experts, or leave the recipe out"
        )
    return {name: places[_place(reference)] for name, reference in recipe.models.items()}


def _place(reference: str) -> str:
    return str(Path(reference).resolve()) if Path(reference).exists() else reference


def _check(
    tensor: str, one: TensorRecipe, wanted: Mapping[str, Value | tuple[Value, ...]], names: Mapping[str, str]
) -> None:
    if dict(one.settings) != dict(wanted):
        raise ConfigError(
            f"a recipe must have the search's merge.parameters, {dict(wanted) or 'all at their default'}, but "
            f"{tensor} has {dict(one.settings)}; change either"
        )
    if one.base is None or names[one.base] != "base":
        raise ConfigError(f"a recipe must add to the bunch's base, but {tensor} adds to {one.base}; change bunch.base")


def _spread(one: TensorRecipe, blocks: int, named: list[str], experts: tuple[str, ...]) -> Coefficients:
    """A tensor's coefficients for each of its blocks, [blocks, experts]; experts that are not named get 0."""
    own = np.atleast_2d(np.array(one.coefficients))
    if len(own) not in (1, blocks):
        raise ConfigError(f"a recipe must cut tensors as the search does, into {blocks}, but does into {len(own)}")
    made = np.zeros((blocks, len(experts)))
    made[:, [experts.index(name) for name in named]] = own
    return made

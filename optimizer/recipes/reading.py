"""A recipe from its YAML file, ours or mergekit's."""

from pathlib import Path

from datagen.errors import ConfigError
from datagen.reading import read_yaml
from optimizer.recipes.mergekit import read_mergekit
from optimizer.recipes.ours import read_ours
from optimizer.recipes.recipe import Recipe


def read_recipe(path: Path) -> Recipe:
    """Reads a recipe: ours has the key `method`, mergekit's the key `merge_method`.

    Raises:
        ConfigError: the file is missing or no YAML, or what it asks for is unknown or unsupported; one line tells.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such recipe file")
    values = read_yaml(path, ConfigError)
    given = [key for key in ("method", "merge_method") if isinstance(values, dict) and key in values]
    if len(given) != 1:
        raise ConfigError(
            f"{path}: a recipe must have either the key `method` (ours) or `merge_method` (mergekit's), but has "
            f"{'both' if given else 'neither'}"
        )
    try:
        return read_ours(values) if given == ["method"] else read_mergekit(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error

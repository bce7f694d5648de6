"""A recipe from its YAML file, ours or mergekit's."""

from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError

from datagen.errors import ConfigError
from optimizer.recipes.mergekit import read_mergekit
from optimizer.recipes.ours import read_ours
from optimizer.recipes.recipe import Recipe


class _Loader(yaml.SafeLoader):
    """The safe loader, with keys that stand twice in a mapping refused."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        written = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if doubled := [key for key, times in written.items() if times > 1]:
            raise ComposerError(None, None, f"the key {doubled[0]!r} stands twice in a mapping", node.start_mark)
        return node


def read_recipe(path: Path) -> Recipe:
    """Reads a recipe: ours has the key `method`, mergekit's the key `merge_method`.

    Raises:
        ConfigError: the file is missing or no YAML, or what it asks for is unknown or unsupported; one line tells.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such recipe file")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader's subclass
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: must be YAML, but {' '.join(str(error).split())}") from error
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

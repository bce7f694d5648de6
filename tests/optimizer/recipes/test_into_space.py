"""Recipes as points of a search: exactly, or refused in one line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from datagen.errors import ConfigError
from optimizer.config import Config
from optimizer.engines.banks import space_of
from optimizer.recipes.into_space import coefficients_of, recipe_points
from optimizer.recipes.ours import read_ours
from optimizer.recipes.reading import read_recipe
from optimizer.recipes.searched import recipe_of
from optimizer.search.domain import Point
from tests.optimizer.tiny_zoo import TinyZoo


@pytest.fixture
def values(tiny_zoo: TinyZoo) -> dict[str, Any]:
    """A recipe of two of the experts."""
    return {
        "method": "task_arithmetic",
        "base": str(tiny_zoo.folder / "base"),
        "experts": {"c": str(tiny_zoo.folder / "code"), "a": str(tiny_zoo.folder / "aligned")},
        "coefficients": {"c": 0.25, "a": 0.75},
    }


def point_of(tiny_zoo: TinyZoo, values: Mapping[str, Any], **merge: Any) -> np.ndarray:
    config = tiny_zoo.config(Path("run"), merge={"groups": "layer"} | merge)
    return coefficients_of(read_ours(values), config, space_of(tiny_zoo.bunch, config.merge))


@pytest.mark.parametrize("groups", ["model", "anchors", "layer", "module", "tensor", "block"])
def test_sources_are_told_by_their_folders_whatever_they_are_called(
    tiny_zoo: TinyZoo, values: dict[str, Any], groups: str
) -> None:
    found = point_of(tiny_zoo, values, groups=groups)
    assert found == pytest.approx(np.tile([[0.75], [0.0], [0.25]], (1, found.shape[1])), abs=1e-15)
    if groups != "anchors":
        assert (found == found[:, :1]).all()


@pytest.mark.parametrize("groups", ["model", "anchors", "layer", "module", "tensor", "block"])
@pytest.mark.parametrize("anchors", [2, 3])
def test_what_a_search_wrote_down_is_read_back(tiny_zoo: TinyZoo, groups: str, anchors: int, tmp_path: Path) -> None:
    config = tiny_zoo.config(Path("run"), merge={"groups": groups, "anchors": anchors, "blocks": 3})
    space = space_of(tiny_zoo.bunch, config.merge)
    point = np.random.default_rng(0).normal(size=space.shape)
    (tmp_path / "recipe.yaml").write_text(recipe_of(config, space, Point(point, {})).to_yaml())
    found = coefficients_of(read_recipe(tmp_path / "recipe.yaml"), config, space)
    if groups == "anchors":
        # Of two layers neither lies at the middle one of three anchors: it may be anything.
        assert found @ space.shares == pytest.approx(point @ space.shares, abs=1e-12)
    else:
        assert np.array_equal(found, point)


def test_anchors_between_layers_are_solved_for(tiny_zoo: TinyZoo) -> None:
    from optimizer.merging.space import Space

    space = Space.named(["a"], [f"model.layers.{i}.mlp.up_proj.weight" for i in range(7)], "anchors", 3)
    point = np.array([[0.3, -1.0, 2.0]])
    columns = point @ space.shares
    assert columns[0].tolist() == pytest.approx([0.3, -2 / 15, -17 / 30, -1, 0, 1, 2])
    assert columns @ np.linalg.pinv(space.shares) == pytest.approx(point, abs=1e-14)


def test_settings_at_their_default_are_the_same_as_none(tiny_zoo: TinyZoo, values: dict[str, Any]) -> None:
    ties = {"method": "ties", "parameters": {"density": 0.5}}
    given = values | {"method": "ties", "parameters": {"density": {"a": 0.5, "c": 0.5}, "normalize": True}}
    with pytest.raises(ConfigError, match=r"must have the search's merge\.parameters"):
        point_of(tiny_zoo, given, **ties)  # two of three experts have one
    given["experts"] = given["experts"] | {"m": str(tiny_zoo.folder / "math")}
    given["coefficients"] = {"c": 0.25, "a": 0.75, "m": 0}
    given["parameters"] = {"density": 0.5, "normalize": True}
    assert point_of(tiny_zoo, given, **ties)[:, 0].tolist() == [0.75, 0.0, 0.25]


LAYERS = {"embeddings": 0.5, "layer 0": 0.5, "layer 1": 0.1, "final norm": 0.5, "head": 0.5}


@pytest.mark.parametrize(
    ("changes", "merge", "message"),
    [
        (
            {"method": "ties"},
            {},
            "a recipe must merge as the search does, by task_arithmetic, but does by ties; ",
        ),
        ({"seed": 3}, {}, "a recipe must have the search's merge.seed, 0, but has 3; change either"),
        (
            {"experts": {"c": "org/other", "a": "org/aligned"}},
            {},
            "a recipe must merge sources of the bunch, but c is 'org/other'; add it to bunch.experts",
        ),
        (
            {"method": "ties", "parameters": {"density": 0.5}},
            {"method": "ties"},
            "must have the search's merge.parameters, all at their default, but model.embed_tokens.weight has",
        ),
        (
            {"method": "ties"},
            {"method": "ties", "parameters": {"density": 0.5}},
            r"must have the search's merge.parameters, \{'density': \(0.5, 0.5, 0.5\)\}, but model.embed_tokens",
        ),
        (
            {"coefficients": {"c": LAYERS, "a": 1}},
            {"groups": "model"},
            "must have one coefficient for all that shares one in the search, but has several; make merge.groups finer",
        ),
        (
            {"coefficients": {"c": LAYERS, "a": 1}},
            {"groups": "anchors", "anchors": 2},
            None,
        ),
        (
            {"coefficients": {"c": LAYERS | {"head": 0.2}, "a": 1}},
            {"groups": "anchors", "anchors": 2},
            "must have one coefficient for all that shares one in the search, but has several",
        ),
    ],
)
def test_what_is_no_point_is_refused_in_one_line(
    tiny_zoo: TinyZoo, values: dict[str, Any], changes: dict[str, Any], merge: dict[str, Any], message: str | None
) -> None:
    if message is None:
        # The first anchor is the embeddings' and layer 0's, the last one layer 1's, the final norm's and the head's.
        even = LAYERS | {"final norm": 0.1, "head": 0.1}
        found = point_of(tiny_zoo, values | {"coefficients": {"c": even, "a": 1}}, **merge)
        assert found.tolist() == [[1, 1], [0, 0], [0.5, 0.1]]
        return
    with pytest.raises(ConfigError, match=message) as told:
        point_of(tiny_zoo, values | changes, **merge)
    assert "\n" not in str(told.value)


def test_another_base_is_refused(tiny_zoo: TinyZoo, values: dict[str, Any]) -> None:
    swapped = values | {"base": values["experts"]["c"], "experts": {"b": values["base"], "a": values["experts"]["a"]}}
    swapped["coefficients"] = {"b": 1, "a": 1}
    with pytest.raises(ConfigError, match=r"must add to the bunch's base, but model\.embed_tokens\.weight adds"):
        point_of(tiny_zoo, swapped)


def test_other_blocks_are_refused(tiny_zoo: TinyZoo) -> None:
    config = tiny_zoo.config(Path("run"), merge={"groups": "block", "blocks": 3})
    space = space_of(tiny_zoo.bunch, config.merge)
    recipe = recipe_of(config, space, Point(space.constant({"math": 1.0}), {}))
    for groups, message in (("tensor", "into 1, but does into 3"), ("block", "into 8, but does into 3")):
        other = tiny_zoo.config(Path("run"), merge={"groups": groups})
        with pytest.raises(ConfigError, match=f"must cut tensors as the search does, {message}"):
            coefficients_of(recipe, other, space_of(tiny_zoo.bunch, other.merge))


def named(tiny_zoo: TinyZoo, files: list[Path], **search: Any) -> dict[str, np.ndarray]:
    config: Config = tiny_zoo.config(Path("run"), {"recipes": [str(file) for file in files]} | search)
    return recipe_points(config, space_of(tiny_zoo.bunch, config.merge))


def test_recipes_go_by_the_names_of_their_files(tiny_zoo: TinyZoo, values: dict[str, Any], tmp_path: Path) -> None:
    files = [tmp_path / name / f"{name}.yaml" for name in ("mine", "yours")]
    for file in files:
        file.parent.mkdir()
        file.write_text(yaml.safe_dump(values))
    mergekit = tmp_path / "theirs.yml"
    models = [{"model": values["experts"][name], "parameters": {"weight": w}} for name, w in (("a", 0.5), ("c", 1.5))]
    mergekit.write_text(
        yaml.safe_dump({"merge_method": "task_arithmetic", "base_model": values["base"], "models": models})
    )
    found = named(tiny_zoo, [*files, mergekit])
    assert list(found) == ["mine", "yours", "theirs"]
    assert found["theirs"][:, 0].tolist() == [0.5, 0.0, 1.5]


@pytest.mark.parametrize(
    "name", ["base", "math", "uniform", "task_arithmetic", "lm_cocktail", "winner", "able", "mine"]
)
def test_names_that_are_taken_are_refused(tiny_zoo: TinyZoo, values: dict[str, Any], tmp_path: Path, name: str) -> None:
    files = [tmp_path / place / f"{one}.yaml" for place, one in (("a", "mine"), ("b", name))]
    for file in files:
        file.parent.mkdir()
        file.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=f"search.recipes: a file must have a name of its own, but '{name}' is taken"):
        named(tiny_zoo, files, controls={"able": ["math"]})


@pytest.mark.parametrize(("method", "told"), [("", "no such recipe file"), ("ties", "a recipe must merge as the ")])
def test_a_file_is_named_once(
    tiny_zoo: TinyZoo, values: dict[str, Any], tmp_path: Path, method: str, told: str
) -> None:
    file = tmp_path / "recipe.yaml"
    if method:
        file.write_text(yaml.safe_dump(values | {"method": method}))
    with pytest.raises(ConfigError) as error:
        named(tiny_zoo, [file])
    assert str(error.value).startswith(f"search.recipes: {file}: {told}")

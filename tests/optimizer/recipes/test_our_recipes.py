"""Our own recipes: group names tell the granularity, and whatever does not fit is named."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from datagen.errors import ConfigError
from optimizer.merging.groups import groups
from optimizer.recipes import TensorRecipe
from optimizer.recipes.ours import GroupedRecipe, read_ours
from optimizer.recipes.reading import read_recipe
from tests.optimizer.recipes.mergekit_configs import llama_names

NAMES = llama_names(12)
RECIPE: dict[str, Any] = {
    "method": "ties",
    "base": "m/base",
    "experts": {"a": "m/a", "b": "m/b+m/lora"},
    "coefficients": {"a": 0.5, "b": dict.fromkeys(groups(NAMES, "layer"), 0.25) | {"layer 1": 2}},
    "parameters": {"density": {"b": 0.5, "a": 1}, "lambda": 1},
}


def changed(**keys: Any) -> GroupedRecipe:
    return read_ours(RECIPE | keys)


def test_every_tensor_gets_its_groups_coefficient() -> None:
    tensors = changed().resolve(NAMES)
    assert list(tensors) == NAMES
    settings = {"density": (1.0, 0.5)}
    assert tensors["model.layers.1.mlp.up_proj.weight"] == TensorRecipe("base", ("a", "b"), (0.5, 2.0), settings)
    assert tensors["model.layers.11.mlp.up_proj.weight"].coefficients == (0.5, 0.25)


@pytest.mark.parametrize("granularity", ["model", "layer", "module", "tensor"])
def test_group_names_tell_the_granularity(granularity: str) -> None:
    members = groups(NAMES, granularity)
    recipe = changed(coefficients={"a": 0, "b": {group: i for i, group in enumerate(members)}})
    tensors = recipe.resolve(NAMES)
    for i, inside in enumerate(members.values()):
        assert {tensors[name].coefficients for name in inside} == {(0.0, float(i))}


def test_what_exports_have_written_so_far_is_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    old = {"method": "task_arithmetic", "base": "z/base", "experts": {"x": "z/x"}, "tokenizer": "x"}
    path.write_text(yaml.safe_dump(old | {"coefficients": {"x": {"model": 0.3}}}, sort_keys=False))
    recipe = read_recipe(path)
    assert (recipe.models, recipe.base, recipe.tokenizer) == ({"base": "z/base", "x": "z/x"}, "base", "x")
    assert recipe.resolve(NAMES)["lm_head.weight"] == TensorRecipe("base", ("x",), (0.3,))


def test_yaml_is_read_back_as_it_was(tmp_path: Path) -> None:
    recipe = changed(
        groups="layer", tokenizer="a", dtype="float32", out_dtype="bfloat16", seed=3, chat_template="{{ x }}"
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    assert read_recipe(path) == recipe
    assert list(yaml.safe_load(read_ours({"method": "karcher", "experts": {"a": "m"}}).to_yaml())) == [
        "method",
        "experts",
        "tokenizer",
        "coefficients",
    ]


def test_without_a_base_the_first_expert_gives_the_config() -> None:
    recipe = read_ours({"method": "linear", "experts": {"x": "m/x", "y": "m/y"}, "coefficients": {"x": 1, "y": 1}})
    assert (recipe.base, recipe.tokenizer) == ("x", "x")
    assert recipe.resolve(NAMES)["lm_head.weight"] == TensorRecipe(None, ("x", "y"), (1.0, 1.0))


def test_a_method_without_task_vectors_does_not_merge_the_base() -> None:
    recipe = read_ours({"method": "karcher", "base": "m/b", "experts": {"x": "m/x"}})
    assert recipe.base == "base"
    assert recipe.resolve(NAMES)["lm_head.weight"] == TensorRecipe(None, ("x",), (1.0,))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"metod": 1}, "metod: unknown key; did you mean 'method'"),
        ({"method": "tiess"}, "there is no merge method 'tiess'; did you mean 'ties'"),
        ({"base": ""}, "ties needs a base model"),
        ({"experts": {"base": "m"}}, "no expert may be named `base`"),
        ({"experts": {}}, "experts: dictionary should have at least 1 item"),
        ({"tokenizer": "c"}, "tokenizer: must be one of base, a, b, but got 'c'"),
        (
            {"groups": "layers"},
            "groups: input should be 'model', 'layer', 'module', 'tensor' or 'block', but got 'layers'",
        ),
        ({"coefficients": {"a": 1}}, "coefficients: must name every expert once, but there is nothing for expert 'b'"),
        ({"coefficients": {"a": 1, "b": 1, "aa": 1}}, "no expert 'aa'; did you mean 'a'"),
        (
            {"coefficients": {"a": 1, "b": "x"}},
            r"coefficients\.b: must be a finite number, or one by group, but got 'x'",
        ),
        ({"coefficients": {"a": 1, "b": {"model": float("inf")}}}, r"coefficients\.b: must be a finite number"),
        ({"parameters": {"densty": 1}}, "ties has no parameter 'densty'; did you mean 'density'"),
        ({"parameters": {"density": [1, 2]}}, r"parameters\.density: must be one value, or one by expert"),
        ({"parameters": {"density": "x"}}, r"parameters\.density: must be a number, but got 'x'"),
        ({"parameters": {"density": {"a": 1}}}, r"parameters\.density: .* nothing for expert 'b'"),
        ({"parameters": {"density": {"a": 1, "b": "x"}}}, r"parameters\.density\.b: must be a number"),
        ({"parameters": {"normalize": {"a": True}}}, r"parameters\.normalize: must be one value for all experts"),
        ({"dtype": "int8"}, "dtype: input should be"),
    ],
)
def test_mistakes_are_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        changed(**keys)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("coefficients", "message"),
    [
        (
            {"layer 0": 1, "layer 12": 1, "head": 1},
            r"no group 'layer 12'; did you mean .* and nothing for group 'embed",
        ),
        (dict.fromkeys(groups(NAMES, "module"), 1) | {"haed": 1}, "there is no group 'haed'; did you mean 'head'"),
        (dict.fromkeys(NAMES[:-3], 1), r"nothing for group .*\.weight', 'model\.norm\.weight', 'lm_head\.weight'"),
        (dict.fromkeys(NAMES[4:], 1), r"nothing for group .* and 1 more"),
    ],
)
def test_groups_that_do_not_fit_are_named(coefficients: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        changed(coefficients={"a": 1, "b": coefficients}).resolve(NAMES)


def test_groups_of_another_granularity_than_was_said_are_named() -> None:
    with pytest.raises(
        ConfigError, match=r"coefficients\.b: must name every group once, but there is no group 'layer 0'"
    ):
        changed(groups="tensor", coefficients={"a": 1, "b": {"layer 0": 1}}).resolve(NAMES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", r"bad\.yaml: must be YAML"),
        ("method: ties\nmethod: linear", "the key 'method' stands twice"),
        ("- 1", "either the key `method`.* has neither"),
        ("method: a\nmerge_method: b", "has both"),
        ("method: ties", r"bad\.yaml: experts: this key must be set"),
        ("merge_method: ties", r"bad\.yaml: exactly one of `models` and `slices`"),
        ("a: 1\n---\na: 2", "must be YAML"),
        ("!!python/object/apply:os.getcwd []", "must have no tags"),
    ],
)
def test_what_is_no_recipe_is_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_recipe(path)
    assert "\n" not in str(caught.value)


def test_missing_file() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such recipe file"):
        read_recipe(Path("nowhere.yaml"))


def test_mergekit_files_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(
        "x: &x {weight: 1e-1}\n".replace("x: &x", "parameters: &x") + "models: [{model: m/a}, {model: m/b, "
        "parameters: {<<: *x}}]\nmerge_method: linear\n"
    )
    assert read_recipe(path).resolve(NAMES)["lm_head.weight"].coefficients == (0.1, 0.1)

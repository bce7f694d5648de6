"""What is written for mergekit gives every tensor the same values, in mergekit and read back."""

from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from datagen.errors import ConfigError
from optimizer.merging.groups import groups
from optimizer.merging.methods import METHODS
from optimizer.recipes import Recipe, TensorRecipe
from optimizer.recipes.mergekit import read_mergekit
from optimizer.recipes.mergekit_out import mergekit_config
from optimizer.recipes.ours import GroupedRecipe, read_ours
from tests.optimizer.recipes.mergekit_configs import llama_names, mergekit_configs, placed


def read_back(recipe: Recipe, names: list[str]) -> tuple[dict[str, Any], dict[str, TensorRecipe]]:
    written = yaml.safe_load(mergekit_config(recipe, names))
    return written, read_mergekit(written).resolve(names)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(mergekit_configs())
def test_a_mergekit_recipe_survives_the_way_out(oracle, folders, drawn) -> None:
    depth, config = drawn
    names, recipe = llama_names(depth), read_mergekit(placed(config, folders[depth]))
    try:
        wanted = recipe.resolve(names)
    except ConfigError:
        assume(False)
    # Slices that list their sources in different orders are not one list of models.
    assume(len({(tensor.base, tensor.experts) for tensor in wanted.values()}) == 1)
    written, ours = read_back(recipe, names)
    assert ours == wanted
    assert oracle(written) == wanted


@pytest.mark.parametrize("granularity", ["model", "layer", "module", "tensor"])
def test_coefficients_by_group_are_what_mergekit_reads(oracle, folders, granularity: str) -> None:
    names, models = llama_names(12), folders[12]
    members = groups(names, granularity)
    recipe = GroupedRecipe(
        method=METHODS["ties"],
        models={"base": models["a"], "b": models["b"], "c": models["c"]},
        base="base",
        tokenizer="b",
        groups=granularity,
        coefficients={"b": {group: i / 7 for i, group in enumerate(members)}, "c": -0.5},
        parameters={"density": {"b": 0.25, "c": 1.0}, "normalize": False},
    )
    written = yaml.safe_load(mergekit_config(recipe, names))
    wanted = recipe.resolve(names)
    for name, tensor in oracle(written).items():
        assert tensor.coefficients == wanted[name].coefficients
        assert tensor.settings == wanted[name].settings
    assert (written["dtype"], written["tokenizer_source"]) == ("float32", models["b"])
    assert written["parameters"] == {"normalize": False, "rescale": False, "lambda": 1.0}
    assert written["models"][2]["parameters"] == {"weight": -0.5, "density": 1.0}


def test_layers_and_lone_tensors_are_written_shortly() -> None:
    names = llama_names(12)
    values = dict.fromkeys(groups(names, "layer"), 0.5) | {"layer 1": 0.25, "head": 2.0}
    recipe = read_ours({"method": "task_arithmetic", "base": "m", "experts": {"x": "n"}, "coefficients": {"x": values}})
    written, _ = read_back(recipe, names)
    assert written["models"] == [
        {"model": "m"},
        {
            "model": "n",
            "parameters": {
                "weight": [
                    {"filter": "lm_head.weight", "value": 2.0},
                    {"filter": ".layers.1.", "value": 0.25},
                    {"value": 0.5},
                ]
            },
        },
    ]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_names_that_are_part_of_other_names_keep_their_own_values(data) -> None:
    layer, part = st.sampled_from(("1", "11", "0")), st.sampled_from(("a", "a.b", "b.layers.1.a", "norm"))
    inside = st.builds("model.layers.{}.{}".format, layer, part)
    outside = st.sampled_from(("norm", "model.norm", "model.norm.a", "a", "layers.1.a"))
    names = data.draw(st.lists(st.one_of(inside, outside), min_size=1, max_size=12, unique=True))
    values = {name: data.draw(st.sampled_from((0.0, 0.5, 1.0, 2.0))) for name in names}
    recipe = read_ours(
        {
            "method": "task_arithmetic",
            "base": "m",
            "experts": {"x": "n"},
            "coefficients": {"x": values},
            "groups": "tensor",
        }
    )
    written = yaml.safe_load(mergekit_config(recipe, names))
    setting = written["models"][1]["parameters"]["weight"]
    entries = setting if isinstance(setting, list) else [{"value": setting}]
    for name, value in values.items():
        assert next(entry["value"] for entry in entries if entry.get("filter", "") in name) == value


def linear(**keys: Any) -> Recipe:
    return read_ours({"method": "linear", "experts": {"a": "m/a", "b": "m/b"}, "coefficients": {"a": 1, "b": 2}} | keys)


def test_a_base_that_only_gives_the_config_weighs_nothing() -> None:
    written, tensors = read_back(linear(base="m/c"), llama_names(1))
    assert written["base_model"] == "m/c"
    assert tensors["lm_head.weight"].experts == ("c", "a", "b")
    assert tensors["lm_head.weight"].coefficients == (0.0, 1.0, 2.0)
    assert read_back(linear(), llama_names(1))[0]["base_model"] == "m/a"


def test_lm_cocktail_is_written_as_linear_with_its_weights() -> None:
    written, tensors = read_back(linear(method="lm_cocktail", parameters={"temperature": 0.5}), llama_names(1))
    assert written["merge_method"] == "linear"
    tensor = tensors["lm_head.weight"]
    assert tensor.coefficients == pytest.approx((0.1192029, 0.8807971))  # e^2 / (e^2 + e^4) and the rest
    assert tensor.settings == {"normalize": False}


def test_mergealign_is_written_as_task_arithmetic() -> None:
    written, tensors = read_back(linear(method="mergealign", base="m/c"), llama_names(1))
    assert written["merge_method"] == "task_arithmetic"
    assert tensors["lm_head.weight"] == TensorRecipe("c", ("a", "b"), (1.0, 2.0))


def test_types_and_template_are_kept() -> None:
    recipe = linear(dtype="bfloat16", out_dtype="float16", chat_template="{{ x }}\n")
    written = yaml.safe_load(mergekit_config(recipe, llama_names(1), out_dtype="float32"))
    assert [written[key] for key in ("dtype", "out_dtype", "chat_template")] == ["bfloat16", "float16", "{{ x }}\n"]
    assert yaml.safe_load(mergekit_config(linear(), llama_names(1), "bfloat16"))["out_dtype"] == "bfloat16"


@pytest.mark.parametrize("method", ["karcher", "model_stock", "sce", "arcee_fusion"])
def test_methods_without_coefficients_in_mergekit(method: str) -> None:
    experts = {"a": "m/a"} if method == "arcee_fusion" else {"a": "m/a", "b": "m/b"}
    keys: dict[str, Any] = {"method": method, "experts": experts, "base": "m/c", "tokenizer": "a"}
    written, tensors = read_back(read_ours(keys), llama_names(1))
    assert set(tensors["lm_head.weight"].coefficients) == {1.0}
    assert all("parameters" not in model for model in written["models"])
    with pytest.raises(ConfigError, match=f"mergekit's {method} has no coefficients, so all must be 1.0"):
        mergekit_config(read_ours(keys | {"coefficients": {"a": 0.5}}), llama_names(1))


def test_slices_with_other_sources_cannot_be_written() -> None:
    slices = [{"sources": [{"model": model, "layer_range": [i, i + 1]}]} for i, model in enumerate(("m/a", "m/b"))]
    recipe = read_mergekit({"merge_method": "passthrough", "slices": slices})
    with pytest.raises(ConfigError, match=r"same base and experts .* but there are 2 sets"):
        mergekit_config(recipe, llama_names(2))

"""Every tensor gets the values that mergekit gives it; what is not supported is refused by name."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings

from datagen.errors import ConfigError
from optimizer.recipes.mergekit import MergekitRecipe, read_mergekit
from tests.optimizer.recipes.mergekit_configs import llama_names, mergekit_configs, placed

TIES: dict[str, Any] = {
    "merge_method": "ties",
    "base_model": "m/base",
    "models": [
        {"model": "m/a", "parameters": {"weight": 0.5, "density": [1, 0.5]}},
        {"model": "m/b", "parameters": {"weight": [{"filter": "mlp", "value": 0.2}, {"value": "1e-1"}]}},
    ],
}
SLERP: dict[str, Any] = {
    "merge_method": "slerp",
    "base_model": "m/a",
    "slices": [
        {"sources": [{"model": "m/a", "layer_range": [0, 2]}, {"model": "m/b", "layer_range": [0, 2]}]},
        {
            "sources": [{"model": "m/a", "layer_range": [2, 3]}, {"model": "m/b", "layer_range": [2, 3]}],
            "parameters": {"t": [0.2, 0.4]},
        },
    ],
    "parameters": {"t": [{"filter": "self_attn", "value": [0, 1]}, {"value": 0.5}]},
}


@settings(max_examples=45, deadline=None, derandomize=True)
@given(mergekit_configs())
def test_every_tensor_gets_what_mergekit_gives_it(oracle, folders, drawn) -> None:
    depth, config = drawn
    config = placed(config, folders[depth])
    try:
        theirs = oracle(copy.deepcopy(config))
    except RuntimeError as error:  # a filter that leaves a tensor without its coefficient
        assert "Missing required parameter" in str(error)
        with pytest.raises(ConfigError, match=r"needs '(weight|t|scale)' for every tensor"):
            read_mergekit(config).resolve(llama_names(depth))
        return
    ours = read_mergekit(config).resolve(llama_names(depth))
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert ours[name] == expected, name


def test_gradients_of_whole_numbers_and_of_booleans() -> None:
    models = [{"model": "m/a"}, {"model": "m/b"}]
    karcher = read_mergekit({"merge_method": "karcher", "models": models, "parameters": {"max_iter": [5, "10"]}})
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(3)]
    assert [one.settings.get("max_iter", "default") for one in karcher.resolve(names[:2]).values()] == [5, "default"]
    with pytest.raises(ConfigError, match=r"must hit whole numbers, but got 7\.5 at t = 0\.5"):
        karcher.resolve(names)
    ties = read_mergekit({**TIES, "parameters": {"normalize": [True, False]}})
    assert ["normalize" in one.settings for one in ties.resolve(names).values()] == [False, False, True]


def test_depth_runs_from_0_to_1_in_each_slice_and_is_1_where_a_slice_has_one_layer() -> None:
    tensors = read_mergekit(SLERP).resolve(llama_names(3))
    t = {name: tensor.coefficients[0] for name, tensor in tensors.items()}
    assert [t[f"model.layers.{i}.self_attn.q_proj.weight"] for i in range(3)] == [0.0, 1.0, 0.4]
    assert [t[f"model.layers.{i}.mlp.up_proj.weight"] for i in range(3)] == [0.5, 0.5, 0.4]
    assert t["model.embed_tokens.weight"] == 0.5
    assert t["model.norm.weight"] == t["lm_head.weight"] == 0.2


def test_gpt_neox_has_its_head_in_the_last_slice() -> None:
    inside = [f"gpt_neox.layers.{i}.mlp.dense_h_to_4h.weight" for i in range(3)]
    names = ["gpt_neox.embed_in.weight", *inside, "gpt_neox.final_layer_norm.weight", "embed_out.weight"]
    tensors = read_mergekit(SLERP).resolve(names)
    assert tensors["gpt_neox.embed_in.weight"].coefficients == (0.5,)
    assert tensors["embed_out.weight"].coefficients == (0.2,)


def test_an_unlisted_base_is_added_and_experts_keep_their_order() -> None:
    recipe = read_mergekit(TIES)
    assert recipe.models == {"a": "m/a", "b": "m/b", "base": "m/base"}
    assert (recipe.base, recipe.tokenizer) == ("base", "base")
    tensor = recipe.resolve(llama_names(2))["model.layers.1.mlp.up_proj.weight"]
    assert (tensor.base, tensor.experts, tensor.coefficients) == ("base", ("a", "b"), (0.5, 0.2))
    assert tensor.settings == {"density": (0.5, 1.0)}


def test_a_method_without_base_merges_the_base_model_too() -> None:
    config = {"merge_method": "linear", "base_model": "m/c", "models": [{"model": "m/a"}], "parameters": {"weight": 2}}
    recipe = read_mergekit(config)
    tensor = recipe.resolve(llama_names(1))["lm_head.weight"]
    assert (recipe.base, tensor.base, tensor.experts, tensor.coefficients) == ("c", None, ("a", "c"), (2.0, 2.0))


def test_models_may_have_revisions_adapters_and_equal_names() -> None:
    models = [{"model": "x/a@v1+y/lora@v2"}, {"model": "z/a"}, {"model": {"model": {"path": "my a", "revision": "r"}}}]
    recipe = read_mergekit({"merge_method": "linear", "parameters": {"weight": 1}, "models": models})
    assert recipe.models == {"lora": "x/a@v1+y/lora@v2", "a": "z/a", "my-a": "my a@r"}
    twice = read_mergekit({"merge_method": "karcher", "models": [{"model": "x/a.b"}, {"model": "y/a.b/"}]})
    assert list(twice.models) == ["a-b", "a-b-2"]


def changed(**keys: Any) -> MergekitRecipe:
    return read_mergekit({**copy.deepcopy(TIES), **keys})


def test_what_makes_no_difference_is_noted() -> None:
    recipe = changed(
        parameters={"int8_mask": True, "normalize": False},
        models=[*TIES["models"], {"model": "m/base", "parameters": {"weight": 1}}],
    )
    assert len(recipe.notes) == 2
    assert recipe.notes[0].startswith("models.2.parameters: the base")
    assert recipe.notes[1].startswith("int8_mask: ")
    assert recipe.resolve(llama_names(1))["lm_head.weight"].settings["normalize"] is False
    assert changed().notes == ()


@pytest.mark.parametrize(
    ("keys", "tokenizer"),
    [
        ({"tokenizer_source": "base"}, "base"),
        ({"tokenizer_source": "m/a"}, "a"),
        ({"tokenizer": {"source": "m/b"}}, "b"),
        ({"tokenizer": None}, "base"),
    ],
)
def test_tokenizer(keys: dict[str, Any], tokenizer: str) -> None:
    assert changed(**keys).tokenizer == tokenizer


def test_types_and_chat_template() -> None:
    recipe = changed(dtype="torch.bfloat16", out_dtype="float16", chat_template="{% for m in messages %}{% endfor %}")
    assert (recipe.dtype, recipe.out_dtype) == ("bfloat16", "float16")
    assert recipe.chat_template == "{% for m in messages %}{% endfor %}"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"modules": {}, "models": None}, "modules: not supported"),
        ({"models": None}, "exactly one of `models` and `slices`"),
        ({"slices": SLERP["slices"]}, "exactly one of `models` and `slices`"),
        ({"merge_methd": "ties"}, "merge_methd: unknown key; did you mean 'merge_method'"),
        ({"merge_method": "tie"}, "there is no merge method 'tie'; did you mean 'ties'"),
        ({"merge_method": "ram"}, "there is no merge method 'ram'"),
        ({"merge_method": "lm_cocktail", "base_model": None}, "lm_cocktail has no coefficient in mergekit's YAML"),
        ({"merge_method": "slerp"}, "slerp merges 1 models besides the base, but got 2"),
        ({"base_model": None}, "ties needs a base model"),
        ({"base_model": "a+b+c"}, "base_model: must be `path`, `path@revision`"),
        ({"models": [{"model": "m/a", "layer_range": [0, 2]}]}, "models.0.layer_range: unknown key"),
        ({"models": [{"model": "m/a"}, {"model": "m/a"}]}, "every model must be listed once, but m/a"),
        (
            {"models": [{"model": {"model": "m/a", "override_architecture": "X"}}]},
            "'override_architecture' is not",
        ),
        ({"parameters": {"densty": 1}}, r"parameters\.densty: ties has no parameter 'densty'; did you mean 'density'"),
        ({"parameters": {"weight": "much"}}, r"parameters\.weight: must be a number, but got 'much'"),
        ({"parameters": {"weight": [0, ".nan"]}}, "parameters.weight: must be"),
        ({"parameters": {"weight": []}}, "the list is empty"),
        ({"parameters": {"weight": [1, {"value": 2}]}}, "must be a number, but got {'value': 2}"),
        (
            {"parameters": {"weight": {"filtr": "mlp", "value": 2}}},
            r"\.0\.filtr: unknown key; did you mean 'filter'",
        ),
        ({"parameters": {"weight": {"filter": "mlp"}}}, r"weight\.0\.value: this key must be set"),
        ({"parameters": {"normalize": 0.5}}, r"parameters\.normalize: must be true or false"),
        (
            {"models": [{"model": "m/a", "parameters": {"weight": 1, "normalize": True}}]},
            r"models\.0\.parameters\.normalize: must be one value for all models",
        ),
        ({"tokenizer_source": "union"}, "tokenizer_source: must be `base` or a model; a union"),
        ({"tokenizer": {}}, r"tokenizer\.source: must be `base` or a model; a union"),
        ({"tokenizer": {"source": "base", "tokens": {}}}, "tokens: not supported"),
        ({"tokenizer": {"source": "base", "pad_to_multiple_of": 8}}, "pad_to_multiple_of: not supported"),
        ({"tokenizer": {"source": "base"}, "tokenizer_source": "base"}, "only one of them"),
        (
            {"tokenizer_source": "m/other"},
            "must be `base` or a model that is merged, but got m/other",
        ),
        ({"chat_template": "auto"}, "chat_template: must be a jinja template"),
        ({"chat_template": "chatml"}, "chat_template: must be a jinja template"),
        ({"dtype": "int8"}, "dtype: must be one of float64, float32, bfloat16, float16, but got 'int8'"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        changed(**keys)
    assert "\n" not in str(caught.value)


def sliced(*ranges: tuple[list[int], list[int]], **keys: Any) -> MergekitRecipe:
    slices = [
        {"sources": [{"model": "m/a", "layer_range": a}, {"model": "m/b", "layer_range": b}], **keys} for a, b in ranges
    ]
    return read_mergekit({**SLERP, "slices": slices})


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        (
            [([0, 2], [1, 3])],
            r"slices\.0: .* the same layers, from layer 0 on, but got \[0, 2\], \[1, 3\]",
        ),
        ([([0, 2], [0, 2]), ([1, 3], [1, 3])], r"slices\.1: all sources must take the same layers, from layer 2 on"),
        ([([0, 1], [0, 1]), ([2, 3], [2, 3])], r"slices\.1: .* from layer 1 on"),
        ([([0, 0], [0, 0])], r"slices\.0: "),
    ],
)
def test_other_stacks_than_the_models_own_are_refused(ranges: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sliced(*ranges)


@pytest.mark.parametrize("layers", [2, 4])
def test_slices_must_cover_the_whole_model(layers: int) -> None:
    with pytest.raises(ConfigError, match=f"must cover all {layers} layers of the model, but end at layer 3"):
        read_mergekit(SLERP).resolve(llama_names(layers))


def test_slices_refuse_what_models_would_add() -> None:
    with pytest.raises(ConfigError, match="residual_weight: not supported"):
        sliced(([0, 3], [0, 3]), residual_weight=0.5)
    with pytest.raises(ConfigError, match=r"slices\.0: the base model must be among the sources, but m/c is not"):
        sliced(([0, 3], [0, 3]), base_model="m/c")


def test_a_slice_may_have_its_own_base() -> None:
    recipe = sliced(([0, 3], [0, 3]), base_model="m/b")
    tensor = recipe.resolve(llama_names(3))["lm_head.weight"]
    assert (tensor.base, tensor.experts) == ("b", ("a",))
    assert recipe.base == "a"  # the top's, which gives config.json


def test_several_stacks_of_layers_are_refused() -> None:
    names = [*llama_names(1), "visual.blocks.0.norm1.weight"]
    with pytest.raises(ConfigError, match=r"only models of one stack of layers .* model\.layers, visual\.blocks"):
        changed().resolve(names)


def test_a_coefficient_that_is_missing_is_named_with_model_and_tensor() -> None:
    recipe = changed(models=[{"model": "m/a", "parameters": {"weight": {"filter": "mlp", "value": 1}}}])
    with pytest.raises(ConfigError, match=r"'weight' for every tensor, but a has none for model\.embed_tokens\.weight"):
        recipe.resolve(llama_names(1))

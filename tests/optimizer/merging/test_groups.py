import pytest

from optimizer.merging.groups import groups

NAMES = [
    "model.layers.10.mlp.up_proj.weight",
    "model.layers.1.self_attn.q_proj.weight",
    "model.layers.1.input_layernorm.weight",
    "lm_head.weight",
    "model.embed_tokens.weight",
    "model.norm.weight",
    "model.layers.1.mlp.up_proj.weight",
]


@pytest.mark.parametrize(
    ("granularity", "expected"),
    [
        ("model", ["model"]),
        ("layer", ["embeddings", "layer 1", "layer 10", "final norm", "head"]),
        (
            "module",
            ["embeddings", "layer 1 norm", "layer 1 mlp", "layer 1 attention", "layer 10 mlp", "final norm", "head"],
        ),
    ],
)
def test_groups_come_in_depth_order(granularity: str, expected: list[str]) -> None:
    assert list(groups(NAMES, granularity)) == expected


@pytest.mark.parametrize("granularity", ["model", "layer", "module", "tensor"])
def test_every_tensor_is_in_one_group_whatever_the_order(granularity: str) -> None:
    found = groups(NAMES, granularity)
    assert sorted(name for names in found.values() for name in names) == sorted(NAMES)
    assert groups(NAMES[::-1], granularity) == found


def test_layer_1_is_not_layer_10() -> None:
    assert groups(NAMES, "layer")["layer 10"] == ["model.layers.10.mlp.up_proj.weight"]

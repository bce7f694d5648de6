"""Coefficients as an array, by tensor and as the parameters of a study."""

import numpy as np
import pytest

from optimizer.merging.space import Space

SPACE = Space.grouped(("math", "code"), {"embeddings": ["embed"], "layer 0": ["q", "k"], "head": ["head"]})


def test_space_maps_arrays_to_parameters_and_back() -> None:
    coefficients = np.arange(6, dtype=float).reshape(SPACE.shape)
    parameters = SPACE.to_parameters(coefficients)
    assert parameters["math/layer 0"] == 1.0 and parameters["code/head"] == 5.0
    assert np.array_equal(SPACE.from_parameters(parameters), coefficients)


def test_every_tensor_has_the_column_of_its_group() -> None:
    coefficients = np.arange(6, dtype=float).reshape(SPACE.shape)
    assert SPACE.by_tensor(coefficients) == {"embed": [0, 3], "q": [1, 4], "k": [1, 4], "head": [2, 5]}


def test_experts_not_named_get_zero() -> None:
    assert SPACE.constant({"code": 0.5}).tolist() == [[0, 0, 0], [0.5, 0.5, 0.5]]


NAMES = ["model.embed_tokens.weight", *(f"model.layers.{i}.mlp.up_proj.weight" for i in range(5)), "lm_head.weight"]


def test_anchors_are_joined_by_straight_lines() -> None:
    space = Space.named(["math"], NAMES, "anchors", anchors=3)
    assert space.groups == ("anchor 0", "anchor 1", "anchor 2")
    found = space.by_tensor(np.array([[0.0, 1.0, 3.0]]))
    assert [found[name][0] for name in NAMES] == [0.0, 0.0, 0.5, 1.0, 2.0, 3.0, 3.0]


def test_one_layer_and_none_have_anchors_too() -> None:
    for names in (NAMES[:2], NAMES[:1]):
        found = Space.named(["math"], names, "anchors", anchors=2).by_tensor(np.array([[0.25, 0.75]]))
        assert set(found) == set(names)
        assert all(0.25 <= value <= 0.75 for (value,) in found.values())


def test_gathering_is_the_chain_rule() -> None:
    rng = np.random.default_rng(0)
    space = Space.named(["math", "code"], NAMES, "anchors", anchors=3)
    point, step = rng.normal(size=(2, *space.shape))
    slopes = {name: rng.normal(size=2) for name in NAMES}

    def value(coefficients: np.ndarray) -> float:
        return sum(float(slopes[name] @ row) for name, row in space.by_tensor(coefficients).items())

    assert value(point + step) - value(point) == pytest.approx(float((space.gathered(slopes) * step).sum()))


SHAPES = dict.fromkeys(NAMES, (10, 4)) | {"model.norm.weight": (4,), "model.layers.0.mlp.up_proj.weight": (2, 4)}


def test_matrices_are_cut_into_blocks_and_vectors_are_not() -> None:
    space = Space.blocked(["math", "code"], SHAPES, 3)
    assert dict(zip(space.tensors, space.blocks, strict=True)) == dict.fromkeys(NAMES, 3) | {
        "model.norm.weight": 1,
        "model.layers.0.mlp.up_proj.weight": 2,
    }
    assert space.groups[:5] == (
        *(f"model.embed_tokens.weight {i}" for i in range(3)),
        *(f"model.layers.0.mlp.up_proj.weight {i}" for i in range(2)),
    )
    point = np.arange(float(np.prod(space.shape))).reshape(space.shape)
    found = space.by_tensor(point)
    second = len(space.groups)
    assert found["model.embed_tokens.weight"] == [[i, second + i] for i in range(3)]
    assert found["model.norm.weight"] == point[:, space.groups.index("model.norm.weight")].tolist()
    assert np.array_equal(space.gathered({name: np.array(one) for name, one in found.items()}), point)


def test_a_tensor_and_anchors_lie_within_blocks() -> None:
    fine = Space.blocked(["math"], SHAPES, 4)
    for granularity in ("tensor", "layer", "anchors"):
        coarse = Space.named(["math"], list(SHAPES), granularity)
        point = np.random.default_rng(0).normal(size=coarse.shape)
        spread = fine.by_tensor(point @ coarse.within(fine))
        for name, value in coarse.by_tensor(point).items():
            blocks = spread[name] if isinstance(spread[name][0], list) else [spread[name]]
            assert blocks == [value] * len(blocks)


@pytest.mark.parametrize("granularity", ["model", "anchors", "layer", "module", "tensor"])
def test_a_coarse_space_within_a_finer_one_gives_the_same_coefficients(granularity: str) -> None:
    coarse = Space.named(["math"], NAMES, granularity)
    fine = Space.named(["math"], NAMES, "tensor")
    point = np.random.default_rng(0).normal(size=coarse.shape)
    assert fine.by_tensor(point @ coarse.within(fine)) == coarse.by_tensor(point)

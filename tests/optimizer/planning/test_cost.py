"""Operations, seconds and bytes of a search, on values worked out by hand."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.planning.hardware import DEVICES, Device
from optimizer.config import MergeConfig
from optimizer.planning.cost import Cost
from optimizer.planning.memory import Held, Scoring
from optimizer.planning.rates import Line, Rates, layer_operations, of_device, probe
from optimizer.planning.shape import Shape, llama_tensors, shape_by_size
from optimizer.planning.work import Load, Study, mean_load

#: Two layers of width 8 and an mlp of 16, one head of 8, 32 tokens.
SHAPE = Shape(dict(llama_tensors(8, 16, 2, (1, 1, 8), 32)), torch.float32, 1, 1, 8, "by hand")
#: 4 matrices of 8 x 8 and 3 of 8 x 16; with two norms of 8 each layer, a norm, embeddings and head.
LAYER = 4 * 64 + 3 * 128
PARAMETERS = 2 * (LAYER + 16) + 8 + 2 * 32 * 8
LOAD = Load(3, 10, 12)
#: 1 s a piece, and a byte or an operation a second.
UNIT = Rates(Line(1, 1), Line(1, 1), Line(1, 1), Line(1, 1), 100, 200, 1)

sizes = st.integers(1, 60)


def scoring(shape: Shape = SHAPE, sources: int = 3, checkpointing: bool = False, **merge: object) -> Scoring:
    given_merge = MergeConfig.model_validate(merge)
    one = shape.parameters * 4.0
    return Scoring(shape, given_merge, [one] * sources, 4, [LOAD], [LOAD], checkpointing, False)


def test_sizes() -> None:
    assert (SHAPE.parameters, SHAPE.layers, SHAPE.layer, SHAPE.largest) == (PARAMETERS, 2, LAYER, 256)
    assert (SHAPE.hidden, SHAPE.inner, SHAPE.vocabulary, SHAPE.attention, SHAPE.tied) == (8, 16, 32, 8, False)


@pytest.mark.parametrize("parameters", [0.5e9, 7e9, 8e9, 70e9])
def test_a_guess_has_the_weights_that_it_was_made_from(parameters: float) -> None:
    shape = shape_by_size(parameters, "its name")
    assert shape.parameters == pytest.approx(parameters, rel=0.02)


def test_a_guess_of_8b_is_like_llama_3() -> None:
    shape = shape_by_size(8.03e9, "its name")
    assert (shape.layers, shape.heads, shape.key_value) == (32, 32, 8)
    assert shape.hidden == pytest.approx(4096, rel=0.01)
    assert shape.inner == pytest.approx(14336, rel=0.02)


def test_operations() -> None:
    # 30 tokens x 2 x 640 weights, and for each token 4 x width 10 x 8 of attention.
    assert layer_operations(LAYER, 8, LOAD) == 30 * (2 * 640 + 4 * 10 * 8)
    cost = Cost(SHAPE, UNIT, 4, 0)
    assert cost.operations(LOAD) == 2 * layer_operations(LAYER, 8, LOAD) + 2 * 32 * 8 * 12


def test_seconds_of_a_merge() -> None:
    tensors = 2 * 9 + 3
    cost = Cost(SHAPE, UNIT, 4, sources=1000)
    assert cost.merge == tensors + 1000 + 4 * PARAMETERS
    assert cost.slopes == cost.merge  # sources and gradients, as sources and result
    from_host = Cost(SHAPE, UNIT, 4, sources=1000, link=10)
    assert from_host.merge == cost.merge + 100
    # A tied head has a gradient of its own: the embeddings' share is read twice.
    tied = Shape(
        {name: one for name, one in SHAPE.tensors.items() if name != "lm_head.weight"}, torch.float32, 1, 1, 8, ""
    )
    moved = 1000 + 4 * tied.parameters
    assert Cost(tied, UNIT, 4, 1000).slopes == pytest.approx(tensors - 1 + moved * (1 + 256 / tied.parameters))


def test_seconds_of_passes() -> None:
    cost = Cost(SHAPE, UNIT, 4, sources=0)
    operations, logits = cost.operations(LOAD), 12 * 32 * 4
    assert cost.forward(LOAD) == 100 + 2 + operations + 5 * logits
    gradients = 2 * 32 * 8 * 4  # of embeddings and head
    assert cost.backward(LOAD) == 200 + 2 + 2 * operations + 5 * logits + gradients
    again = Cost(SHAPE, UNIT, 4, sources=0, checkpointing=True)
    assert again.backward(LOAD) == cost.backward(LOAD) + 2 + operations
    assert cost.step(LOAD) == cost.merge + cost.forward(LOAD) + cost.backward(LOAD) + cost.slopes
    assert cost.trial([LOAD, LOAD]) == cost.merge + 2 * cost.forward(LOAD)
    study = Study("x", 3, 5, [LOAD], [LOAD], LOAD, 0)
    assert cost.study(study) == 3 * cost.trial([LOAD, LOAD]) + 5 * cost.step(LOAD)


def test_memory() -> None:
    tensors = 4 * PARAMETERS
    # Per token and layer: 8 x 8 of the stream, 2 x 8 of keys and values, 4 x 16 of the mlp.
    kept = 30 * 4 * 2 * (64 + 16 + 64)
    held = scoring().held()
    assert held == Held(3 * tensors, 0, tensors, 256 * 4, kept, 3 * 12 * 32 * 4, 0)
    assert held.device == 4 * tensors + 1024 + kept + 4608
    assert scoring(checkpointing=True).held().activations == 30 * 4 * (2 * 8 + 64 + 16 + 64)


def test_memory_by_residency() -> None:
    tensors, brought = 4 * PARAMETERS, 3 * 4 * 256
    assert scoring(residency="host").held()[::6] == (pytest.approx(brought), 3 * tensors)
    assert scoring(residency="disk").held()[::6] == (pytest.approx(brought), 0)


@pytest.mark.parametrize(("density", "bits"), [(0.5, 2 * PARAMETERS / 8), (1.0, 0)])
def test_memory_of_masks(density: float, bits: float) -> None:
    assert scoring(method="dare_ties", parameters={"density": density}).held().masks == bits
    assert scoring(method="ties", parameters={"density": density}).held().masks == 0  # bands of magnitude take none


@given(rows=sizes, width=sizes, more=sizes)
def test_more_tokens_are_never_cheaper(rows: int, width: int, more: int) -> None:
    for rates in (UNIT, of_device(DEVICES["H100"])):
        assert rates is not None
        cost = Cost(SHAPE, rates, 4, 1000)
        less = Load(rows, width, rows)
        for other in (Load(rows + more, width, rows), Load(rows, width + more, rows), Load(rows, width, rows + more)):
            assert cost.step(other) >= cost.step(less)
            assert cost.forward(other) >= cost.forward(less)


def test_what_is_issued_ahead_costs_the_longer_of_both() -> None:
    alone = Cost(SHAPE, UNIT, 4, 1000)
    ahead = Cost(SHAPE, replace(UNIT, ahead=True), 4, 1000)
    # 8 tensors of 1 s each to issue; 1000 bytes of sources and the model's at 1 byte a second.
    issued, worked = float(len(SHAPE.tensors)), 1000.0 + 4 * SHAPE.parameters
    assert (alone.merge, ahead.merge) == (issued + worked, max(issued, worked))
    parts = [ahead._merge, ahead._forward(LOAD), ahead._backward(LOAD), ahead._slopes]
    assert ahead.step(LOAD) == max(sum(part.issued for part in parts), sum(part.worked for part in parts))
    assert ahead.step(LOAD) < alone.step(LOAD)


def test_what_is_done_element_by_element_moves_so_many_bytes() -> None:
    quick = Cost(SHAPE, replace(UNIT, passing=1.0), 4, 1000)
    numbers = 42 * SHAPE.hidden + 11 * (SHAPE.attention + SHAPE.key_value * SHAPE.head)
    numbers += 4 * SHAPE.attention + 5 * SHAPE.inner
    more = quick.forward(LOAD) - Cost(SHAPE, UNIT, 4, 1000).forward(LOAD)
    assert more == pytest.approx(LOAD.tokens * SHAPE.layers * numbers * 4)


@given(sources=st.integers(2, 9), residency=st.sampled_from(["device", "host", "disk"]))
def test_more_sources_never_take_less(sources: int, residency: str) -> None:
    fewer, more = (scoring(sources=count, residency=residency).held() for count in (sources, sources + 1))
    assert more.device > fewer.device
    assert more.host >= fewer.host


@given(st.lists(st.tuples(sizes, sizes, sizes), min_size=1, max_size=5))
def test_a_mean_batch_has_the_tokens_and_answers_of_all(loads: list[tuple[int, int, int]]) -> None:
    given_loads = [Load(*one) for one in loads]
    mean = mean_load(given_loads)
    assert mean.tokens * len(loads) == pytest.approx(sum(load.tokens for load in given_loads))
    assert mean.answers * len(loads) == pytest.approx(sum(load.answers for load in given_loads))
    assert min(load.width for load in given_loads) <= mean.width * (1 + 1e-9)
    assert mean.width <= max(load.width for load in given_loads) * (1 + 1e-9)


def test_rates_of_a_data_sheet() -> None:
    rates = of_device(DEVICES["H100"])
    assert rates is not None
    assert max(rates.merge.rate, rates.slopes.rate, rates.fresh, rates.passing) < 3.35e12
    assert max(rates.forward.rate, rates.backward.rate) < 989e12
    assert of_device(Device("unknown", 1e9, None, None)) is None


@settings(deadline=None, max_examples=1)
@given(st.just(None))
def test_a_probe_finds_what_can_be(_: None) -> None:
    """No CPU moves more than 10 TB/s, or less than 1 MB/s."""
    rates = probe(SHAPE, MergeConfig(groups="block"), 2, torch.float32, LOAD)
    for line in (rates.merge, rates.slopes, rates.forward, rates.backward):
        assert 1e6 < line.rate < 1e13
        assert 0 <= line.each < 1
    assert 1e6 < rates.fresh < 1e13

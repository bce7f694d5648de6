"""Batches hold every example once, and cost least by all ways to cut them."""

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from datagen.batches import _BATCH, IGNORED, Encoded, pack, pad


def example(length: int) -> Encoded:
    return [1] * (length - 1), [2]


def test_where_answers_are_told_from() -> None:
    batch = pad([([5, 6], [7, 8]), ([9], [3])], [0, 1])
    assert batch.inputs.tolist() == [[5, 6, 7, 8], [9, 3, 0, 0]]
    assert batch.labels.tolist() == [[IGNORED, IGNORED, 7, 8], [IGNORED, 3, IGNORED, IGNORED]]
    assert batch.places.tolist() == [1, 2, 4]  # 6 and 7 tell 7 and 8, 9 tells 3
    assert batch.wanted.tolist() == [7, 8, 3]
    assert batch.tokens.tolist() == [2, 1]


@given(st.lists(st.integers(2, 60), max_size=40), st.integers(1, 200))
def test_every_example_is_in_one_batch(lengths: list[int], tokens: int) -> None:
    examples = [example(length) for length in lengths]
    batches = pack(examples, tokens)
    assert sorted(number for batch in batches for number in batch.index) == list(range(len(examples)))
    for batch in batches:
        assert batch.inputs.numel() <= tokens or len(batch.index) == 1
        for row, number in zip(batch.inputs, batch.index, strict=True):
            prompt, answer = examples[number]
            assert row[: lengths[number]].tolist() == prompt + answer
            assert not row[lengths[number] :].any()
        assert torch.equal(batch.tokens, torch.ones(len(batch.index), dtype=torch.long))


@given(st.lists(st.integers(2, 400), min_size=1, max_size=8), st.integers(400, 1200))
def test_no_other_cut_costs_less(lengths: list[int], tokens: int) -> None:
    def cost(widths: list[list[int]]) -> int:
        return sum(max(some) * len(some) + _BATCH for some in widths)

    by_length = sorted(lengths)
    cuts = []
    for chosen in itertools.product([False, True], repeat=len(by_length) - 1):
        parts = [[by_length[0]]]
        for length, cut in zip(by_length[1:], chosen, strict=True):
            if cut:
                parts.append([length])
            else:
                parts[-1].append(length)
        if all(max(some) * len(some) <= tokens for some in parts):
            cuts.append(parts)
    ours = [[lengths[number] for number in batch.index] for batch in pack([example(n) for n in lengths], tokens)]
    assert cost(ours) == min(map(cost, cuts))

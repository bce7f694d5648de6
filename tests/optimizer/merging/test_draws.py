"""Random numbers against an independent SplitMix64, and against what uniform numbers are."""

import hashlib

import pytest
import torch

from optimizer.merging.draws import uniform

CPU = torch.device("cpu")
MASK = (1 << 64) - 1


def splitmix64(seed: int, count: int) -> list[int]:
    # The generator in whole numbers, as published.
    drawn = []
    for i in range(1, count + 1):
        state = (seed + i * 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        drawn.append(state ^ (state >> 31))
    return drawn


def test_the_reference_gives_published_numbers() -> None:
    assert splitmix64(0, 3) == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@pytest.mark.parametrize("purpose", ["", "0/model.layers.0.mlp.up_proj.weight/math", "ü"])
def test_numbers_are_those_of_the_reference(purpose: str) -> None:
    key = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    assert uniform(purpose, 1000, CPU).tolist() == [(each >> 40) / (1 << 24) for each in splitmix64(key, 1000)]


def test_known_numbers() -> None:
    # Merges of earlier versions must come out again.
    drawn = uniform("0/layer.weight/expert", 4, CPU) * 2**24
    assert drawn.tolist() == [1172524, 5640488, 13252310, 7662095]


@pytest.mark.parametrize("count", [0, 1, 7, 1 << 16, (1 << 16) + 1, 200_000])
def test_fewer_are_the_beginning_of_more(count: int) -> None:
    assert torch.equal(uniform("a", count, CPU), uniform("a", 200_003, CPU)[:count])


def test_numbers_are_uniform() -> None:
    drawn = uniform("a", 1 << 20, CPU).double()
    assert drawn.min() >= 0 and drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 5 * (1 / 12 / len(drawn)) ** 0.5
    assert abs(drawn.var() - 1 / 12) < 5 * (1 / 180 / len(drawn)) ** 0.5
    counts = torch.histc(drawn.float(), 64, 0, 1)
    assert ((counts - len(drawn) / 64).square() / (len(drawn) / 64)).sum() < 63 + 5 * (2 * 63) ** 0.5


@pytest.mark.parametrize("lag", [1, 2, 64, 1 << 16])
def test_numbers_do_not_follow_from_one_another(lag: int) -> None:
    drawn = uniform("a", 1 << 20, CPU).double() - 0.5
    assert abs((drawn[lag:] * drawn[:-lag]).mean() * 12) < 5 / len(drawn) ** 0.5


def test_purposes_have_numbers_of_their_own() -> None:
    one, two = uniform("0/a/b", 1 << 16, CPU), uniform("1/a/b", 1 << 16, CPU)
    assert (one == two).sum() < 5
    assert abs(((one - 0.5) * (two - 0.5)).mean() * 12) < 5 / len(one) ** 0.5

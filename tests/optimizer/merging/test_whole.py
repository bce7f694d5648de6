"""A whole model is merged as its tensors are one by one, recorded or not."""

from collections.abc import Callable

import pytest
import torch

from optimizer.merging.bank import Bank
from optimizer.merging.methods import METHODS
from optimizer.merging.whole import WholeMerge
from tests.optimizer.merging.cases import models, same_bits

POINTS = [(0.6, 0.3, 0.45), (0.1, -0.2, 0.9), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0), (0.6, 0.3, 0.45)]

#: Methods for which nothing of the experts is a merge as well.
SUMS = ("task_arithmetic", "ties", "dare_ties")


@pytest.fixture
def records() -> list[Callable[[], None]]:
    return []


@pytest.mark.parametrize("name", ["task_arithmetic", "ties", "dare_ties", "linear", "multislerp", "model_stock"])
def test_what_is_recorded_merges_like_the_bank(name: str, records: list[Callable[[], None]]) -> None:
    def record(launches: Callable[[], None]) -> Callable[[], None]:
        records.append(launches)
        return launches

    base, experts = models(3)
    method = METHODS[name]
    bank = Bank(method, None if method.base == "unused" else base, experts)
    names = [one for one, shape in base.shapes.items() if one != "steps" and shape]
    live = {one: torch.empty(base.shapes[one]) for one in names}
    whole = WholeMerge(bank, live, record)
    for point in [point for point in POINTS if any(point) or name in SUMS]:
        whole.merge(dict.fromkeys(names, point))
        for one in names:
            assert same_bits(live[one], bank.merge(one, point, torch.empty(base.shapes[one])))
    assert len(records) == 1


def test_other_settings_are_recorded_anew(records: list[Callable[[], None]]) -> None:
    def record(launches: Callable[[], None]) -> Callable[[], None]:
        records.append(launches)
        return launches

    base, experts = models(3)
    bank = Bank(METHODS["ties"], base, experts)
    live = {"embed": torch.empty(base.shapes["embed"])}
    whole = WholeMerge(bank, live, record)
    for density, recorded in ((0.2, 0), (0.2, 1), (0.2, 1), (0.7, 1), (0.7, 2), (0.2, 2)):
        bank.tune({"density": density})
        whole.merge({"embed": POINTS[0]})
        assert len(records) == recorded
        assert same_bits(live["embed"], bank.merge("embed", POINTS[0], torch.empty(base.shapes["embed"])))


@pytest.mark.parametrize("residency", ["host", "disk"])
def test_sources_that_are_brought_each_time_are_not_recorded(residency: str) -> None:
    base, experts = models(3)
    bank = Bank(METHODS["ties"], base, experts, residency=residency)
    live = {"embed": torch.empty(base.shapes["embed"])}
    whole = WholeMerge(bank, live, lambda _: pytest.fail("recorded"))
    for point in POINTS[:2]:
        whole.merge({"embed": point})
        assert same_bits(live["embed"], bank.merge("embed", point, torch.empty(base.shapes["embed"])))


def test_blocks_are_merged_one_by_one() -> None:
    base, experts = models(3)
    bank = Bank(METHODS["task_arithmetic"], base, experts)
    live = {"embed": torch.empty(base.shapes["embed"])}
    whole = WholeMerge(bank, live, lambda _: pytest.fail("recorded"))
    for _ in range(2):
        whole.merge({"embed": POINTS[:2]})
        assert same_bits(live["embed"], bank.merge("embed", POINTS[:2], torch.empty(base.shapes["embed"])))

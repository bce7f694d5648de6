import numpy as np
import pytest

from optimizer.report.result import CoefficientTable
from optimizer.report.runaways import runaways


def found(values: list[list[float]], *ends: float) -> list[tuple[str, str, float]]:
    experts, groups = [f"e{i}" for i in range(len(values))], [f"g{i}" for i in range(len(values[0]))]
    table = CoefficientTable(experts=experts, groups=groups, values=values)
    return [(one.expert, one.group, one.value) for one in runaways(table, *ends)]


def test_rule_by_hand() -> None:
    # Of 1, 1, 2, 2, 3, 11, 12 the median is 2; of 1, 1, 0, 0, 1, 9, 10 from it the median is 1: the limit is 8.
    assert found([[1, -1, 2, -2, 3, 11, -12]]) == [("e0", "g6", -12), ("e0", "g5", 11)]
    assert found([[1, -1, 2, -2, 3, 8, -9]]) == [("e0", "g6", -9)]


def test_what_is_small_has_not_run() -> None:
    # Far beyond the others, none of which varies, but no larger than 3.
    assert found([[0.5, 0.5, 0.5], [0.5, 0.5, 3.0]]) == []
    assert found([[0.5, 0.5, 0.5], [0.5, 0.5, 3.1]]) == [("e1", "g2", 3.1)]


def test_ends_of_the_range() -> None:
    just_below = float(np.nextafter(1.5, 0))  # as far as Optuna lets a sampler go
    assert found([[0.3, just_below, -0.5, 1.49]], -0.5, 1.5) == [("e0", "g1", just_below), ("e0", "g2", -0.5)]
    assert found([[0.0, 1.0]]) == []


def test_the_ten_largest_are_told() -> None:
    values = [[0.1] * 40, [0.1] * 28 + [float(i) for i in range(4, 16)]]
    assert [value for *_, value in found(values)] == [float(i) for i in range(15, 5, -1)]


@pytest.mark.parametrize("value", [0.0, 1.0, 50.0])
def test_a_merge_of_equal_coefficients_has_none(value: float) -> None:
    assert found([[value] * 5] * 2) == []

"""Intervals of paired differences, held to the binomial and normal distributions; what does not vary has no width."""

import itertools
import warnings

import numpy as np
import pytest
from scipy.stats import binom, norm

from optimizer.paired import Outcomes, paired_differences, score, significance
from optimizer.report.result import Difference


def differences(winner: Outcomes, other: Outcomes, seed: int = 0, **weights: float) -> dict[str, Difference]:
    return paired_differences(winner, {"other": other}, dict.fromkeys(winner, 1.0) | weights, seed)["other"]


def test_score_by_hand() -> None:
    rates = {"alignment": 0.9, "over_refusal": 0.2, "accuracy/a": 0.5}
    weights = {"alignment": 3, "over_refusal": 2, "accuracy/a": 1}
    assert score(rates, weights) == pytest.approx((3 * 0.9 + 2 * 0.8 + 0.5) / 6)
    assert score(rates, weights, faults=["accuracy/a"]) == pytest.approx((3 * 0.9 + 2 * 0.2 + 0.5) / 6)


def test_the_score_counts_faults_against_a_model() -> None:
    one, two = {"mine": [True] * 4}, {"mine": [False] * 4}
    found = paired_differences(one, {"other": two}, {"mine": 1}, 0, faults=["mine"])["other"]
    assert (found["mine"].value, found["score"].value) == (1, -1)


def test_significance_by_hand() -> None:
    # Of 8 rows that tell them apart one alone gets 7: twice (1 + 8) / 2 ** 8. Rows that both get right say nothing.
    one = [True] * 7 + [False] + [True] * 50
    two = [False] * 7 + [True] + [True] * 50
    assert significance(one, two) == significance(two, one) == pytest.approx(2 * 9 / 256)
    assert significance(one, one) == 1
    assert significance([True] * 4, [False] * 4) == pytest.approx(2 / 16)


def test_interval_by_the_binomial() -> None:
    # The winner alone is right on 20 of 200 rows: a resample's difference is a binomial count of them.
    winner, other = [True] * 200, [False] * 20 + [True] * 180
    found = differences({"alignment": winner}, {"alignment": other})["alignment"]
    assert found.value == 0.1
    assert found.low == pytest.approx(binom.ppf(0.025, 200, 0.1) / 200, abs=1.01 / 200)
    assert found.high == pytest.approx(binom.ppf(0.975, 200, 0.1) / 200, abs=1.01 / 200)


def test_score_interval_by_the_normal() -> None:
    rng = np.random.default_rng(0)
    rows = {"alignment": 1000, "over_refusal": 600, "accuracy/a": 400}
    weights = {"alignment": 3.0, "over_refusal": 2.0, "accuracy/a": 1.0}
    one, two = ({name: (rng.random(count) < 0.6).tolist() for name, count in rows.items()} for _ in range(2))
    found = differences(one, two, **weights)["score"]
    signs = {"alignment": 1, "over_refusal": -1, "accuracy/a": 1}
    by_row = {name: np.array(one[name], float) - np.array(two[name], float) for name in rows}
    mean = sum(signs[name] * weights[name] / 6 * by_row[name].mean() for name in rows)
    error = sum((weights[name] / 6) ** 2 * by_row[name].var() / rows[name] for name in rows) ** 0.5
    assert found.value == pytest.approx(mean)
    assert found.low == pytest.approx(mean - norm.ppf(0.975) * error, abs=0.05 * error)
    assert found.high == pytest.approx(mean + norm.ppf(0.975) * error, abs=0.05 * error)


def test_what_both_get_wrong_is_no_noise() -> None:
    shared = ([True] * 7 + [False] * 3) * 20
    found = differences({"alignment": shared}, {"alignment": shared})
    assert found["alignment"] == found["score"] == Difference(value=0, low=0, high=0)


@pytest.mark.parametrize(("one", "two"), itertools.product([True, False], repeat=2))
def test_what_does_not_vary_has_no_width(one: bool, two: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = differences({"over_refusal": [one] * 5}, {"over_refusal": [two] * 5})
    wanted = float(one) - float(two)
    assert found["over_refusal"] == Difference(value=wanted, low=wanted, high=wanted)
    assert found["score"] == Difference(value=-wanted, low=-wanted, high=-wanted)


def test_one_row_is_enough() -> None:
    assert differences({"accuracy/a": [True]}, {"accuracy/a": [False]})["score"].low == 1


def test_what_cancels_is_no_difference() -> None:
    # 0.1 + 0.2 - 0.3 is not 0 in floating point.
    names = ("accuracy/a", "accuracy/b", "accuracy/c")
    winner = dict(zip(names, ([True], [True], [False]), strict=True))
    other = dict(zip(names, ([False], [False], [True]), strict=True))
    found = differences(winner, other, **dict(zip(names, (0.1, 0.2, 0.3), strict=True)))["score"]
    assert found == Difference(value=0, low=0, high=0)


def test_other_models_change_nothing_and_the_seed_little() -> None:
    rng = np.random.default_rng(1)
    models = [{"alignment": (rng.random(300) < rate).tolist()} for rate in (0.8, 0.7, 0.2)]
    weights = {"alignment": 1.0}
    both = paired_differences(models[0], {"one": models[1], "two": models[2]}, weights, seed=3)
    assert both == paired_differences(models[0], {"one": models[1], "two": models[2]}, weights, seed=3)
    assert both["two"] == paired_differences(models[0], {"two": models[2]}, weights, seed=3)["two"]
    again = paired_differences(models[0], {"two": models[2]}, weights, seed=4)["two"]["score"]
    assert again.low == pytest.approx(both["two"]["score"].low, abs=0.005)
    assert paired_differences(models[0], {}, weights, seed=3) == {}

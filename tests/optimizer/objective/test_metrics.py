"""Metrics by hand and by what must hold for any outputs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datagen.errors import ConfigError
from optimizer.engines.outputs import Outputs
from optimizer.objective.metrics import METRICS

#: Summed cross-entropy, tokens, whether it is exact.
Option = tuple[float, int, bool]

options = st.tuples(st.floats(0, 50), st.integers(1, 9), st.booleans())


def outputs(*examples: list[Option]) -> Outputs:
    flat = [option for example in examples for option in example]
    losses, tokens, exact = (torch.tensor(values) for values in zip(*flat, strict=True))
    return Outputs(losses.double(), tokens, exact).by_example([len(example) for example in examples])


def measured(name: str, *examples: list[Option]) -> tuple[list[float], list[bool]]:
    losses, right = METRICS[name].measure(outputs(*examples))
    return losses.tolist(), right.tolist()


@pytest.mark.parametrize(
    ("name", "example", "loss", "right"),
    [
        ("loss", [(6.0, 3, True)], 2.0, True),
        ("kl", [(6.0, 3, False)], 2.0, False),
        ("exact", [(6.0, 3, True)], 0.0, True),
        ("exact", [(0.1, 3, False)], 1.0, False),
        ("margin", [(2.0, 2, False), (9.0, 3, True)], math.log1p(math.exp(-2)), True),
        ("margin", [(4.0, 2, True), (2.0, 2, True)], math.log1p(math.exp(1)), False),
        ("margin", [(4.0, 2, True), (4.0, 2, True)], math.log(2), False),
        ("choice", [(2.0, 2, False), (4.0, 2, True)], math.log(1 + math.exp(-1)), True),
        ("choice", [(4.0, 2, True), (2.0, 2, True), (6.0, 2, True)], math.log(1 + math.exp(1) + math.exp(-1)), False),
        ("choice", [(4.0, 2, True), (2.0, 1, True)], math.log(2), False),
    ],
)
def test_by_hand(name: str, example: list[Option], loss: float, right: bool) -> None:
    losses, rights = measured(name, example)
    assert losses == [pytest.approx(loss)]
    assert rights == [right]


def test_sums_in_place_of_means() -> None:
    found = outputs([(2.0, 2, False), (9.0, 3, True)])
    losses, _ = METRICS["margin"].measure(found.summed())
    assert losses.item() == pytest.approx(math.log1p(math.exp(-7)))


def test_examples_of_several_sizes() -> None:
    found = outputs(
        [(1.0, 1, True)], [(2.0, 2, False), (3.0, 3, True), (4.0, 4, True)], [(5.0, 5, True), (6.0, 6, False)]
    )
    assert found.losses.tolist() == [[1, 0, 0], [2, 3, 4], [5, 6, 0]]
    assert found.tokens.tolist() == [[1, 0, 0], [2, 3, 4], [5, 6, 0]]
    assert found.exact.tolist() == [[True, False, False], [False, True, True], [True, False, False]]


@given(st.lists(st.lists(options, min_size=2, max_size=5), min_size=1, max_size=6))
def test_an_example_is_measured_as_if_it_were_alone(examples: list[list[Option]]) -> None:
    for name in METRICS:
        some = [example[:2] for example in examples] if name == "margin" else examples
        losses, rights = measured(name, *some)
        alone = [measured(name, example) for example in some]
        assert losses == pytest.approx([loss for (loss,), _ in alone])
        assert rights == [right for _, (right,) in alone]


@given(st.lists(options, min_size=3, max_size=6))
def test_the_order_of_wrong_options_is_nothing(example: list[Option]) -> None:
    (loss,), (right,) = measured("choice", example)
    mixed = [example[0], *reversed(example[1:])]
    assert measured("choice", mixed) == ([pytest.approx(loss)], [right])


@given(options, options)
def test_a_choice_of_two_is_a_margin(answer: Option, other: Option) -> None:
    (choice,), right = measured("choice", [answer, other])
    assert measured("margin", [answer, other]) == ([pytest.approx(choice, rel=1e-9, abs=1e-12)], right)
    assert choice >= 0
    assert right == [choice < math.log(2)] or choice == pytest.approx(math.log(2))


@given(st.lists(options, min_size=2, max_size=2), st.floats(0.01, 5))
def test_a_better_answer_costs_less(example: list[Option], less: float) -> None:
    (total, tokens, exact), *rest = example
    for name in ("loss", "margin", "choice"):
        (before,), _ = measured(name, [(total + less, tokens, exact), *rest])
        (after,), _ = measured(name, [(total, tokens, exact), *rest])
        assert after < before or after == pytest.approx(before)


def test_missing_options_have_no_gradient() -> None:
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64, requires_grad=True)
    tokens = torch.tensor([1, 1, 1, 1, 1])
    found = Outputs(losses, tokens, tokens > 0).by_example([2, 3])
    METRICS["choice"].measure(found)[0].sum().backward()
    assert losses.grad is not None
    shares = [torch.softmax(-part, 0) for part in (losses[:2], losses[2:])]
    by_hand = torch.cat([torch.tensor([1.0, 0.0]) - shares[0], torch.tensor([1.0, 0.0, 0.0]) - shares[1]])
    torch.testing.assert_close(losses.grad, by_hand.detach())


def test_an_unknown_name_is_answered_with_a_guess() -> None:
    with pytest.raises(ConfigError, match=r"there is no metric 'choise'; did you mean 'choice'\? available: loss, kl"):
        METRICS["choise"]

"""What is kept of a distribution, and the divergence from it, against their definitions in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optimizer.engines.teachers import Top, divergence

VOCABULARY = 12


def random_logits(seed: int, tokens: int = 5, spread: float = 3.0) -> torch.Tensor:
    return spread * torch.randn(tokens, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def true_divergence(theirs: torch.Tensor, ours: torch.Tensor) -> np.ndarray:
    p, q = (np.exp(one.double().numpy()) for one in (theirs, ours))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    return (p * np.log(p / q)).sum(1)


def bucketed_divergence(theirs: torch.Tensor, ours: torch.Tensor, kept: int) -> np.ndarray:
    """All but the likeliest tokens of the first are one event."""
    p, q = (np.exp(one.double().numpy()) for one in (theirs, ours))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    found = []
    for a, b in zip(p, q, strict=True):
        top = np.argsort(-a)[:kept]
        a, b = np.append(a[top], 1 - a[top].sum()), np.append(b[top], 1 - b[top].sum())
        found.append((a * np.log(a / b)).sum())
    return np.array(found)


@pytest.mark.parametrize("kept", [1, 3, VOCABULARY - 1])
def test_what_is_not_kept_is_one_event(kept: int) -> None:
    theirs, ours = random_logits(0), random_logits(1)
    found = divergence([Top.of(theirs, kept)], ours)
    assert found.numpy() == pytest.approx(bucketed_divergence(theirs, ours, kept), rel=1e-5)


@pytest.mark.parametrize("most", [VOCABULARY, VOCABULARY + 5])
def test_it_is_exact_where_all_tokens_are_kept(most: int) -> None:
    theirs, ours = random_logits(0), random_logits(1)
    top = Top.of(theirs, most)
    assert top.logs.shape == top.tokens.shape == (5, VOCABULARY)
    assert divergence([top], ours).numpy() == pytest.approx(true_divergence(theirs, ours), rel=1e-5)


@given(st.integers(0, 10_000), st.integers(1, VOCABULARY), st.floats(0.1, 30))
def test_it_is_never_above_the_true_one(seed: int, kept: int, spread: float) -> None:
    theirs, ours = random_logits(seed, spread=spread), random_logits(seed + 1, spread=spread)
    found = divergence([Top.of(theirs, kept)], ours).double().numpy()
    assert np.isfinite(found).all()
    assert (found >= -1e-5).all()
    assert (found <= true_divergence(theirs, ours) * (1 + 1e-5) + 1e-5).all()


def test_several_sequences_are_one_after_another() -> None:
    theirs, ours = random_logits(0), random_logits(1)
    whole = Top.of(theirs, 4)
    parts = whole.split([2, 3])
    assert [len(part.tokens) for part in parts] == [2, 3]
    assert torch.equal(divergence(parts, ours), divergence([whole], ours))


def test_its_gradient_is_the_finite_difference() -> None:
    top = Top.of(random_logits(0).double(), 4)
    ours = random_logits(1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: divergence([top], logits), [ours])

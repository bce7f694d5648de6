import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.cleaning.grams import characters, grams, plain, shingles

TEXTS = st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=6)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("  How,  DO I\tgo ? ", "how do i go"),
        ("“Why?”", "why"),
        ("ｆｕｌｌ Straße", "full strasse"),
        ("what is 3.5 * 4, or 3 + 4?", "what is 3.5 * 4 or 3 + 4"),
        ("it's 5!", "it's 5!"),
        ("?!.", "!"),
        (" ... ", ""),
    ],
)
def test_plain(text: str, folded: str) -> None:
    assert plain(text) == folded


@settings(max_examples=50)
@given(st.text(max_size=30))
def test_plain_is_idempotent(text: str) -> None:
    assert plain(plain(text)) == plain(text)


@given(TEXTS, st.integers(1, 5))
def test_grams_are_those_of_each_text(texts: list[str], n: int) -> None:
    found = grams(characters(texts), n)
    windows = [[text[i : i + n] for i in range(len(text) - n + 1)] for text in texts]
    assert found.lengths.tolist() == [len(some) for some in windows]
    hashed: dict[str, int] = {}
    for i, some in enumerate(windows):
        for window, value in zip(some, found.row(i).tolist(), strict=True):
            assert hashed.setdefault(window, value) == value
    assert len(set(hashed.values())) == len(hashed)


@given(TEXTS, st.integers(1, 5), st.booleans())
def test_shingles_are_sorted_sets(texts: list[str], n: int, words: bool) -> None:
    found = shingles(texts, n, words=words)
    for i, text in enumerate(texts):
        tokens = text.split() if words else list(text)
        windows = {tuple(tokens[k : k + n]) for k in range(max(len(tokens) - n + 1, 1))}
        assert len(found.row(i)) == len(windows)
        assert (np.diff(found.row(i).astype(np.int64)) > 0).all()

"""Near-duplicates against Jaccard similarities taken over Python sets of all pairs."""

import random

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from datagen.cleaning.grams import plain, shingles
from datagen.cleaning.near import near_clusters, near_duplicates, signatures, similarity
from datagen.cleaning_config import NearConfig

CONFIG = NearConfig()


def exact(one: str, other: str, n: int = 5) -> float:
    sets = [{text[i : i + n] for i in range(max(len(text) - n + 1, 1))} for text in (plain(one), plain(other))]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_similarity_by_hand() -> None:
    config = NearConfig(characters=2, words=2, long_from=5)
    # ab bc cd against ab bc ce: 2 of 4.
    assert similarity("abcd", "ABCE?", config) == 0.5
    # Long: a-b b-c c-d d-e against a-b b-c c-d d-f: 3 of 5.
    assert similarity("a b c d e", "a b c d f", config) == 0.6
    assert similarity("", "", config) == 1


def test_the_later_of_two_near_ones_goes() -> None:
    texts = [
        "How do I repair the old wooden bridge behind the house?",
        "Which colours suit a small kitchen?",
        "How do I repair the old wooden bridge behind the houses?",
        "how do i repair the old wooden bridge behind the house",
    ]
    assert exact(texts[0], texts[2]) > 0.8 > exact(texts[0], texts[1])
    assert near_duplicates(texts, CONFIG, 0) == {2: 0, 3: 0}
    assert near_duplicates(texts[::-1], CONFIG, 0) == {1: 0, 3: 0}
    assert near_clusters(texts, CONFIG, 0) == [0, 1, 0, 0]


def chain() -> list[str]:
    """Each like the next, the first and the last unlike."""
    letters = "abcdefghijklmnopqrstuvwxyzäöüßéèêëàâçîïôûùñõãåæøœ0123456789"
    return [letters[i * 3 : i * 3 + 36] for i in range(7)]


def test_clusters_are_transitive_and_nothing_is_dropped_for_a_dropped_one() -> None:
    texts = chain()
    config = NearConfig(similarity=0.8, cluster=0.8)
    assert exact(texts[0], texts[1]) >= 0.8 > exact(texts[0], texts[2])
    assert near_clusters(texts, config, 0) == [0] * 7
    assert near_duplicates(texts, config, 0) == {1: 0, 3: 2, 5: 4}


def variants(count: int, seed: int = 0) -> list[str]:
    """Questions of one pattern with none to all of its words replaced."""
    generator = random.Random(seed)
    words = ["".join(generator.choices("abcdefghijklmnop", k=generator.randint(3, 8))) for _ in range(40)]
    texts: list[str] = []
    for _ in range(count):
        base = generator.choice(texts).split() if texts and generator.random() < 0.6 else generator.choices(words, k=9)
        if generator.random() < 0.8:
            base[generator.randrange(9)] = generator.choice(words)
        texts.append(" ".join(base))
    return texts


@pytest.mark.parametrize("words", [False, True])
def test_recall_against_all_pairs(words: bool) -> None:
    texts = variants(400)
    config = NearConfig(similarity=0.6, cluster=0.6, words=1, long_from=1 if words else 60)
    sets = [{*text.split()} if words else {text[i : i + 5] for i in range(len(text) - 4)} for text in texts]

    def near(i: int, j: int) -> bool:
        return len(sets[i] & sets[j]) >= 0.6 * len(sets[i] | sets[j])

    pairs = [(i, j) for j in range(len(texts)) for i in range(j) if near(i, j)]
    labels = near_clusters(texts, config, 0)
    assert len(pairs) > 200
    assert sum(labels[i] == labels[j] for i, j in pairs) >= 0.98 * len(pairs)
    dropped = near_duplicates(texts, config, 0)
    assert all(near(i, j) for i, j in dropped.items())
    assert not {*dropped.values()} & {*dropped}


def test_no_pair_falls_between_short_and_long() -> None:
    config = NearConfig(long_from=10)
    text = "the quick brown fox jumps over one very lazy"
    assert len(text.split()) == 9
    assert near_duplicates([text, text + " d"], config, 0) == {1: 0}


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(60)))
def test_clusters_do_not_depend_on_the_order(order: list[int]) -> None:
    texts = variants(60, seed=3)

    def groups(some: list[str]) -> set[frozenset[str]]:
        labels = near_clusters(some, CONFIG, 0)
        return {frozenset(t for t, other in zip(some, labels, strict=True) if other == label) for label in labels}

    assert groups([texts[i] for i in order]) == groups(texts)


def test_signatures_are_those_of_datasketch_and_estimate_the_similarity() -> None:
    texts = ["a question about the weather in spring", "a question about the weather in autumn"]
    sets = shingles(texts, 5, words=False)
    found = signatures(sets, 128, 7)
    other = MinHash(128, seed=7, hashfunc=int)
    other.update_batch(sets.row(1).tolist())
    assert (found[1] == other.hashvalues).all()
    # Standard deviation of the estimate: 0.044.
    assert np.mean(found[0] == found[1]) == pytest.approx(exact(*texts), abs=0.15)
    assert (found != signatures(sets, 128, 8)).any()


def test_nothing_and_one() -> None:
    assert near_clusters([], CONFIG, 0) == []
    assert near_duplicates([], CONFIG, 0) == {}
    assert near_clusters(["a"], CONFIG, 0) == [0]


def test_clusters_may_not_be_tighter_than_duplicates() -> None:
    with pytest.raises(ValidationError, match=r"cluster <= similarity must hold, but got 0.9 > 0.8"):
        NearConfig(cluster=0.9)

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen.data_config import DataConfig
from datagen.errors import DataError
from datagen.rows import Row
from datagen.splits import SPLITS, Labelled, Shares, balanced, deal, even_quotas, imbalance, split

SHARES = Shares(validation=0.2, test=0.2)


def rows(*counts: int, kind: str = "k", first: int = 0) -> list[Labelled]:
    """So many rows of each topic, each a cluster of its own."""
    return [
        (Row.of(f"{kind} {topic} {i}", "a", kind=kind, topic=f"t{topic}"), first + 1000 * topic + i)
        for topic, count in enumerate(counts)
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("available", "total", "quotas"),
    [
        ([9, 9, 9], 9, [3, 3, 3]),
        ([9, 9, 9], 10, [4, 3, 3]),
        ([1, 9, 9], 9, [1, 4, 4]),
        ([1, 2, 9], 20, [1, 2, 9]),
        ([], 3, []),
    ],
)
def test_even_quotas(available: list[int], total: int, quotas: list[int]) -> None:
    assert even_quotas(available, total) == quotas


@given(st.lists(st.integers(0, 30), min_size=1), st.integers(0, 200))
def test_quotas_are_spent_and_none_could_be_evener(available: list[int], total: int) -> None:
    quotas = even_quotas(available, total)
    assert sum(quotas) == min(total, sum(available))
    capped = [quota for quota, most in zip(quotas, available, strict=True) if quota < most]
    assert not capped or max(quotas) - min(capped) <= 1


def test_the_cap_is_spent_evenly_over_topics() -> None:
    counts: Counter[str] = Counter()
    some = rows(100, 60, 40, 30)
    kept = balanced(some, {"k": 110}, 0, counts)
    assert sorted(Counter(row.topic for row, _ in kept).values()) == [27, 27, 28, 28]
    assert imbalance(Counter(row.topic for row, _ in kept).values()) < 0.2
    assert counts == {"k/kept": 110, "k/over the cap": 120}


def test_rows_of_other_kinds_are_named() -> None:
    with pytest.raises(DataError, match="kind must be one of k, but some are 'other'"):
        balanced(rows(1, kind="other"), {"k": 1}, 0, Counter())


def test_imbalance_by_hand() -> None:
    assert imbalance([12, 8]) == pytest.approx(0.2)
    assert imbalance([]) == imbalance([0]) == 0


def test_a_rare_topic_holds_the_others_back_if_asked_to() -> None:
    counts: Counter[str] = Counter()
    kept = balanced(rows(100, 100, 10), {"k": 60}, 0, counts, within=0.2)
    # 13, 13 and 10 have the mean 12, of which 10 is 17 per cent off; with 14, 14 and 10 it would be 21.
    assert sorted(Counter(row.topic for row, _ in kept).values()) == [10, 13, 13]
    assert counts == {"k/kept": 36, "k/over the cap": 150, "k/out of balance": 24}


def test_single_rows_meet_the_shares_exactly_and_topics_too() -> None:
    dealt = deal(rows(50, 50) + rows(25, kind="other", first=9000), SHARES, 0)
    found = Counter((row.kind, row.topic, row.split) for row in dealt)
    for topic in ("t0", "t1"):
        assert [found["k", topic, name] for name in SPLITS] == [30, 10, 10]
    assert [found["other", "t0", name] for name in SPLITS] == [15, 5, 5]


def clustered(sizes: list[int]) -> list[Labelled]:
    """Clusters over two kinds."""
    return [
        (Row.of(f"{label} {i}", "a", kind="ab"[i % 2], topic=f"t{i % 3}"), label)
        for label, size in enumerate(sizes)
        for i in range(size)
    ]


@given(st.lists(st.integers(1, 12), max_size=30), st.integers(0, 3))
def test_no_cluster_straddles(sizes: list[int], seed: int) -> None:
    some = clustered(sizes)
    dealt = deal(some, SHARES, seed)
    homes = {(label, row.split) for (_, label), row in zip(some, dealt, strict=True)}
    assert len(homes) == len(sizes)
    assert [row.model_copy(update={"split": ""}) for row in dealt] == [row for row, _ in some]


def test_shares_are_as_close_as_clusters_allow() -> None:
    # 100 rows of each kind: the cluster of 80 fits only where 120 are to go, and single rows fill up the rest.
    dealt = deal(clustered([80, 40] + [2] * 40), SHARES, 0)
    found = Counter((row.kind, row.split) for row in dealt)
    assert {kind: [found[kind, name] for name in SPLITS] for kind in "ab"} == {"a": [60, 20, 20], "b": [60, 20, 20]}
    # A cluster larger than any split goes to the largest.
    dealt = deal(clustered([150] + [2] * 25), SHARES, 0)
    assert Counter(row.split for row in dealt) == {"search": 150, "validation": 26, "test": 24} or Counter(
        row.split for row in dealt
    ) == {"search": 150, "validation": 24, "test": 26}


def test_the_same_rows_in_another_order_give_the_same_splits() -> None:
    some = rows(20, 30, 7)
    counts: Counter[str] = Counter()

    def done(order: list[Labelled], seed: int) -> list[Row]:
        return deal(balanced(order, {"k": 40}, seed, counts), SHARES, seed)

    shuffled = random.Random(5).sample(some, len(some))
    assert done(some, 0) == done(shuffled, 0) != done(some, 1)


def test_split_deals_each_kind_and_caps_it() -> None:
    questions = {"prompt": "p", "topics": ["t"], "ask": 10, "keep": 10}
    config = DataConfig.model_validate(
        {
            "generator": "g",
            "guard": {"model": "j"},
            "unsafe": questions,
            "domains": {"numbers": questions | {"keep": 6}},
            "validation": 0.25,
            "test": 0.25,
        }
    )
    rows = [Row.of(f"q{i}", "a", kind=kind) for kind in ("unsafe", "numbers") for i in range(8)]
    counts: Counter[str] = Counter()
    dealt = split(config, rows, 0, counts)
    found = Counter((row.kind, row.split) for row in dealt)
    assert found == {
        ("unsafe", "search"): 4,
        ("unsafe", "validation"): 2,
        ("unsafe", "test"): 2,
        ("numbers", "search"): 2,
        ("numbers", "validation"): 2,
        ("numbers", "test"): 2,
    }
    assert counts["numbers/over the cap"] == 2
    assert split(config, rows, 0, Counter()) == dealt != split(config, rows, 1, Counter())

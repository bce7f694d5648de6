"""Stage 6: an even share of every topic, dealt into search, validation and test.

Questions of one cluster of near-duplicates, of whatever kind, stay together: what is searched on never turns up again,
slightly changed, where the result is judged.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from datagen.data_config import DataConfig
from datagen.errors import DataError
from datagen.rows import Row

SPLITS = ("search", "validation", "test")

#: A row and the number of its cluster.
Labelled = tuple[Row, int]


class Shares(NamedTuple):
    """Of the questions that go to validation and test; the rest is searched on."""

    validation: float
    test: float

    def targets(self, count: int) -> dict[str, int]:
        """How many of so many rows go where."""
        test = round(count * self.test)
        validation = round(count * self.validation)
        return {"search": count - test - validation, "validation": validation, "test": test}


def split(
    config: DataConfig,
    rows: Sequence[Row],
    seed: int,
    counts: Counter[str],
    labels: Sequence[int] | None = None,
) -> list[Row]:
    """Caps each kind, evenly over its topics, and deals it over the splits.

    The order of the rows does not matter.

    Args:
        seed: of the choice.
        counts: told `<kind>/kept` and `<kind>/over the cap`.
        labels: cluster of every row, as `near_clusters` finds them; by default every row is its own.

    Returns:
        The rows kept with their splits, kind by kind in the config's order, each shuffled.
    """
    keep = {kind: wanted.keep for kind, wanted in config.kinds().items()}
    labelled = list(zip(rows, range(len(rows)) if labels is None else labels, strict=True))
    kept = balanced(labelled, keep, seed, counts, config.balance)
    return deal(kept, Shares(config.validation, config.test), seed)


def balanced(
    rows: Sequence[Labelled], keep: Mapping[str, int], seed: int, counts: Counter[str], within: float | None = None
) -> list[Labelled]:
    """Spends each kind's cap evenly over its topics.

    Topics with rows enough differ by one at most; one with fewer keeps all it has, and the others share the rest.

    Args:
        keep: kind -> most rows.
        counts: told `<kind>/kept`, `<kind>/over the cap` and, if asked for, `<kind>/out of balance`.
        within: how far a topic may be off the mean of its kind: 0.2 is twenty per cent.

    Raises:
        DataError: a row is of another kind.
    """
    by_kind: dict[str, dict[str, list[Labelled]]] = {kind: defaultdict(list) for kind in keep}
    if unknown := sorted({row.kind for row, _ in rows} - {*keep}):
        raise DataError(f"a row's kind must be one of {', '.join(keep)}, but some are {unknown[0]!r}; rename it")
    for one in sorted(rows, key=lambda labelled: labelled[0].id):
        by_kind[one[0].kind][one[0].topic].append(one)
    kept = []
    for kind, topics in by_kind.items():
        generator = random.Random(f"{seed}-{kind}")
        for some in topics.values():
            generator.shuffle(some)
        order = sorted(topics)
        generator.shuffle(order)
        quotas = even_quotas([len(topics[topic]) for topic in order], keep[kind])
        capped = sum(quotas)
        if within is not None:
            quotas = levelled(quotas, within)
            counts[f"{kind}/out of balance"] += capped - sum(quotas)
        chosen = [one for topic, quota in zip(order, quotas, strict=True) for one in topics[topic][:quota]]
        generator.shuffle(chosen)
        counts[f"{kind}/kept"] += len(chosen)
        counts[f"{kind}/over the cap"] += sum(map(len, topics.values())) - capped
        kept += chosen
    return kept


def even_quotas(available: Sequence[int], total: int) -> list[int]:
    """Shares a total so that the smallest shares are as large as can be; the first get what does not divide."""
    quotas = [0] * len(available)
    left = min(total, sum(available))
    for done, place in enumerate(sorted(range(len(available)), key=lambda i: (available[i], -i))):
        quotas[place] = min(available[place], left // (len(available) - done))
        left -= quotas[place]
    return quotas


def levelled(quotas: Sequence[int], within: float) -> list[int]:
    """Lowers the largest quotas until none is further off their mean than allowed."""
    level = max(quotas, default=0)
    found = list(quotas)
    while imbalance(found) > within:
        level -= 1
        found = [min(quota, level) for quota in quotas]
    return found


def imbalance(counts: Iterable[int]) -> float:
    """How far the number that is furthest from the mean is off it: 0.2 is twenty per cent."""
    found = list(counts)
    mean = sum(found) / max(len(found), 1)
    return max((abs(count - mean) / mean for count in found), default=0.0) if mean else 0.0


def deal(rows: Sequence[Labelled], shares: Shares, seed: int) -> list[Row]:
    """Gives every cluster to one split, so that each kind's shares come as close as the clusters allow.

    Large clusters go first, each to where it overruns the target sizes least; what is small evens them out. Among
    splits that are equal in this, the one that lacks most of the cluster's topics gets it.
    """
    clusters: dict[int, list[Row]] = defaultdict(list)
    for row, label in rows:
        clusters[label].append(row)
    order = [*clusters]
    random.Random(f"{seed}-deal").shuffle(order)
    order.sort(key=lambda label: -len(clusters[label]))
    sizes = {kind: shares.targets(count) for kind, count in Counter(row.kind for row, _ in rows).items()}
    left = Counter({(kind, name): size for kind, targets in sizes.items() for name, size in targets.items()})
    topics = Counter((row.kind, row.topic) for row, _ in rows)
    portions = {"search": 1 - shares.validation - shares.test, "validation": shares.validation, "test": shares.test}
    dealt: Counter[tuple[str, str, str]] = Counter()
    place = {}
    for label in order:
        kinds = Counter(row.kind for row in clusters[label])
        about = Counter((row.kind, row.topic) for row in clusters[label])

        def fits(name: str, kinds: Counter[str] = kinds, about: Counter[tuple[str, str]] = about) -> tuple[int, float]:
            over = sum(max(count - max(left[kind, name], 0), 0) for kind, count in kinds.items())
            lacking = sum(topics[key] * portions[name] - dealt[*key, name] for key in about)
            return -over, lacking

        name = place[label] = max(SPLITS, key=fits)
        left.subtract({(kind, name): count for kind, count in kinds.items()})
        dealt.update({(*key, name): count for key, count in about.items()})
    return [row.model_copy(update={"split": place[label]}) for row, label in rows]

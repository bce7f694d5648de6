"""Near-duplicates: MinHash signatures and locality-sensitive hashing propose pairs, exact similarity decides.

Broder, "On the resemblance and containment of documents" (1997); Leskovec, Rajaraman, Ullman, "Mining of Massive
Datasets", chapter 3. The signatures and the choice of bands are datasketch's. Its index is not used: a Python set per
band and text takes over a gigabyte for 200 000 texts, where sorting each band's hashes takes a few megabytes.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from datasketch import MinHash, MinHashLSH

from datagen.cleaning.grams import Hashes, Places, Ragged, mixed, plain, shingles
from datagen.cleaning_config import NearConfig

#: Bands are chosen for pairs this much less similar than wanted: those at the threshold are found in 98 of 100 cases.
_SLACK = 0.1

#: Pairs whose estimated similarity is this far below the threshold are not looked at again: over three deviations.
_DOUBT = 0.15

#: How often, per band, texts of one bucket are compared. It binds only where hundreds of texts follow one pattern: then
#: each is compared with the latest of its bucket, as otherwise such data would take quadratic time.
_COMPARISONS = 2_000_000


class _Index:
    """Texts under their bands: finds the near ones among those that were added.

    Args:
        texts: all that may be added or asked for, plain.
        members: which of them belong here.
    """

    def __init__(
        self, texts: Sequence[str], members: Places, *, words: bool, similarity: float, config: NearConfig, seed: int
    ) -> None:
        self._similarity = similarity
        self._place = np.full(len(texts), -1)
        self._place[members] = np.arange(len(members))
        n = config.words if words else config.characters
        self._sets = shingles([texts[i] for i in members], n, words=words)
        self._signatures = signatures(self._sets, config.permutations, seed)
        lsh = MinHashLSH(max(similarity - _SLACK, 0.1), config.permutations)
        self._shared = _shared_buckets(self._signatures, lsh.b, lsh.r)
        self._buckets: defaultdict[int, list[int]] = defaultdict(list)
        self._members = members
        self._recent = -(-_COMPARISONS // max(len(members), 1))

    def add(self, text: int) -> None:
        """Lets a text be found; it need not belong here."""
        place = int(self._place[text])
        for bucket in self._shared.get(place, ()):
            self._buckets[bucket].append(place)

    def likely(self, text: int) -> Places:
        """Those added before that a text may be near to, in order."""
        place = int(self._place[text])
        latest = (self._buckets[bucket][-self._recent :] for bucket in self._shared.get(place, ()))
        others = np.array(sorted(set().union(*latest)), np.int64)
        if len(others):
            estimates = (self._signatures[others] == self._signatures[place]).mean(axis=1)
            others = others[estimates >= self._similarity - _DOUBT]
        return self._members[others]

    def near(self, text: int, others: Places) -> Places:
        """Those of the others that a text is near to."""
        if not len(others):
            return others
        sets = [self._sets.row(place) for place in (int(self._place[text]), *self._place[others].tolist())]
        return others[_jaccards(sets[0], sets[1:]) >= self._similarity]


def near_duplicates(texts: Sequence[str], config: NearConfig, seed: int) -> dict[int, int]:
    """Which texts to drop: each -> the first of the kept ones before it that it is near to.

    What is kept is thus no near-duplicate of anything kept, and nothing is dropped for the sake of a dropped one.
    """
    indices = _indices([plain(text) for text in texts], config.similarity, config, seed)
    found = {}
    for text in range(len(texts)):
        near = np.concatenate([index.near(text, index.likely(text)) for index in indices])
        if len(near):
            found[text] = int(near.min())
        else:
            for index in indices:
                index.add(text)
    return found


def near_clusters(texts: Sequence[str], config: NearConfig, seed: int) -> list[int]:
    """The cluster of every text: the number of its first member. Near texts, and those near to them, are together."""
    indices = _indices([plain(text) for text in texts], config.cluster, config, seed)
    parents = list(range(len(texts)))
    for text in range(len(texts)):
        for index in indices:
            likely = index.likely(text)
            # Only what is not yet together need be looked at; in a large cluster that is next to nothing.
            root = _root(parents, text)
            apart = np.array([_root(parents, other) != root for other in likely.tolist()], np.bool_)
            for other in index.near(text, likely[apart]).tolist():
                _unite(parents, text, other)
            index.add(text)
    return [_root(parents, text) for text in range(len(texts))]


def similarity(one: str, other: str, config: NearConfig) -> float:
    """Of two texts, as the index measures it."""
    texts = [plain(one), plain(other)]
    words = min(len(text.split()) for text in texts) >= config.long_from
    sets = shingles(texts, config.words if words else config.characters, words=words)
    return float(_jaccards(sets.row(0), [sets.row(1)])[0])


def _jaccards(one: Hashes, others: Sequence[Hashes]) -> npt.NDArray[np.float64]:
    """Size of the intersection over that of the union, of a sorted set and others."""
    sizes = np.array([len(other) for other in others])
    values = np.concatenate(others)
    shared = one[np.minimum(np.searchsorted(one, values), len(one) - 1)] == values
    both = np.add.reduceat(shared, np.cumsum(sizes) - sizes, dtype=np.int64)
    found: npt.NDArray[np.float64] = both / (len(one) + sizes - both)
    return found


def signatures(sets: Ragged, permutations: int, seed: int) -> npt.NDArray[np.uint32]:
    """MinHash of every set: as many 32-bit values as permutations."""
    empty = MinHash(permutations, seed=seed % 2**32, hashfunc=int)
    found = np.empty((len(sets.starts) - 1, permutations), np.uint32)
    for i in range(len(found)):
        minhash = empty.copy()
        minhash.update_batch(sets.row(i).tolist())
        found[i] = minhash.hashvalues
    return found


def _indices(texts: Sequence[str], similarity: float, config: NearConfig, seed: int) -> list[_Index]:
    """One of characters for short texts, one of words for long ones.

    Near texts have about the same length, so those somewhat longer than short are in both: no pair falls between.
    """
    lengths = np.array([len(text.split()) for text in texts], np.int64)
    members = {False: lengths < config.long_from / similarity, True: lengths >= config.long_from}
    return [
        _Index(texts, np.flatnonzero(some), words=words, similarity=similarity, config=config, seed=seed)
        for words, some in members.items()
        if some.any()
    ]


def _shared_buckets(found: npt.NDArray[np.uint32], bands: int, rows: int) -> dict[int, tuple[int, ...]]:
    """Text -> the buckets in which it is not alone."""
    shared: defaultdict[int, list[int]] = defaultdict(list)
    offset = 0
    for band in range(bands):
        keys = mixed([found[:, column] for column in range(band * rows, (band + 1) * rows)])
        _, numbers, counts = np.unique(keys, return_inverse=True, return_counts=True)
        together = np.flatnonzero(counts[numbers] > 1)
        for text, number in zip(together.tolist(), numbers[together].tolist(), strict=True):
            shared[text].append(offset + number)
        offset += len(counts)
    return {text: tuple(numbers) for text, numbers in shared.items()}


def _root(parents: list[int], text: int) -> int:
    while parents[text] != text:
        parents[text] = parents[parents[text]]
        text = parents[text]
    return text


def _unite(parents: list[int], one: int, other: int) -> None:
    first, last = sorted((_root(parents, one), _root(parents, other)))
    parents[last] = first

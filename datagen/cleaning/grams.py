"""Texts as sets of hashed n-grams, many texts at once.

Hashes depend on the text alone, never on the process, so that what is found is the same everywhere.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.unsignedinteger[Any]]
Places = npt.NDArray[np.int64]

#: Punctuation at the edge of a word; operators and what stands between digits are kept, "3 * 4" is not "3 + 4".
_PUNCTUATION = re.compile(r"(?:(?<=\s)|^)[.,;:?\"'“”‘’…¿¡]+|[.,;:?\"'“”‘’…]+(?=\s|$)")

#: Texts that are hashed at once; bounds memory.
_CHUNK = 10_000


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths, one after another.

    Attributes:
        values: of all rows.
        starts: where each row begins, and where the last one ends: one more than there are rows.
    """

    values: Hashes
    starts: Places

    @property
    def lengths(self) -> Places:
        """Of every row."""
        return np.diff(self.starts)

    @property
    def owners(self) -> Places:
        """Row of every value."""
        return np.repeat(np.arange(len(self.starts) - 1), self.lengths)

    def row(self, i: int) -> Hashes:
        """Values of one row."""
        return self.values[self.starts[i] : self.starts[i + 1]]


class _WordHashes(dict[str, int]):
    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self[word] = value = int.from_bytes(digest, "little")
        return value


def plain(text: str) -> str:
    """Case, width, white space and the punctuation around words folded: texts that are equal so are duplicates."""
    return " ".join(_PUNCTUATION.sub(" ", unicodedata.normalize("NFKC", text).casefold()).split())


def word_hashes(texts: Iterable[str], least: int = 0) -> Ragged:
    """The words of plain texts, hashed.

    Args:
        least: shorter texts are filled up to so many words.
    """
    hashes = _WordHashes()
    values: list[npt.NDArray[np.uint64]] = []
    lengths = []
    for text in texts:
        words = text.split()
        words += [""] * (least - len(words))
        lengths.append(len(words))
        values.append(np.fromiter(map(hashes.__getitem__, words), np.uint64, len(words)))
    return Ragged(np.concatenate([np.empty(0, np.uint64), *values]), _starts(lengths))


def characters(texts: Sequence[str], least: int = 0) -> Ragged:
    """The characters of texts; shorter texts are filled up to `least` of them."""
    filled = [text.ljust(least, "\0") for text in texts]
    points = np.frombuffer("".join(filled).encode("utf-32-le", "surrogatepass"), np.uint32)
    return Ragged(points.astype(np.uint64), _starts([len(text) for text in filled]))


def grams(tokens: Ragged, n: int) -> Ragged:
    """Every n tokens in a row, hashed; a row with fewer has none."""
    lengths = np.maximum(tokens.lengths - n + 1, 0)
    count = max(len(tokens.values) - n + 1, 0)
    rolled = mixed([tokens.values[k : k + count] for k in range(n)])
    owners = tokens.owners
    return Ragged(rolled[owners[:count] == owners[n - 1 :]], _starts(lengths))


def mixed(columns: Sequence[Hashes]) -> npt.NDArray[np.uint64]:
    """One hash for every row of a table."""
    # A sum weighted by odd numbers, then the finaliser of SplitMix64: neighbouring inputs end far apart.
    total = np.zeros(len(columns[0]), np.uint64)
    factor = 1
    for column in columns:
        factor = factor * 0x9E3779B97F4A7C15 % 2**64
        total += column.astype(np.uint64) * np.uint64(factor)
    total = (total ^ (total >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    total = (total ^ (total >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return total ^ (total >> np.uint64(31))


def shingles(texts: Sequence[str], n: int, *, words: bool) -> Ragged:
    """The set of n-grams of every plain text, as sorted 32-bit hashes; a text shorter than n is one of its own."""
    values = []
    lengths = []
    for begin in range(0, len(texts), _CHUNK):
        chunk = texts[begin : begin + _CHUNK]
        found = grams(word_hashes(chunk, n) if words else characters(chunk, n), n)
        keyed = np.sort(found.owners.astype(np.uint64) << np.uint64(32) | found.values >> np.uint64(32))
        keyed = keyed[np.diff(keyed, prepend=~keyed[:1]) != 0]
        values.append(keyed.astype(np.uint32))
        lengths.append(np.bincount((keyed >> np.uint64(32)).astype(np.int64), minlength=len(chunk)))
    return Ragged(
        np.concatenate([np.empty(0, np.uint32), *values]), _starts(np.concatenate([np.empty(0, np.int64), *lengths]))
    )


def _starts(lengths: Sequence[int] | npt.NDArray[np.int64]) -> Places:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.asarray(lengths, np.int64))])

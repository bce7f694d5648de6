"""Decontamination: which questions share words with evaluation data.

Thirteen words in a row, as for GPT-3 (arXiv 2005.14165, appendix C). Most questions here are shorter than that, so a
whole short text counts where the other contains it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from datagen.cleaning.grams import Hashes, Places, Ragged, grams, plain, word_hashes
from datagen.cleaning_config import OverlapConfig

#: Evaluation texts that are looked at together; bounds memory.
_CHUNK = 20_000


def overlaps(texts: Sequence[str], tested: Mapping[str, Sequence[str]], config: OverlapConfig) -> list[str]:
    """For every text the first source that it overlaps with; empty if it overlaps with none.

    Args:
        tested: name of the source -> its texts.
    """
    names = [*tested]
    first = np.full(len(texts), len(names))
    ours = word_hashes(plain(text) for text in texts)
    theirs = [(plain(text), source) for source, name in enumerate(names) for text in tested[name]]
    for begin in range(0, len(theirs), _CHUNK):
        chunk = theirs[begin : begin + _CHUNK]
        words = word_hashes(text for text, _ in chunk)
        sources = np.array([source for _, source in chunk])
        for n in range(1, config.words + 1):
            _mark(first, ours, words, sources, n, config)
    return [*(names[source] if source < len(names) else "" for source in first.tolist())]


def _mark(first: Places, ours: Ragged, theirs: Ragged, sources: Places, n: int, config: OverlapConfig) -> None:
    """Lowers `first` for our texts that share n words with theirs."""
    our_whole, their_whole = ours.lengths == n, theirs.lengths == n
    if n < config.words and not our_whole.any() and not their_whole.any():
        return
    our_grams, their_grams = grams(ours, n), grams(theirs, n)
    our_texts, their_texts = our_grams.owners, their_grams.owners
    if n == config.words:
        _look_up(first, our_grams.values, our_texts, their_grams.values, sources[their_texts])
        return
    mine, peer = our_whole[our_texts], their_whole[their_texts]
    if n < config.contained_from:
        _look_up(first, our_grams.values[mine], our_texts[mine], their_grams.values[peer], sources[their_texts[peer]])
        return
    _look_up(first, our_grams.values[mine], our_texts[mine], their_grams.values, sources[their_texts])
    _look_up(first, our_grams.values, our_texts, their_grams.values[peer], sources[their_texts[peer]])


def _look_up(
    first: Places, asked: Hashes, owners: npt.NDArray[np.int64], known: Hashes, sources: npt.NDArray[np.int64]
) -> None:
    if not len(asked) or not len(known):
        return
    # Stable: of equal hashes the one of the earliest source comes first.
    order = np.argsort(known, kind="stable")
    known, sources = known[order], sources[order]
    at = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    hit = known[at] == asked
    np.minimum.at(first, owners[hit], sources[at[hit]])

"""Texts in which a model got stuck: a phrase again and again, one character, or little said in many words."""

import re
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from datagen.cleaning.grams import Ragged, word_hashes
from datagen.cleaning_config import DegenerateConfig

LOOP, RUN, COMPRESSIBLE = "loops", "repeats one character", "says the same again and again"

#: Texts that are looked at together; bounds memory.
_CHUNK = 10_000


def degenerate(texts: Sequence[str], config: DegenerateConfig) -> list[str]:
    """What is wrong with every text; empty if nothing is."""
    # Rules, ellipses and table borders are long runs that say nothing about the text.
    run = re.compile(rf"([^\s\-_=*.#~+|─])\1{{{config.run - 1},}}")
    found = []
    for begin in range(0, len(texts), _CHUNK):
        chunk = texts[begin : begin + _CHUNK]
        looped = loops(chunk, config)
        for text, loop in zip(chunk, looped.tolist(), strict=True):
            if run.search(text):
                found.append(RUN)
            elif loop:
                found.append(LOOP)
            else:
                found.append(COMPRESSIBLE if _compressible(text, config) else "")
    return found


def loops(texts: Sequence[str], config: DegenerateConfig) -> npt.NDArray[np.bool_]:
    """Which texts hold a phrase of up to `config.phrase` words `config.repeats` times in a row."""
    words = word_hashes(text.casefold() for text in texts)
    owners = words.owners
    looped = np.zeros(len(texts), np.bool_)
    for period in range(1, config.phrase + 1):
        # A word equal to the one a period before it continues a loop; the loop itself is one period longer.
        wanted = max(period * config.repeats, config.loop_words) - period
        looped[_long_runs(words, owners, period, wanted)] = True
    return looped


def _long_runs(words: Ragged, owners: npt.NDArray[np.int64], period: int, wanted: int) -> npt.NDArray[np.int64]:
    """Texts in which at least `wanted` words in a row equal the ones a period before them."""
    same = (words.values[period:] == words.values[:-period]) & (owners[period:] == owners[:-period])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    begins, ends = edges[::2], edges[1::2]
    # Runs do not cross texts: the first words of a text have none a period before them.
    found: npt.NDArray[np.int64] = owners[begins[ends - begins >= wanted] + period]
    return found


def _compressible(text: str, config: DegenerateConfig) -> bool:
    data = text.encode("utf-8", "surrogatepass")
    return len(data) >= config.compressed_from and len(zlib.compress(data)) < config.compressed * len(data)

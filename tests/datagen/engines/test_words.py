"""What a process said last is found among all that it said."""

import os
import tempfile

import pytest

from datagen.engines.words import last_words, tail

TRACEBACK = """loading
Traceback (most recent call last):
  File "/site/engine/errors.py", line 7, in _run
    raise MemoryError(size)
MemoryError: 12 GiB

"""


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("", ""),
        ("loading\nready\n", ""),
        (TRACEBACK, "MemoryError: 12 GiB"),
        (TRACEBACK + "closing\nFutureWarning: errors will be others\n", "MemoryError: 12 GiB"),
        (
            'Fatal Python error: Aborted\n\nCurrent thread:\n  File "error.py", line 1 in run\n',
            "Fatal Python error: Aborted",
        ),
        ("!!!! Segfault encountered !!!!\n", "!!!! Segfault encountered !!!!"),
        ("ValueError: " + "x" * 500, "ValueError: " + "x" * 288),
    ],
)
def test_last_words(said: str, words: str) -> None:
    assert last_words(said) == words


def test_a_tail_is_read_without_moving_where_others_write() -> None:
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(b"a" * (1 << 18) + b"first ")
        assert tail(file.fileno()) == "a" * ((1 << 18) - 6) + "first "
        file.write(b"last\xff")
        assert tail(file.fileno()).endswith("first last�")


def test_what_cannot_be_read_so_has_no_tail() -> None:
    ours, theirs = os.pipe()
    assert (tail(ours), tail(theirs)) == ("", "")
    os.close(ours)
    os.close(theirs)

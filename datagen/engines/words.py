"""The last words of a process, from the file that its standard error goes to."""

import os
import re

#: Bytes that are looked at, since a crash may list hundreds of modules after its cause.
_TAIL = 1 << 18

#: Characters that are repeated.
_MOST = 300

_TELLING = re.compile(r"error|exception|out of memory|segfault|terminate called|what\(\):", re.IGNORECASE)

#: Warnings, and places in traces.
_PASSING = re.compile(r'warning|^\s*File "', re.IGNORECASE)


def tail(file: int) -> str:
    """The end of an open file, which is read without moving where others write; empty if it cannot be read.

    Args:
        file: its descriptor.
    """
    try:
        size = os.fstat(file).st_size
        return os.pread(file, _TAIL, max(0, size - _TAIL)).decode(errors="replace")
    except OSError:
        return ""


def last_words(said: str) -> str:
    """The last line that tells of an error; empty if none does."""
    telling = [line.strip() for line in said.splitlines() if _TELLING.search(line) and not _PASSING.search(line)]
    return telling[-1][:_MOST] if telling else ""

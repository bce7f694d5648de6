"""The last words of a process, from the file that its standard error goes to."""

import os
import re

#: Bytes that are looked at, and characters that are repeated.
_TAIL, _MOST = 1 << 14, 300

_TELLING = re.compile(r"[Ee]rror|[Ee]xception|out of memory")


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
    """The last line that tells of an error, or else the last that is no warning; empty if there is none."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and "warning" not in line.lower()]
    telling = [line for line in lines if _TELLING.search(line)]
    return (telling or lines or [""])[-1][:_MOST]

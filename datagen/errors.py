"""The one exception root of Goodbunch.

GoodbunchError            anything a user can mend: printed as one line, exit code 2
├── ConfigError           a config that cannot be run
├── DataError             rows that cannot be read or made
├── BunchError            models that cannot be merged
└── EngineError           an engine that cannot be reached, or does not do what is asked
    └── EngineDiedError   one whose process ended before it answered
"""

#: Letters of a word, and of a message, that are shown at most.
_WORD, _MESSAGE = 400, 4000


class GoodbunchError(Exception):
    """A mistake its reader can mend; the message states the rule, the values and the remedy.

    It is one line, whatever it tells of: what a file from elsewhere says can neither drive a terminal nor flood it.
    """

    def __str__(self) -> str:
        return shown(super().__str__())


def shown(text: str) -> str:
    """A text on one line, as any terminal may have it: what cannot be printed is written out, what is long is cut."""
    words = (word if len(word) <= _WORD else f"{word[:_WORD]}..." for word in text.split())
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in " ".join(words))
    return line if len(line) <= _MESSAGE else f"{line[:_MESSAGE]}..."


class ConfigError(GoodbunchError):
    """A config file or override that breaks a rule."""


class DataError(GoodbunchError):
    """Rows that are missing, unreadable, or could not be generated."""


class BunchError(GoodbunchError):
    """Source models that are missing, damaged, or do not belong together."""


class EngineError(GoodbunchError):
    """An engine that cannot be started or reached, or that does not do what is asked of it."""


class EngineDiedError(EngineError):
    """The process of an engine ended before it answered; another may be started and asked again.

    Attributes:
        code: its exit code; minus the signal where one ended it, none where that is not known.
        words: the last of what it said.
    """

    def __init__(self, message: str, code: int | None = None, words: str = "") -> None:
        super().__init__(message)
        self.code, self.words = code, words

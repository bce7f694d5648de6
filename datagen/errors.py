"""The one exception root of Goodbunch.

GoodbunchError            anything a user can mend: printed as one line, exit code 2
├── ConfigError           a config that cannot be run
├── DataError             rows that cannot be read or made
├── BunchError            models that cannot be merged
└── EngineError           an engine that cannot be reached, or does not do what is asked
    └── EngineDiedError   one whose process ended before it answered
"""


class GoodbunchError(Exception):
    """A mistake its reader can mend; the message states the rule, the values and the remedy."""


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

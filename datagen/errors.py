"""The one exception root of Goodbunch.

GoodbunchError            anything a user can mend: printed as one line, exit code 2
├── ConfigError           a config that cannot be run
├── DataError             rows that cannot be read or made
├── BunchError            models that cannot be merged
└── EngineError           an engine that cannot be reached, or does not do what is asked
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

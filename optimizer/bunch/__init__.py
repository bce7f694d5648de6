"""The source models of one merge: opened lazily, checked together."""

from optimizer.bunch.opening import Bunch, open_bunch, open_sources
from optimizer.bunch.source import Source

__all__ = ["Bunch", "Source", "open_bunch", "open_sources"]

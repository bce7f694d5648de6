"""The source models of one merge: opened lazily, checked together."""

from optimizer.bunch.opening import Bunch, Source, open_bunch

__all__ = ["Bunch", "Source", "open_bunch"]

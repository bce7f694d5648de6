"""The `goodbunch` command. What a command needs is imported when it runs, so that a mistake is told in a second."""

from optimizer.cli import starting, searching, merging, judging  # noqa: F401, I001 - their order is that of the help
from optimizer.cli.app import app
from optimizer.cli.entry import main

__all__ = ["app", "main"]

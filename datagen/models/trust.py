"""What the user allows models of strangers, on the command line alone: a config can come from a stranger, too.

It is kept in the environment, where the processes that are started find it.
"""

import os

#: Set to 1 by `--allow-pickle`.
ALLOWED = "GOODBUNCH_ALLOW_PICKLE"

#: Set by `--trust-remote-code`, a model on each line.
TRUSTED = "GOODBUNCH_TRUST_REMOTE_CODE"


def may_unpickle() -> bool:
    """Whether pickled weights may be read, as tensors alone."""
    return os.environ.get(ALLOWED) == "1"


def trusted_models() -> list[str]:
    """Models whose own code may run: folders, and Hugging Face names, each with its revision if it has one."""
    return os.environ.get(TRUSTED, "").splitlines()

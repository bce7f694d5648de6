"""What tests share besides fixtures: paths, and the command as a user runs it."""

import io
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from datagen.progress import console
from optimizer.cli import main
from optimizer.config import Config

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"
CACHE = ROOT / ".cache"
DEMO_CONFIG = ROOT / "configs" / "demo.yaml"

#: Configs of runs; the study's is of another kind.
RUN_CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "study")


def command(*args: object) -> list[str]:
    """The command line that runs `goodbunch` in this environment."""
    return [str(Path(sys.executable).parent / "goodbunch"), *map(str, args)]


def goodbunch(*args: object, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Runs the command as a user does, in a process of its own."""
    return subprocess.run(command(*args), cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def goodbunch_here(*args: object) -> subprocess.CompletedProcess[str]:
    """Runs the command in this process, which has imported what takes a process of its own seconds."""
    argv = ["goodbunch", *map(str, args)]
    handlers = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGALRM)}
    quiet, code = console.quiet, 0
    with (
        mock.patch.dict(os.environ),
        mock.patch.object(sys, "argv", argv),
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as err,
    ):
        try:
            main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        finally:
            console.quiet = quiet
            for one, handler in handlers.items():
                signal.signal(one, handler)
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


def grouped(config: Config, groups: str) -> Config:
    """A config with coefficients of another granularity."""
    return config.model_copy(update={"merge": config.merge.model_copy(update={"groups": groups})})

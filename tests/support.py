"""What tests share besides fixtures: paths, and the command as a user runs it."""

import subprocess
import sys
from pathlib import Path

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


def grouped(config: Config, groups: str) -> Config:
    """A config with coefficients of another granularity."""
    return config.model_copy(update={"merge": config.merge.model_copy(update={"groups": groups})})

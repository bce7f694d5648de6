"""Kills the real commands at random moments, as often as is asked: `python -m tests.faults --kills 200 --seed 1`."""

import argparse
import tempfile
from pathlib import Path

from tests.faults.kills import SHARES, kill_all

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=[*SHARES], default=[*SHARES])
    parser.add_argument("--keep", type=Path, help="folder for all that is made; by default a temporary one")
    given = parser.parse_args()
    if given.keep:
        kill_all(given.keep, given.kills, given.seed, given.only)
    else:
        with tempfile.TemporaryDirectory() as folder:
            kill_all(Path(folder), given.kills, given.seed, given.only)

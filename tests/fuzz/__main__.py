"""`python -m tests.fuzz --cases 100000 --seed 1`: fuzzes all that is read, and says what broke."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.running import Outcome, run


def main() -> int:
    """Runs the cases; 1 if any failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="name of a target")
    asked = parser.parse_args()
    begun = time.monotonic()

    told: set[str] = set()

    def tell(case: int, outcome: Outcome) -> None:
        for failure in outcome.failures.keys() - told:
            print(f"FAILED {failure}\n    {outcome.failures[failure]}", flush=True)
        told.update(outcome.failures)
        print(f"{case} cases, {time.monotonic() - begun:.0f} s, {len(outcome.failures)} failures", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        outcome = run(Path(folder), asked.cases, asked.seed, asked.only, tell)
    for name, count in sorted(outcome.counts.items()):
        print(f"{count:8} {name}")
    for failure, data in outcome.failures.items():
        print(f"FAILED {failure}\n    {data}")
    print(f"{asked.cases} cases, seed {asked.seed}: {len(outcome.failures)} kinds of failure")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())

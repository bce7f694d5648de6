"""Runs the study: see `benchmarks.study.running`, which processes import by its name."""

import sys

from benchmarks.study.running import main

sys.exit(main())

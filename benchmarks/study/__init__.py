"""Both papers' comparisons, rebuilt on the zoo under one roof: `python -m benchmarks.study`."""

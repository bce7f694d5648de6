"""Synthetic safety and domain data, written with the very models that are to be merged."""

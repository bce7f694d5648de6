"""A merge as an ordinary Hugging Face folder, or as an adapter."""

from optimizer.export.companions import write_scores
from optimizer.export.merging import is_exported, write_merge

__all__ = ["is_exported", "write_merge", "write_scores"]

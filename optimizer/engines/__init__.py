"""Engines that hold a live model whose weights are merged in place."""

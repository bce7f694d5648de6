"""Engines that generate, and what runs inside their workers."""

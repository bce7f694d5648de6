"""Recipes: a merge written down in YAML, ours or mergekit's, and every tensor's coefficients read from it."""

from optimizer.recipes.recipe import Recipe, TensorRecipe

__all__ = ["Recipe", "TensorRecipe"]

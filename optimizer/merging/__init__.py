"""The merge algebra: from source tensors and coefficients to merged tensors."""

"""Which layers of which expert cost alignment, and what they give in expertise."""

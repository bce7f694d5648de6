"""The report's figures: for each a function that shapes the data, tested, and thin ones that draw and tabulate it."""

"""What a run found: a typed JSON file, a table, and one HTML page."""

"""Who does the work of a study: this process, or actors on a Ray cluster."""

"""`goodbunch init`: from the names of models to a config that runs."""

"""The search: an Optuna study whose trials are baselines first, then the points a descent reaches."""

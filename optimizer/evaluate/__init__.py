"""`goodbunch evaluate`: any model, recipe or run, judged by its answers, held against others and against gates."""

"""lm-eval's tasks by name, run over the engine that is up: which docs they take, what they ask, what they come to.

`task` says what a config may ask for and needs nothing; the other modules import lm_eval and are imported when a task
is opened.
"""

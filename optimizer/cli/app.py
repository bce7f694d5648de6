"""The application that commands join, and its exit codes."""

import typer

#: Exit codes: a gate that was not passed, bad input, and a run that was stopped.
NOT_PASSED, BAD_INPUT, STOPPED = 1, 2, 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Merges language models with coefficients searched on data that the models wrote themselves.",
)


class Stopped(Exception):  # noqa: N818 - not an error
    """Ctrl-C, with what became of the work."""

"""Options that several commands have."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datagen.errors import ConfigError
from datagen.models.trust import ALLOWED, TRUSTED

if TYPE_CHECKING:
    from datagen.cluster import Workers

ConfigPath = Annotated[Path, typer.Argument(help="YAML config, see configs/.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, stronger than the file: search.seed=3")]
Out = Annotated[str | None, typer.Option("--out", help="Run folder; overrides `run` in the config.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
ExecutorName = Annotated[str, typer.Option(help="Who does the work: here, or ray, for many GPUs.")]
WorkerCount = Annotated[int, typer.Option(help="With ray: how many; 0 for as many as fit.", min=0)]
ClusterAddress = Annotated[str, typer.Option(help="With ray: of a cluster that runs, such as auto.")]
WorkerGpus = Annotated[
    float | None, typer.Option(help="With ray: by default engine.tensor_parallel; may be a part of one.", min=0)
]


def _allow_pickle(said: bool) -> bool:
    if said:
        os.environ[ALLOWED] = "1"
    return said


AllowPickle = Annotated[
    bool,
    typer.Option("--allow-pickle", callback=_allow_pickle, help="Take pickled weights too, read as tensors alone."),
]


def _trust(said: list[str] | None) -> list[str] | None:
    if said:
        os.environ[TRUSTED] = "\n".join(said)
    return said


TrustRemoteCode = Annotated[
    list[str] | None,
    typer.Option(
        "--trust-remote-code",
        metavar="MODEL",
        callback=_trust,
        help="Run the code in this model's folder, which can do all that you can; again for more.",
    ),
]
RecipeName = Annotated[str, typer.Option("--recipe", help="natural, or engineered: experts are taught to comply.")]


def _hush(quiet: bool) -> None:
    if quiet:
        from datagen.progress import console

        console.quiet = True


Quiet = Annotated[
    bool, typer.Option("--quiet", callback=_hush, help="Print nothing but warnings and errors; files are written.")
]


def chosen_workers(executor: str, count: int, address: str, gpus: float | None) -> "Workers | None":
    """Workers of a cluster, if the command line asks for one."""
    if executor == "ray":
        from datagen.cluster import Workers

        return Workers(count, address, gpus)
    if executor != "here":
        raise ConfigError(f"--executor must be here or ray, but is {executor!r}; correct it")
    if count or address or gpus is not None:
        raise ConfigError("--workers, --address and --gpus-per-worker are of a cluster; add --executor ray")
    return None


def with_out(overrides: list[str] | None, out: str | None) -> list[str]:
    """Overrides, and that of the run folder."""
    return [*(overrides or []), *([f"run={out}"] if out else [])]

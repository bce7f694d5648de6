"""Commands that search, and plan a search."""

from typing import Annotated

import typer

from datagen.errors import ConfigError
from optimizer.cli.app import app
from optimizer.cli.options import (
    AllowPickle,
    ClusterAddress,
    ConfigPath,
    ExecutorName,
    Out,
    Overrides,
    Quiet,
    TrustRemoteCode,
    WorkerCount,
    WorkerGpus,
    chosen_workers,
    with_out,
)


@app.command()
def search(
    config: ConfigPath,
    overrides: Overrides = None,
    out: Out = None,
    executor: ExecutorName = "here",
    workers: WorkerCount = 0,
    address: ClusterAddress = "",
    gpus_per_worker: WorkerGpus = None,
    storage: Annotated[
        str, typer.Option(envvar="GOODBUNCH_STORAGE", help="URL of a database for the trials; else in the run folder.")
    ] = "",
    join: Annotated[bool, typer.Option("--join", help="Help a search that another began, on its --storage.")] = False,
    track: Annotated[
        list[str] | None, typer.Option(help="Tell trials to tensorboard, mlflow or wandb; may be given several times.")
    ] = None,
    allow_pickle: AllowPickle = False,
    trust_remote_code: TrustRemoteCode = None,
    quiet: Quiet = False,
) -> None:
    """Runs or resumes the search, exports the winner, and compares it on the test split.

    Example: goodbunch search configs/demo.yaml search.seed=3 --out runs/seed-3

    Example: goodbunch search configs/demo.yaml --executor ray --workers 8

    Example: goodbunch search configs/demo.yaml --track tensorboard

    Example: goodbunch search configs/demo.yaml --storage postgresql+psycopg://me@host/trials --join
    """
    from optimizer.loading import load_config

    if join and not storage:
        raise ConfigError("--join needs the database that all drivers share; add --storage URL")
    if join and track:
        raise ConfigError("--track is of whoever began the search, but this joins one; leave it out")
    wanted = chosen_workers(executor, workers, address, gpus_per_worker)
    loaded = load_config(config, with_out(overrides, out))
    from optimizer import run  # takes seconds to import, and mistakes are told in less

    if join:
        run.join(loaded, storage, wanted)
    else:
        run.show(loaded, run.search(loaded, workers=wanted, database=storage, trackers=track or ()))


@app.command()
def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    out: Out = None,
    gpu: Annotated[
        str | None, typer.Option(help="Plan for this device, h100 or 4xA100-80GB; else for this machine.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the search's plan as JSON, in bytes and seconds.")
    ] = False,
    allow_pickle: AllowPickle = False,
    trust_remote_code: TrustRemoteCode = None,
) -> None:
    """Tells memory, time and disk of data and search before anything is loaded or downloaded, and what to change.

    Example: goodbunch plan configs/papers/mergealign/medicine.yaml --gpu h200

    Example: goodbunch plan configs/demo.yaml merge.dtype=bfloat16 --json
    """
    from optimizer.loading import load_config
    from optimizer.planning.command import plan_run

    plan_run(load_config(config, with_out(overrides, out)), gpu, as_json)

"""Commands that bring models, configs and data: demo, zoo, init, datagen."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    RecipeName,
    Seed,
    TrustRemoteCode,
    WorkerCount,
    WorkerGpus,
    chosen_workers,
    with_out,
)

if TYPE_CHECKING:
    from datagen.cluster import Workers
    from optimizer.config import Config

DEMO_CONFIG = Path(__file__).parents[2] / "configs" / "demo.yaml"


@app.command()
def demo(
    out: Annotated[str, typer.Option("--out", help="Run folder.")] = "runs/demo",
    seed: Seed = 0,
    recipe: RecipeName = "natural",
    quiet: Quiet = False,
) -> None:
    """Shows everything on tiny models: zoo, data, search, merged model, report. Takes minutes on a CPU.

    Example: goodbunch demo --seed 1 --out runs/demo-1
    """
    from datagen.progress import console
    from optimizer import run
    from optimizer.loading import load_config

    config = load_config(DEMO_CONFIG, [f"run={out}", f"seed={seed}", f"search.seed={seed}"])
    begun = time.monotonic()
    seconds: dict[str, float] = {}
    console.print("1/3 the zoo: training eight tiny models, once")
    zoo(Path(out) / "zoo", seed, recipe)
    seconds["zoo"] = time.monotonic() - begun
    console.print("2/3 the data: questions, answers and verdicts from these models, through vLLM")
    _datagen(config)
    seconds["datagen"] = time.monotonic() - begun - seconds["zoo"]
    console.print("3/3 the search: baselines, then a descent on the merge coefficients")
    run.show(config, run.search(config, seconds))
    console.print(f"All in {time.monotonic() - begun:.0f} s. Open {Path(out) / 'report.html'} in a browser.")


@app.command()
def zoo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the models.")],
    seed: Seed = 0,
    recipe: RecipeName = "natural",
    newcomer: Annotated[
        bool, typer.Option("--newcomer", help="Train a fourth expert too, workshop, for `goodbunch init --like`.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Trains the tiny bunch into Hugging Face folders; does nothing if it is there already.

    Example: goodbunch zoo --out runs/demo/zoo --seed 1
    """
    from datagen.zoo.build import build_zoo
    from datagen.zoo.recipes import find_recipe

    build_zoo(out, find_recipe(recipe), seed)
    if newcomer:
        from datagen.zoo.newcomer import add_newcomer

        add_newcomer(out, seed)


@app.command()
def init(
    config: Annotated[Path, typer.Argument(help="YAML file to write.")],
    base: Annotated[str, typer.Option(help="Model that all experts were tuned from.")] = "",
    expert: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=MODEL", help="A folder, a Hugging Face name, MODEL+ADAPTER; again."),
    ] = None,
    aligned: Annotated[str, typer.Option(help="Name of the expert whose refusals are to be kept.")] = "",
    topics: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=TOPIC,...", help="Of an expert's domain, or a list of them; by default its name."),
    ] = None,
    generator: Annotated[str, typer.Option(help="Uncensored model that writes unsafe questions.")] = "",
    guard: Annotated[str, typer.Option(help="Model that judges answers.")] = "",
    judge: Annotated[str, typer.Option(help="Another that gives a second opinion.")] = "",
    gpu: Annotated[str, typer.Option(help="Where it will run, H200 or 4xA100-80GB; by default here.")] = "",
    like: Annotated[Path | None, typer.Option(help="Config to begin from; experts are added to its own.")] = None,
    run: Annotated[str, typer.Option(help="Run folder; by default runs/ and the config's name.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace the file that is there.")] = False,
) -> None:
    """Writes a config for your models, once they are known to fit; asks for what no option says.

    Example: goodbunch init my.yaml --base org/base --expert aligned=org/chat --expert law=org/law

    Example: goodbunch init workshop.yaml --like configs/demo.yaml --expert workshop=runs/demo/zoo/workshop
    """
    from optimizer.starting.command import start
    from optimizer.starting.wishes import Wishes, parse_named, parse_topics

    wishes = Wishes(
        base=base,
        experts=parse_named("--expert", expert or []),
        aligned=aligned,
        topics={name: parse_topics(told) for name, told in parse_named("--topics", topics or []).items()},
        generator=generator,
        guard=guard,
        judge=judge,
        gpu=gpu,
    )
    start(config, wishes, run=run, like=like, force=force)


@app.command()
def datagen(
    config: ConfigPath,
    overrides: Overrides = None,
    out: Out = None,
    imports: Annotated[
        list[str] | None,
        typer.Option("--import", metavar="[KIND=]FILE", help="JSONL of rows to join the data; again for more files."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print rows, tokens, memory and time; run nothing.")
    ] = False,
    gpu: Annotated[str | None, typer.Option(help="With --dry-run: plan for this device, H200 or 4xA100-80GB.")] = None,
    executor: ExecutorName = "here",
    workers: WorkerCount = 0,
    address: ClusterAddress = "",
    gpus_per_worker: WorkerGpus = None,
    allow_pickle: AllowPickle = False,
    trust_remote_code: TrustRemoteCode = None,
    quiet: Quiet = False,
) -> None:
    """Writes the data sets a search needs, with the models of the bunch; continues where it stopped.

    Example: goodbunch datagen configs/demo.yaml data.unsafe.ask=1000 --import more.jsonl --import unsafe=mine.jsonl

    Example: goodbunch datagen configs/papers/one-bad-model/llama3-openbiollm.yaml --dry-run --gpu H200
    """
    from optimizer.loading import load_config

    if gpu is not None and not dry_run:
        raise ConfigError(
            "--gpu must come with --dry-run, but comes alone; a run takes the device at hand, leave it out"
        )
    wanted = chosen_workers(executor, workers, address, gpus_per_worker)
    loaded = _with_imports(load_config(config, with_out(overrides, out)), imports or [])
    if dry_run:
        from optimizer.planning.command import plan_data

        plan_data(loaded, gpu)
    else:
        _datagen(loaded, wanted)


def _datagen(config: "Config", workers: "Workers | None" = None) -> None:
    from datagen.logs import logged
    from datagen.pipeline import generate
    from optimizer.bunch import open_bunch

    with logged(config.run_folder):
        open_bunch(config.bunch)  # what cannot be merged is told before an engine starts
        generate(config.bunch, config.data, config.engine, config.data_folder, config.seed, workers=workers)


def _with_imports(config: "Config", told: list[str]) -> "Config":
    """A config that also imports files, told as `FILE` or `KIND=FILE`, which are read here for mistakes in them."""
    from datagen.data_config import ImportConfig
    from datagen.importing import import_file

    kinds = config.data.kinds()
    imports = list(config.data.imports)
    for one in told:
        kind, _, file = one.partition("=")
        if file and kind not in kinds and not Path(one).exists() and Path(file).exists():
            raise ConfigError(
                f"--import {one}: a kind must be one of {', '.join(kinds)}, but is {kind!r}; correct it, or name the "
                f"file alone"
            )
        # A path may have an = of its own.
        imports.append(ImportConfig(file=file, kind=kind) if file and kind in kinds else ImportConfig(file=one))
        import_file(Path(imports[-1].file), imports[-1].kind, kinds)
    return config.model_copy(update={"data": config.data.model_copy(update={"imports": imports})})

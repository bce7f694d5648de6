"""The `goodbunch` command. What a command needs is imported when it runs, so that a mistake is told in a second."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datagen.errors import ConfigError, GoodbunchError, shown

if TYPE_CHECKING:
    from datagen.cluster import Workers
    from optimizer.config import Config
    from optimizer.recipes import Recipe

#: Exit codes: a gate that was not passed, bad input, and a run that was stopped.
NOT_PASSED, BAD_INPUT, STOPPED = 1, 2, 130

_GOES_ON = "goodbunch: stopped; what was finished is kept, the same command goes on from there"

DEMO_CONFIG = Path(__file__).parent.parent / "configs" / "demo.yaml"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Merges language models with coefficients searched on data that the models wrote themselves.",
)

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
        from datagen.pickles import ALLOWED

        os.environ[ALLOWED] = "1"  # which the processes that are started see too
    return said


AllowPickle = Annotated[
    bool,
    typer.Option("--allow-pickle", callback=_allow_pickle, help="Take pickled weights too, read as tensors alone."),
]
RecipeName = Annotated[str, typer.Option("--recipe", help="natural, or engineered: experts are taught to comply.")]


def _hush(quiet: bool) -> None:
    if quiet:
        from datagen.progress import console

        console.quiet = True


Quiet = Annotated[
    bool, typer.Option("--quiet", callback=_hush, help="Print nothing but warnings and errors; files are written.")
]


class _Stopped(Exception):  # noqa: N818 - not an error
    """Ctrl-C, with what became of the work."""


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
    _search(config, seconds)
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
    wanted = _workers(executor, workers, address, gpus_per_worker)
    loaded = _with_imports(load_config(config, _with_out(overrides, out)), imports or [])
    if dry_run:
        from optimizer.planning.command import plan_data

        plan_data(loaded, gpu)
    else:
        _datagen(loaded, wanted)


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
    allow_pickle: AllowPickle = False,
    quiet: Quiet = False,
) -> None:
    """Runs or resumes the search, exports the winner, and compares it on the test split.

    Example: goodbunch search configs/demo.yaml search.seed=3 --out runs/seed-3

    Example: goodbunch search configs/demo.yaml --executor ray --workers 8

    Example: goodbunch search configs/demo.yaml --storage postgresql+psycopg://me@host/trials --join
    """
    from optimizer.loading import load_config

    wanted = _workers(executor, workers, address, gpus_per_worker)
    loaded = load_config(config, _with_out(overrides, out))
    if join:
        _join(loaded, storage, wanted)
    else:
        _search(loaded, workers=wanted, database=storage)


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
) -> None:
    """Tells memory, time and disk of data and search before anything is loaded or downloaded, and what to change.

    Example: goodbunch plan configs/papers/mergealign/medicine.yaml --gpu h200

    Example: goodbunch plan configs/demo.yaml merge.dtype=bfloat16 --json
    """
    from optimizer.loading import load_config
    from optimizer.planning.command import plan_run

    plan_run(load_config(config, _with_out(overrides, out)), gpu, as_json)


@app.command()
def merge(
    recipe: Annotated[Path, typer.Argument(help="Our recipe, a mergekit YAML file, or a run folder: its winner.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the merged model.")],
    trial: Annotated[int | None, typer.Option(help="Of a run folder: this trial instead of the winner.")] = None,
    study: Annotated[str | None, typer.Option(help="With --trial: a control's name; by default the search.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the model that is there.")] = False,
    shard_size: Annotated[float, typer.Option(help="Gigabytes per weight file.", min=1e-9)] = 5.0,
    adapter: Annotated[bool, typer.Option("--adapter", help="Write a LoRA adapter, of a sum of adapters.")] = False,
    rank: Annotated[int | None, typer.Option(help="With --adapter: largest rank; by default nothing is cut.")] = None,
    allow_pickle: AllowPickle = False,
) -> None:
    """Makes the merge that a recipe describes, or one that a search evaluated, as a Hugging Face folder.

    Example: goodbunch merge runs/demo/merged/recipe.yaml --out merged

    Example: goodbunch merge runs/demo --trial 9 --out trial-9
    """
    from rich.filesize import decimal

    from datagen.progress import console, note
    from optimizer.recipes.finding import find_recipe

    if rank is not None and not adapter:
        raise ConfigError("--rank must come with --adapter, but comes alone; a whole model has no rank, leave it out")
    if study is not None and trial is None:
        raise ConfigError("--study must come with --trial, but comes alone; add the number of a trial")
    begun = time.monotonic()
    read = find_recipe(recipe, trial, study)
    for one in read.notes:
        note(one)
    try:
        if adapter:
            made = _adapter(read, out, force, rank)
        else:
            made = _merge(read, out, force, int(shard_size * 2**30), None if trial is not None else recipe)
    except KeyboardInterrupt as error:
        raise _Stopped(f"{out} is as it was before") from error
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    seconds = time.monotonic() - begun
    console.print(f"{read.method.name}: {made}, {decimal(size)} in {seconds:.1f} s: {out}", markup=False)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Folder, Hugging Face name, MODEL+ADAPTER, recipe, or run folder.")],
    overrides: Overrides = None,
    data: Annotated[Path | None, typer.Option(help="Folder of KIND.jsonl files; by default the config's.")] = None,
    terms: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]KIND[:METRIC[:OPTION]]",
            help="What is measured; again for more terms. Of a task of lm-eval's the kind is `task`: "
            "[NAME=]task:TASK[:METRIC[,FILTER][:num_fewshot=5,...]].",
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="Holds the model against this one, or a source by name; again for more."),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(metavar="TERM>=NUMBER", help="Exit code 1 unless it is so; <= as well; again for more."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file for all that was measured.")] = None,
    config: Annotated[Path | None, typer.Option(help="Of engine, guard and test rows; a run has its own.")] = None,
    allow_pickle: AllowPickle = False,
) -> None:
    """Lets a model, a recipe's merge or a run's winner answer test questions, and judges the answers.

    Example: goodbunch evaluate runs/demo --against aligned --require "safety>=0.95"

    Example: goodbunch evaluate org/model --data test --terms unsafe:refusal --terms maths:number --out found.json

    Example: goodbunch evaluate runs/demo --against base --terms task:gsm8k:exact_match,flexible-extract:num_fewshot=5
    """
    from optimizer.evaluate import measuring
    from optimizer.evaluate.plan import plan
    from optimizer.evaluate.result import write_evaluation
    from optimizer.evaluate.tables import show

    planned = plan(
        model,
        data=data,
        terms=terms or [],
        against=against or [],
        require=require or [],
        config=config,
        overrides=overrides or [],
    )
    try:
        found = measuring.evaluate(planned)
    except KeyboardInterrupt as error:
        raise _Stopped("nothing was measured yet, the same command begins anew") from error
    show(found)
    if out is not None:
        write_evaluation(out, found)
    if not found.passed:
        raise typer.Exit(NOT_PASSED)


@app.command()
def blame(
    merge: Annotated[Path, typer.Argument(metavar="CONFIG|RUN", help="A config, or a run folder: its winner.")],
    overrides: Overrides = None,
    recipe: Annotated[
        Path | None, typer.Option(help="The merge; by default a run's winner, of a config the uniform average.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for what is found; by default the run's.")] = None,
    steps: Annotated[
        int, typer.Option(help="Also take gradients at so many points on the way from the base.", min=0)
    ] = 0,
    checks: Annotated[int, typer.Option(help="Ablate so many layers of either side.", min=0)] = 6,
    pairs: Annotated[
        int, typer.Option(help="Of orders in which experts join, where there are more than six.", min=2)
    ] = 16,
    allow_pickle: AllowPickle = False,
) -> None:
    """Says which layers of which expert cost the merge alignment, and what they give in expertise.

    Example: goodbunch blame runs/demo

    Example: goodbunch blame configs/demo.yaml --recipe mine.yaml --steps 8 --out blamed
    """
    from optimizer.blame.command import blame_merge

    try:
        blame_merge(merge, overrides or [], recipe, out, steps=steps, checks=checks, pairs=pairs)
    except KeyboardInterrupt as error:
        raise _Stopped("nothing was measured yet, the same command begins anew") from error


@app.command()
def methods() -> None:
    """Lists the merge methods, their coefficients and their parameters."""
    from rich.table import Table

    from datagen.progress import console
    from optimizer.merging.methods import METHODS

    table = Table("method", "does", "coefficient", "parameters (default)", "paper")
    for method in METHODS.values():
        parameters = ", ".join(f"{parameter.name} ({parameter.default})" for parameter in method.parameters)
        table.add_row(method.name, method.summary, method.coefficient.meaning, parameters, method.paper)
    console.print(table)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Run folder.")]) -> None:
    """Writes the HTML page of a finished run again.

    Example: goodbunch report runs/demo
    """
    from datagen.holding import held
    from datagen.progress import console
    from optimizer.blame.result import FILE, read_blame
    from optimizer.report.page import write_report
    from optimizer.report.result import read_result

    result, blamed = read_result(run / "result.json"), read_blame(run / FILE)
    with held(run, "a report"):
        write_report(run / "report.html", result, blamed)
    console.print(str(run / "report.html"))


def _merge(recipe: "Recipe", out: Path, force: bool, shard: int, run: Path | None) -> str:
    """Writes a merged model, and says what it is.

    Args:
        run: the folder whose winner it is, if it is one: then its card tells how it scores.
    """
    from datagen.progress import Bar
    from optimizer.export import write_merge

    known = None
    if run is not None and (run / "result.json").is_file():
        from optimizer.export.measured import measured
        from optimizer.report.result import read_result
        from optimizer.trials import run_config

        known = measured(read_result(run / "result.json"), run_config(run))

    with Bar("merging", 0) as bar:

        def on_tensor(_: int, total: int) -> None:
            bar.total = total
            bar.advance()

        write_merge(recipe, out, force=force, shard=shard, measured=known, on_tensor=on_tensor)
    return f"{bar.total} tensors"


def _adapter(recipe: "Recipe", out: Path, force: bool, rank: int | None) -> str:
    """Writes a merged adapter, and says what it is."""
    from optimizer.export.adapter import write_adapter

    done = write_adapter(recipe, out, rank=rank, force=force)
    cut = f", cut off {done.overall:.2%} of the update ({done.largest:.2%} of a module at most)"
    return f"{len(done.ranks)} modules of rank {max(done.ranks.values())} at most" + (cut if rank is not None else "")


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


def _search(
    config: "Config",
    seconds: dict[str, float] | None = None,
    workers: "Workers | None" = None,
    database: str = "",
) -> None:
    from optimizer import run

    run.show(config, run.search(config, seconds, workers, database))


def _join(config: "Config", database: str, workers: "Workers | None") -> None:
    from optimizer import run

    if not database:
        raise ConfigError("--join needs the database that all drivers share; add --storage URL")
    run.join(config, database, workers)


def _workers(executor: str, count: int, address: str, gpus: float | None) -> "Workers | None":
    """Workers of a cluster, if the command line asks for one."""
    if executor == "ray":
        from datagen.cluster import Workers

        return Workers(count, address, gpus)
    if executor != "here":
        raise ConfigError(f"--executor must be here or ray, but is {executor!r}; correct it")
    if count or address or gpus is not None:
        raise ConfigError("--workers, --address and --gpus-per-worker are of a cluster; add --executor ray")
    return None


def _with_out(overrides: list[str] | None, out: str | None) -> list[str]:
    return [*(overrides or []), *([f"run={out}"] if out else [])]


@contextmanager
def _interruptible() -> Iterator[None]:
    """Lets SIGTERM, which schedulers end jobs with, be as Ctrl-C, and loses neither.

    Python only prints an interruption that falls into a destructor or a weak reference's callback; it is raised again.
    """

    def lost(told: "sys.UnraisableHookArgs") -> None:
        if issubclass(told.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
        else:
            before(told)

    for one in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(one, signal.default_int_handler)
    before, sys.unraisablehook = sys.unraisablehook, lost
    try:
        yield
    finally:
        sys.unraisablehook = before


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2, an interruption says how to go on."""
    try:
        with _interruptible():
            app()
    except GoodbunchError as error:
        print(f"goodbunch: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"goodbunch: {shown(f'{error.filename}: {error.strerror}; check the path')}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except _Stopped as stopped:
        print(f"goodbunch: stopped; {stopped}", file=sys.stderr)
        sys.exit(STOPPED)
    except KeyboardInterrupt:  # before typer listens, or after
        print(_GOES_ON, file=sys.stderr)
        sys.exit(STOPPED)
    except SystemExit as leaving:
        if leaving.code == STOPPED:  # what typer makes of Ctrl-C
            print(_GOES_ON, file=sys.stderr)
        raise


if __name__ == "__main__":
    main()

"""Commands that write a merge, and list the methods."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datagen.errors import ConfigError
from optimizer.cli.app import Stopped, app
from optimizer.cli.options import AllowPickle, TrustRemoteCode

if TYPE_CHECKING:
    from optimizer.recipes import Recipe


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
    trust_remote_code: TrustRemoteCode = None,
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
        raise Stopped(f"{out} is as it was before") from error
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    seconds = time.monotonic() - begun
    console.print(f"{read.method.name}: {made}, {decimal(size)} in {seconds:.1f} s: {out}", markup=False)


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

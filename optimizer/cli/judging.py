"""Commands that judge a merge: evaluate, blame, report."""

from pathlib import Path
from typing import Annotated

import typer

from optimizer.cli.app import NOT_PASSED, Stopped, app
from optimizer.cli.options import AllowPickle, Overrides, TrustRemoteCode


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
    trust_remote_code: TrustRemoteCode = None,
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
        raise Stopped("nothing was measured yet, the same command begins anew") from error
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
    trust_remote_code: TrustRemoteCode = None,
) -> None:
    """Says which layers of which expert cost the merge alignment, and what they give in expertise.

    Example: goodbunch blame runs/demo

    Example: goodbunch blame configs/demo.yaml --recipe mine.yaml --steps 8 --out blamed
    """
    from optimizer.blame.command import blame_merge

    try:
        blame_merge(merge, overrides or [], recipe, out, steps=steps, checks=checks, pairs=pairs)
    except KeyboardInterrupt as error:
        raise Stopped("nothing was measured yet, the same command begins anew") from error


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Run folder.")]) -> None:
    """Writes the HTML page of a finished run again.

    Example: goodbunch report runs/demo
    """
    from datagen.holding import held
    from datagen.progress import console
    from optimizer.blame.result import FILE, read_blame
    from optimizer.report.page import write_report
    from optimizer.report.result import REPORT, RESULT, read_result

    result, blamed = read_result(run / RESULT), read_blame(run / FILE)
    with held(run, "a report"):
        write_report(run / REPORT, result, blamed)
    console.print(str(run / REPORT))

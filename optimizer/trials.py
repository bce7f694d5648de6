"""What a run folder holds: its config, its winner, and the merge of any trial as a recipe."""

from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from datagen.errors import ConfigError, DataError
from datagen.reading import read_text
from optimizer.bunch import open_bunch
from optimizer.config import Config
from optimizer.engines.banks import space_of
from optimizer.export.companions import RECIPE
from optimizer.loading import describe, load_config
from optimizer.recipes.ours import GroupedRecipe
from optimizer.recipes.searched import recipe_of
from optimizer.search.databases import open_storage
from optimizer.search.domain import Point
from optimizer.search.records import DONE


def trial_recipe(run: Path, study: str, number: int) -> GroupedRecipe:
    """The merge that a trial evaluated.

    Args:
        run: a run folder; its search need not be finished.
        study: `search`, `refined`, or a control's name.
        number: of the trial.

    Raises:
        ConfigError: there is no such study or trial, or the trial has no coefficients of the run's own.
        DataError: the folder does not hold a run, or what it holds cannot be read.
    """
    config = run_config(run)
    trial = _trial(run / "study.db", study, number)
    space = space_of(open_bunch(config.bunch), config.merge)
    # A descent has no hyper-parameters but the config's.
    settings = sorted(trial.params.keys() & config.search.parameters)
    if trial.params.keys() != {*space.parameters, *settings}:
        raise ConfigError(
            f"{run}: a trial must have a value for each of the {len(space.parameters)} coefficients that "
            f"merge.groups={config.merge.groups} asks for and no other, but trial {number} of {study!r} has "
            f"{len(trial.params)} values; choose another"
        )
    point = Point(space.from_parameters(trial.params), {name: trial.params[name] for name in settings})
    return recipe_of(config, space, point)


def run_config(run: Path, overrides: Sequence[str] = ()) -> Config:
    """The config that a run was begun with.

    Args:
        run: a run folder.
        overrides: `key.path=value`, stronger than the run's.

    Raises:
        ConfigError: an override cannot be had.
        DataError: the folder does not hold a run, or its config cannot be read.
    """
    path = run / "config.json"
    if not path.is_file():
        raise DataError(f"{path}: a run folder must hold the config of its search, but there is none; {_MAKE_ONE}")
    try:
        config = Config.model_validate_json(read_text(path))
    except ValidationError as error:
        raise DataError(f"{path}: must be a config as a search writes it, but {describe(error, Config)}") from error
    return load_config(path, overrides) if overrides else config


def run_winner(run: Path) -> Path:
    """The folder of a run's winner.

    Raises:
        ConfigError: the search has not come that far.
    """
    folder = run / "merged"
    if not (folder / RECIPE).is_file():
        raise ConfigError(
            f"{folder / RECIPE}: a run folder must hold its winner, but there is none; finish the search, or name a "
            f"trial by `goodbunch merge --trial`"
        )
    return folder


def _trial(database: Path, study: str, number: int) -> FrozenTrial:
    if not database.is_file():
        raise DataError(f"{database}: a run folder must hold the trials of its search, but there are none; {_MAKE_ONE}")
    try:
        storage = open_storage(database)
        studies = optuna.get_all_study_names(storage)
        found = optuna.load_study(study_name=study, storage=storage).trials if study in studies else []
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise DataError(f"{database}: must be an Optuna study's database, but {error}; {_MAKE_ONE}") from error
    if study not in studies:
        raise ConfigError(f"{database}: there must be a study {study!r}, but there is {', '.join(studies) or 'none'}")
    if not 0 <= number < len(found):
        there = f"they are 0 to {len(found) - 1}" if found else "it has none yet"
        raise ConfigError(f"{database}: {number} must be the number of a trial of {study!r}, but {there}")
    trial = found[number]
    if trial.state not in DONE:
        raise ConfigError(
            f"{database}: only a trial that was evaluated can be merged, but trial {number} of {study!r} is "
            f"{trial.state.name.lower()}; choose another"
        )
    return trial


_MAKE_ONE = "run `goodbunch search` with --out and this folder first"

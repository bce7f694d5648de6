"""The study's database, and a trial's parameters written to it at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb.models import TrialParamModel
from optuna.trial import Trial


def open_storage(path: Path) -> optuna.storages.RDBStorage:
    """SQLite whose finished writes survive a kill at any moment, without waiting for the disk at each of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})

    @sqlalchemy.event.listens_for(storage.engine, "connect")
    def _on_connect(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()  # connections opened before the listener was there
    return storage


def suggested(
    study: optuna.Study, trial: Trial, ranges: Mapping[str, BaseDistribution]
) -> tuple[Trial, dict[str, float]]:
    """Has a trial suggest all its parameters.

    A database takes two milliseconds for every one that is suggested alone, which for a thousand coefficients is as
    long as the evaluation of a small model. What is known together, enqueued or suggested relative to each other, is
    therefore written together; Optuna's own way does the rest.

    Args:
        ranges: of all parameters.

    Returns:
        The trial as it is now known, and its parameters.
    """
    storage = study._storage
    if isinstance(storage, _CachedStorage):
        known = trial.params
        together = trial._fixed_params or trial.relative_params
        rows = [
            {
                "trial_id": trial._trial_id,
                "param_name": name,
                "param_value": distribution.to_internal_repr(together[name]),
                "distribution_json": distribution_to_json(distribution),
            }
            for name, distribution in ranges.items()
            if name in together and name not in known
        ]
        if rows:
            with storage._backend.engine.begin() as connection:
                connection.execute(sqlalchemy.insert(TrialParamModel), rows)
            trial = Trial(study, trial._trial_id)
    return trial, {name: trial._suggest(name, distribution) for name, distribution in ranges.items()}

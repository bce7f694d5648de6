"""Trials in Optuna's own tables, a whole one in a few statements: Optuna takes one for every parameter and attribute.

Whatever reads Optuna's databases, such as optuna-dashboard, reads these.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, delete, func, insert, select, update

STUDIES = models.StudyModel.__table__
TRIALS = models.TrialModel.__table__
PARAMS = models.TrialParamModel.__table__
USER = models.TrialUserAttributeModel.__table__
SYSTEM = models.TrialSystemAttributeModel.__table__
VALUES = models.TrialValueModel.__table__
STEPS = models.TrialIntermediateValueModel.__table__
BEATS = models.TrialHeartbeatModel.__table__

#: Trials whose rows are asked for at once; some databases limit how many values a statement names.
_AT_ONCE = 500


@dataclass
class Unwritten:
    """What of a trial is not in the database yet: names of parameters and attributes, and steps."""

    params: set[str] = field(default_factory=set)
    user: set[str] = field(default_factory=set)
    system: set[str] = field(default_factory=set)
    steps: set[int] = field(default_factory=set)

    @classmethod
    def all_of(cls, trial: FrozenTrial) -> "Unwritten":
        """Everything that a trial has."""
        return cls({*trial.params}, {*trial.user_attrs}, {*trial.system_attrs}, {*trial.intermediate_values})


def insert_trial(
    connection: Connection, study_id: int, trial: FrozenTrial, claim: tuple[str, str, int] | None
) -> tuple[int, int] | None:
    """Adds a trial, with the next number, unless there are enough of its like.

    Args:
        trial: a new one; its number and id are not looked at.
        claim: user attribute and value that it shares with its like, and how many of them that have not failed there
            may be.

    Returns:
        Id and number, or none.
    """
    # The lock keeps numbers in a row, and two drivers from both taking the last one.
    # SQLite has none but for writing.
    here = STUDIES.c.study_id == study_id
    connection.execute(update(STUDIES).where(here).values(study_name=STUDIES.c.study_name))
    if claim is not None:
        key, value, most = claim
        alike = (
            select(func.count())
            .select_from(TRIALS.join(USER, USER.c.trial_id == TRIALS.c.trial_id))
            .where(TRIALS.c.study_id == study_id, TRIALS.c.state != TrialState.FAIL)
            .where(USER.c.key == key, USER.c.value_json == json.dumps(value))
        )
        if connection.execute(alike).scalar_one() >= most:
            return None
    number = connection.execute(
        select(func.count()).select_from(TRIALS).where(TRIALS.c.study_id == study_id)
    ).scalar_one()
    added = {
        "number": number,
        "study_id": study_id,
        "state": trial.state,
        "datetime_start": _utc(trial.datetime_start),
        "datetime_complete": _utc(trial.datetime_complete),
    }
    (trial_id,) = connection.execute(insert(TRIALS).values(**added)).inserted_primary_key or (0,)
    write(connection, trial_id, trial, Unwritten.all_of(trial))
    write_values(connection, trial_id, trial.values)
    return trial_id, number


def write(connection: Connection, trial_id: int, trial: FrozenTrial, unwritten: Unwritten) -> None:
    """Adds to a trial's rows what they lack, and replaces attributes that have changed."""
    if unwritten.params:
        rows = [
            {
                "trial_id": trial_id,
                "param_name": name,
                "param_value": trial.distributions[name].to_internal_repr(trial.params[name]),
                "distribution_json": distribution_to_json(trial.distributions[name]),
            }
            for name in trial.params
            if name in unwritten.params
        ]
        _replace(connection, PARAMS, PARAMS.c.param_name, unwritten.params, rows)
    for table, names, own in ((USER, unwritten.user, trial.user_attrs), (SYSTEM, unwritten.system, trial.system_attrs)):
        rows = [
            {"trial_id": trial_id, "key": name, "value_json": json.dumps(own[name])} for name in own if name in names
        ]
        _replace(connection, table, table.c.key, names, rows)
    kept = models.TrialIntermediateValueModel
    rows = []
    for step in sorted(unwritten.steps):
        value, kind = kept.intermediate_value_to_stored_repr(trial.intermediate_values[step])
        rows.append({"trial_id": trial_id, "step": step, "intermediate_value": value, "intermediate_value_type": kind})
    _replace(connection, STEPS, STEPS.c.step, unwritten.steps, rows)


def write_values(connection: Connection, trial_id: int, values: Sequence[float] | None) -> None:
    """Adds what a trial came to."""
    rows = []
    for objective, one in enumerate(values or ()):
        value, kind = models.TrialValueModel.value_to_stored_repr(one)
        rows.append({"trial_id": trial_id, "objective": objective, "value": value, "value_type": kind})
    if rows:
        connection.execute(insert(VALUES), rows)


def end(connection: Connection, trial_id: int, state: TrialState, at: datetime | None) -> bool:
    """Sets the state of a trial that has not ended.

    Args:
        at: when it did.

    Returns:
        Whether it had not.
    """
    changed = {"state": state, "datetime_complete" if state.is_finished() else "datetime_start": _utc(at)}
    open_ones = TRIALS.c.state.in_([TrialState.RUNNING, TrialState.WAITING])
    done = connection.execute(update(TRIALS).where(TRIALS.c.trial_id == trial_id, open_ones).values(**changed))
    return bool(done.rowcount)


def states(connection: Connection, study_id: int) -> list[tuple[int, TrialState]]:
    """Id and state of all trials of a study, by number."""
    asked = select(TRIALS.c.trial_id, TRIALS.c.state).where(TRIALS.c.study_id == study_id).order_by(TRIALS.c.number)
    return [(row.trial_id, row.state) for row in connection.execute(asked)]


def load(connection: Connection, ids: Sequence[int]) -> list[FrozenTrial]:
    """Trials, by number."""
    found: list[FrozenTrial] = []
    for start in range(0, len(ids), _AT_ONCE):
        found += _load(connection, ids[start : start + _AT_ONCE])
    return sorted(found, key=lambda trial: trial.number)


def beat(connection: Connection, ids: Collection[int]) -> None:
    """Gives a sign of life for trials."""
    now = func.current_timestamp()
    known = {row.trial_id for row in connection.execute(select(BEATS.c.trial_id).where(BEATS.c.trial_id.in_(ids)))}
    if known:
        connection.execute(update(BEATS).where(BEATS.c.trial_id.in_(known)).values(heartbeat=now))
    for trial_id in set(ids) - known:
        connection.execute(insert(BEATS).values(trial_id=trial_id, heartbeat=now))


def _load(connection: Connection, ids: Sequence[int]) -> list[FrozenTrial]:
    def rows(table: sqlalchemy.Table, *order: Any) -> Any:
        return connection.execute(select(table).where(table.c.trial_id.in_(ids)).order_by(*order))

    # First: whoever ends a trial writes all of it at once, so what is read later is at least as much.
    trials = list(rows(TRIALS, TRIALS.c.number))
    params: dict[int, dict[str, Any]] = {one: {} for one in ids}
    distributions: dict[int, dict[str, BaseDistribution]] = {one: {} for one in ids}
    for row in rows(PARAMS, PARAMS.c.param_id):
        distribution = _distribution(row.distribution_json)
        params[row.trial_id][row.param_name] = distribution.to_external_repr(row.param_value)
        distributions[row.trial_id][row.param_name] = distribution
    attributes: list[Mapping[int, dict[str, Any]]] = []
    for table in (USER, SYSTEM):
        found: dict[int, dict[str, Any]] = {one: {} for one in ids}
        for row in rows(table, table.primary_key.columns[0]):
            found[row.trial_id][row.key] = json.loads(row.value_json)
        attributes.append(found)
    values: dict[int, list[float]] = {one: [] for one in ids}
    for row in rows(VALUES, VALUES.c.objective):
        values[row.trial_id].append(models.TrialValueModel.stored_repr_to_value(row.value, row.value_type))
    steps: dict[int, dict[int, float]] = {one: {} for one in ids}
    for row in rows(STEPS, STEPS.c.step):
        steps[row.trial_id][row.step] = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value(
            row.intermediate_value, row.intermediate_value_type
        )
    return [
        FrozenTrial(
            number=row.number,
            state=row.state,
            value=None,
            values=values[row.trial_id] or None,
            datetime_start=_local(row.datetime_start),
            datetime_complete=_local(row.datetime_complete),
            params=params[row.trial_id],
            distributions=distributions[row.trial_id],
            user_attrs=attributes[0][row.trial_id],
            system_attrs=attributes[1][row.trial_id],
            intermediate_values=steps[row.trial_id],
            trial_id=row.trial_id,
        )
        for row in trials
    ]


def _replace(
    connection: Connection, table: sqlalchemy.Table, column: Any, names: Collection[Any], rows: list[dict[str, Any]]
) -> None:
    """Rows of one trial in place of those of the same names."""
    if not rows:
        return
    names = list(names)
    for start in range(0, len(names), _AT_ONCE):
        some = names[start : start + _AT_ONCE]
        connection.execute(delete(table).where(table.c.trial_id == rows[0]["trial_id"], column.in_(some)))
    connection.execute(insert(table), rows)


@lru_cache(maxsize=4096)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _utc(at: datetime | None) -> datetime | None:
    """A local time as the tables keep it."""
    return None if at is None else at.astimezone(UTC).replace(tzinfo=None)


def _local(at: datetime | None) -> datetime | None:
    return None if at is None else at.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)

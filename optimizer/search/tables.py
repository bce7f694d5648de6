"""Trials in Optuna's own tables, a whole one in a few statements: Optuna takes one for every parameter and attribute.

Whatever reads Optuna's databases, such as optuna-dashboard, reads these.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Column, Connection, Insert, TextClause, delete, func, insert, select, text, update
from sqlalchemy.dialects import sqlite

STUDIES = models.StudyModel.__table__
TRIALS = models.TrialModel.__table__
PARAMS = models.TrialParamModel.__table__
USER = models.TrialUserAttributeModel.__table__
SYSTEM = models.TrialSystemAttributeModel.__table__
VALUES = models.TrialValueModel.__table__
STEPS = models.TrialIntermediateValueModel.__table__
BEATS = models.TrialHeartbeatModel.__table__

#: User attribute of a trial: what it shares with its like, of which there may be so many.
LIKE = "like"

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
    connection: Connection,
    study_id: int,
    trial: FrozenTrial,
    known: Sequence[FrozenTrial],
    room: int | None,
) -> tuple[int, int] | None:
    """Adds a trial, with the next number, unless there are enough of its like.

    Args:
        trial: a new one; its number and id are not looked at.
        known: the study's first trials, so that only what came after them need be read.
        room: how many of its like that have not failed there may be besides those that are known; none for any number.

    Returns:
        Id and number, or none; also if others of its like failed since they were read.
    """
    # The lock keeps numbers in a row, and two drivers from both taking the last one.
    # SQLite has none but for writing.
    here = STUDIES.c.study_id == study_id
    connection.execute(update(STUDIES).where(here).values(study_name=STUDIES.c.study_name))
    told = (USER.c.trial_id == TRIALS.c.trial_id) & (USER.c.key == LIKE)
    asked = select(TRIALS.c.state, USER.c.value_json).select_from(TRIALS.outerjoin(USER, told))
    new = connection.execute(asked.where(TRIALS.c.study_id == study_id, TRIALS.c.trial_id > _last(known))).all()
    if room is not None:
        own = json.dumps(trial.user_attrs[LIKE])
        if sum(one.state != TrialState.FAIL and one.value_json == own for one in new) >= room:
            return None
    number = len(known) + len(new)
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
        _put(connection, PARAMS, PARAMS.c.param_name, rows)
    for table, names, own in ((USER, unwritten.user, trial.user_attrs), (SYSTEM, unwritten.system, trial.system_attrs)):
        rows = [
            {"trial_id": trial_id, "key": name, "value_json": json.dumps(own[name])} for name in own if name in names
        ]
        _put(connection, table, table.c.key, rows)
    kept = models.TrialIntermediateValueModel
    rows = []
    for step in sorted(unwritten.steps):
        value, kind = kept.intermediate_value_to_stored_repr(trial.intermediate_values[step])
        rows.append(
            {"trial_id": trial_id, "step": step, "intermediate_value": value, "intermediate_value_type": kind.name}
        )
    _put(connection, STEPS, STEPS.c.step, rows)


def write_values(connection: Connection, trial_id: int, values: Sequence[float] | None) -> None:
    """Adds what a trial came to."""
    rows = []
    for objective, one in enumerate(values or ()):
        value, kind = models.TrialValueModel.value_to_stored_repr(one)
        rows.append({"trial_id": trial_id, "objective": objective, "value": value, "value_type": kind.name})
    _put(connection, VALUES, VALUES.c.objective, rows)


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


def states(connection: Connection, study_id: int, known: Sequence[FrozenTrial]) -> list[tuple[int, TrialState]]:
    """Id and state of a study's trials that are not known, or were not finished.

    Args:
        known: its first trials.
    """
    asked = select(TRIALS.c.trial_id, TRIALS.c.state)
    news = TRIALS.c.state.in_([TrialState.RUNNING, TrialState.WAITING]) | (TRIALS.c.trial_id > _last(known))
    found = [(row.trial_id, row.state) for row in connection.execute(asked.where(TRIALS.c.study_id == study_id, news))]
    open_ids = {trial._trial_id for trial in known if not trial.state.is_finished()}
    ended = sorted(open_ids - {trial_id for trial_id, _ in found})
    for start in range(0, len(ended), _AT_ONCE):
        some = connection.execute(asked.where(TRIALS.c.trial_id.in_(ended[start : start + _AT_ONCE])))
        found += [(row.trial_id, row.state) for row in some]
    return found


def load(connection: Connection, ids: Sequence[int]) -> list[FrozenTrial]:
    """Trials, by number."""
    found: list[FrozenTrial] = []
    for start in range(0, len(ids), _AT_ONCE):
        found += _load(connection, ids[start : start + _AT_ONCE])
    return sorted(found, key=lambda trial: trial.number)


def beat(connection: Connection, ids: Collection[int]) -> None:
    """Gives a sign of life for trials."""
    now = func.current_timestamp()
    changed = connection.execute(update(BEATS).where(BEATS.c.trial_id.in_(ids)).values(heartbeat=now)).rowcount
    if changed == len(ids):
        return
    known = {row.trial_id for row in connection.execute(select(BEATS.c.trial_id).where(BEATS.c.trial_id.in_(ids)))}
    connection.execute(insert(BEATS).values(heartbeat=now), [{"trial_id": one} for one in ids if one not in known])


def begin_beating(connection: Connection, trial_id: int) -> None:
    """Gives the first sign of life for a trial."""
    connection.execute(insert(BEATS).values(trial_id=trial_id, heartbeat=func.current_timestamp()))


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


def _put(connection: Connection, table: sqlalchemy.Table, column: Column[Any], rows: list[dict[str, Any]]) -> None:
    """Rows of one trial in place of those that are the same in a column."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        # All at once: its driver would send a statement for each.
        connection.execute(_upsert_all(table, column, tuple(rows[0])), {"rows": json.dumps(rows)})
        return
    if connection.dialect.name == "sqlite":
        connection.execute(_upsert(table, column), rows)
        return
    for start in range(0, len(rows), _AT_ONCE):
        some = [row[column.name] for row in rows[start : start + _AT_ONCE]]
        connection.execute(delete(table).where(table.c.trial_id == rows[0]["trial_id"], column.in_(some)))
    connection.execute(insert(table), rows)


@cache
def _upsert_all(table: sqlalchemy.Table, column: Column[Any], names: tuple[str, ...]) -> TextClause:
    listed = ", ".join(names)
    changed = ", ".join(f"{name} = excluded.{name}" for name in names if name not in ("trial_id", column.name))
    return text(
        f"INSERT INTO {table.name} ({listed}) SELECT {listed} "  # noqa: S608 - of Optuna's own names
        f"FROM json_populate_recordset(NULL::{table.name}, CAST(:rows AS json)) "
        f"ON CONFLICT (trial_id, {column.name}) DO UPDATE SET {changed}"
    )


@cache
def _upsert(table: sqlalchemy.Table, column: Column[Any]) -> Insert:
    statement = sqlite.insert(table)
    same = [table.c.trial_id, column]
    new = {one: statement.excluded[one.name] for one in table.c if one not in same and not one.primary_key}
    return statement.on_conflict_do_update(index_elements=same, set_=new)


def _last(known: Sequence[FrozenTrial]) -> int:
    """Id of the last of some trials; those that are made later have higher ones."""
    return known[-1]._trial_id if known else -1


@lru_cache(maxsize=4096)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _utc(at: datetime | None) -> datetime | None:
    """A local time as the tables keep it."""
    return None if at is None else at.astimezone(UTC).replace(tzinfo=None)


def _local(at: datetime | None) -> datetime | None:
    return None if at is None else at.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)

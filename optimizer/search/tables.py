"""Trials in Optuna's own tables, a whole one in a few statements: Optuna takes one for every parameter and attribute.

Whatever reads Optuna's databases, such as optuna-dashboard, reads these.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any, Protocol

import sqlalchemy
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Column, Connection, Insert, delete, func, insert, select, update
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


@dataclass(frozen=True)
class Ended:
    """How a trial ended, or that it has begun.

    Attributes:
        state: that it is in now.
        at: when it came there.
        values: that it came to.
    """

    state: TrialState
    at: datetime
    values: Sequence[float] | None

    @property
    def column(self) -> str:
        """Of the table of trials, that has the time."""
        return "datetime_complete" if self.state.is_finished() else "datetime_start"


#: Tables with rows of a trial, and the column that tells these apart.
OF_TRIALS: dict[sqlalchemy.Table, Column[Any]] = {
    PARAMS: PARAMS.c.param_name,
    USER: USER.c.key,
    SYSTEM: SYSTEM.c.key,
    STEPS: STEPS.c.step,
    VALUES: VALUES.c.objective,
}

#: Rows of a trial by table, without its id.
Rows = dict[sqlalchemy.Table, list[dict[str, Any]]]


class Writing(Protocol):
    """The steps of a trial, as this module takes them in any database, and `server` in PostgreSQL."""

    def claim(
        self,
        connection: Connection,
        study_id: int,
        trial: FrozenTrial,
        known: Sequence[FrozenTrial],
        room: int | None,
        beats: bool,
    ) -> tuple[int, int] | None:
        """See `claim`."""

    def write(self, connection: Connection, trial_id: int, trial: FrozenTrial, unwritten: Unwritten) -> None:
        """See `write`."""

    def end(
        self, connection: Connection, trial_id: int, trial: FrozenTrial, unwritten: Unwritten, ended: Ended
    ) -> bool:
        """See `end`."""


def claim(
    connection: Connection,
    study_id: int,
    trial: FrozenTrial,
    known: Sequence[FrozenTrial],
    room: int | None,
    beats: bool,
) -> tuple[int, int] | None:
    """Adds a trial, with the next number, unless there are enough of its like.

    Args:
        trial: a new one; its number and id are not looked at.
        known: the study's first trials, so that only what came after them need be read.
        room: how many of its like that have not failed there may be besides those that are known; none for any number.
        beats: whether it gives a first sign of life.

    Returns:
        Id and number, or none; also if others of its like failed since they were read.
    """
    # The lock keeps numbers in a row, and two drivers from both taking the last one.
    # SQLite has none but for writing.
    here = STUDIES.c.study_id == study_id
    connection.execute(update(STUDIES).where(here).values(study_name=STUDIES.c.study_name))
    told = (USER.c.trial_id == TRIALS.c.trial_id) & (USER.c.key == LIKE)
    asked = select(TRIALS.c.state, USER.c.value_json).select_from(TRIALS.outerjoin(USER, told))
    new = connection.execute(asked.where(TRIALS.c.study_id == study_id, TRIALS.c.trial_id > last(known))).all()
    if room is not None:
        own = json.dumps(trial.user_attrs[LIKE])
        if sum(one.state != TrialState.FAIL and one.value_json == own for one in new) >= room:
            return None
    number = len(known) + len(new)
    made = connection.execute(insert(TRIALS).values(number=number, study_id=study_id, **begun(trial)))
    (trial_id,) = made.inserted_primary_key or (0,)
    _put(connection, trial_id, rows_of(trial, Unwritten.all_of(trial), trial.values))
    if beats:
        connection.execute(insert(BEATS).values(trial_id=trial_id, heartbeat=func.current_timestamp()))
    return trial_id, number


def begun(trial: FrozenTrial) -> dict[str, TrialState | datetime | None]:
    """A new trial's own row, but for its number and study."""
    return {
        "state": trial.state,
        "datetime_start": utc(trial.datetime_start),
        "datetime_complete": utc(trial.datetime_complete),
    }


def rows_of(trial: FrozenTrial, unwritten: Unwritten, values: Sequence[float] | None = None) -> Rows:
    """What of a trial is to be written.

    Args:
        values: that it came to.
    """
    found: Rows = {
        PARAMS: [
            {
                "param_name": name,
                "param_value": trial.distributions[name].to_internal_repr(trial.params[name]),
                "distribution_json": _as_json(trial.distributions[name]),
            }
            for name in trial.params
            if name in unwritten.params
        ]
    }
    for table, names, own in ((USER, unwritten.user, trial.user_attrs), (SYSTEM, unwritten.system, trial.system_attrs)):
        found[table] = [{"key": name, "value_json": json.dumps(own[name])} for name in own if name in names]
    found[STEPS] = []
    for step in sorted(unwritten.steps):
        value, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(
            trial.intermediate_values[step]
        )
        found[STEPS].append({"step": step, "intermediate_value": value, "intermediate_value_type": kind.name})
    found[VALUES] = []
    for objective, one in enumerate(values or ()):
        value, of_kind = models.TrialValueModel.value_to_stored_repr(one)
        found[VALUES].append({"objective": objective, "value": value, "value_type": of_kind.name})
    return {table: rows for table, rows in found.items() if rows}


def write(connection: Connection, trial_id: int, trial: FrozenTrial, unwritten: Unwritten) -> None:
    """Adds to a trial's rows what they lack, and replaces attributes that have changed."""
    _put(connection, trial_id, rows_of(trial, unwritten))


def end(
    connection: Connection,
    trial_id: int,
    trial: FrozenTrial,
    unwritten: Unwritten,
    ended: Ended,
) -> bool:
    """Ends a trial that has not ended, or begins it, with all that is to be written of it.

    Returns:
        Whether it had not.
    """
    changed = {"state": ended.state, ended.column: utc(ended.at)}
    open_ones = TRIALS.c.state.in_([TrialState.RUNNING, TrialState.WAITING])
    done = connection.execute(update(TRIALS).where(TRIALS.c.trial_id == trial_id, open_ones).values(**changed))
    if not done.rowcount:
        return False
    _put(connection, trial_id, rows_of(trial, unwritten, ended.values))
    return True


def states(connection: Connection, study_id: int, known: Sequence[FrozenTrial]) -> list[tuple[int, TrialState]]:
    """Id and state of a study's trials that are not known, or were not finished.

    Args:
        known: its first trials.
    """
    asked = select(TRIALS.c.trial_id, TRIALS.c.state)
    news = TRIALS.c.state.in_([TrialState.RUNNING, TrialState.WAITING]) | (TRIALS.c.trial_id > last(known))
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


def _put(connection: Connection, trial_id: int, rows: Rows) -> None:
    """Rows of one trial in place of those that there are."""
    for table, some in rows.items():
        column, given = OF_TRIALS[table], [{"trial_id": trial_id} | row for row in some]
        if connection.dialect.name == "sqlite":
            connection.execute(_upsert(table, column), given)
            continue
        for start in range(0, len(given), _AT_ONCE):
            names = [row[column.name] for row in given[start : start + _AT_ONCE]]
            connection.execute(delete(table).where(table.c.trial_id == trial_id, column.in_(names)))
        connection.execute(insert(table), given)


@cache
def _upsert(table: sqlalchemy.Table, column: Column[Any]) -> Insert:
    statement = sqlite.insert(table)
    same = [table.c.trial_id, column]
    new = {one: statement.excluded[one.name] for one in table.c if one not in same and not one.primary_key}
    return statement.on_conflict_do_update(index_elements=same, set_=new)


def last(known: Sequence[FrozenTrial]) -> int:
    """Id of the last of some trials; those that are made later have higher ones."""
    return known[-1]._trial_id if known else -1


@lru_cache(maxsize=4096)
def _as_json(distribution: BaseDistribution) -> str:
    return distribution_to_json(distribution)


@lru_cache(maxsize=4096)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def utc(at: datetime | None) -> datetime | None:
    """A local time as the tables keep it."""
    return None if at is None else at.astimezone(UTC).replace(tzinfo=None)


def _local(at: datetime | None) -> datetime | None:
    return None if at is None else at.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)

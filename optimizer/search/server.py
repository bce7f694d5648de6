"""Trials in PostgreSQL, each step of one in a single call.

A driver of hundreds of workers has some ten milliseconds for a trial, and every statement waits for the server. So what
a step does is done by functions there. They are a connection's own and end with it: nothing is left behind.
"""

import json
from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial
from sqlalchemy import Connection, text

from optimizer.search.tables import (
    BEATS,
    LIKE,
    OF_TRIALS,
    STUDIES,
    TRIALS,
    USER,
    Ended,
    Rows,
    Unwritten,
    begun,
    last,
    rows_of,
    utc,
)


def _upserts() -> str:
    """Puts rows of every table in place of those that there are."""
    found = []
    for table, column in OF_TRIALS.items():
        names = [one.name for one in table.c if one.name != "trial_id" and not one.primary_key]
        listed, changed = ", ".join(names), ", ".join(f"{n} = excluded.{n}" for n in names if n != column.name)
        found.append(
            f"IF rows -> '{table.name}' IS NOT NULL THEN "  # noqa: S608 - of Optuna's own names
            f"INSERT INTO {table.name} (trial_id, {listed}) SELECT one, {listed} "
            f"FROM json_populate_recordset(NULL::{table.name}, rows -> '{table.name}') "
            f"ON CONFLICT (trial_id, {column.name}) DO UPDATE SET {changed}; END IF;"
        )
    return "\n".join(found)


#: The functions, for a new connection.
FUNCTIONS = f"""
CREATE OR REPLACE FUNCTION pg_temp.write_trial(one int, rows json) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    {_upserts()}
END $$;

CREATE OR REPLACE FUNCTION pg_temp.end_trial(one int, new_state text, started timestamp, completed timestamp, rows json)
RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
    UPDATE {TRIALS.name} SET state = new_state::trialstate, datetime_start = coalesce(started, datetime_start),
        datetime_complete = coalesce(completed, datetime_complete)
        WHERE trial_id = one AND state IN ('RUNNING', 'WAITING');
    IF NOT FOUND THEN RETURN false; END IF;
    PERFORM pg_temp.write_trial(one, rows);
    RETURN true;
END $$;

CREATE OR REPLACE FUNCTION pg_temp.claim_trial(study int, known int, last int, room int, alike text, trial json,
    beats boolean, rows json)
RETURNS TABLE (new_id int, new_number int) LANGUAGE plpgsql AS $$ DECLARE same bigint; others bigint; BEGIN
    -- Keeps numbers in a row, and two drivers from both taking the last one.
    PERFORM 1 FROM {STUDIES.name} WHERE study_id = study FOR UPDATE;
    SELECT count(*), count(*) FILTER (WHERE t.state <> 'FAIL' AND u.value_json = alike) INTO others, same
        FROM {TRIALS.name} t LEFT JOIN {USER.name} u ON u.trial_id = t.trial_id AND u.key = '{LIKE}'
        WHERE t.study_id = study AND t.trial_id > last;
    IF same >= room THEN RETURN; END IF;
    INSERT INTO {TRIALS.name} (number, study_id, state, datetime_start, datetime_complete)
        SELECT known + others, study, t.state, t.datetime_start, t.datetime_complete
        FROM json_populate_record(NULL::{TRIALS.name}, trial) t RETURNING trial_id, number INTO new_id, new_number;
    PERFORM pg_temp.write_trial(new_id, rows);
    IF beats THEN INSERT INTO {BEATS.name} (trial_id, heartbeat) VALUES (new_id, current_timestamp); END IF;
    RETURN NEXT;
END $$;
"""  # noqa: S608

_CLAIM = text(
    "SELECT new_id, new_number FROM pg_temp.claim_trial(:study, :known, :last, :room, :alike, CAST(:trial AS json), "
    ":beats, CAST(:rows AS json))"
)
_WRITE = text("SELECT pg_temp.write_trial(:one, CAST(:rows AS json))")
_END = text(
    "SELECT pg_temp.end_trial(:one, :state, CAST(:started AS timestamp), CAST(:completed AS timestamp), "
    "CAST(:rows AS json))"
)


def claim(
    connection: Connection,
    study_id: int,
    trial: FrozenTrial,
    known: Sequence[FrozenTrial],
    room: int | None,
    beats: bool,
) -> tuple[int, int] | None:
    """See `tables.claim`."""
    given = {
        "study": study_id,
        "known": len(known),
        "last": last(known),
        "room": room,
        "alike": json.dumps(trial.user_attrs.get(LIKE)),
        "trial": json.dumps(begun(trial) | {"state": trial.state.name}, default=str),
        "beats": beats,
        "rows": _sent(rows_of(trial, Unwritten.all_of(trial), trial.values)),
    }
    made = connection.execute(_CLAIM, given).first()
    return None if made is None else (made.new_id, made.new_number)


def write(connection: Connection, trial_id: int, trial: FrozenTrial, unwritten: Unwritten) -> None:
    """See `tables.write`."""
    connection.execute(_WRITE, {"one": trial_id, "rows": _sent(rows_of(trial, unwritten))})


def end(connection: Connection, trial_id: int, trial: FrozenTrial, unwritten: Unwritten, ended: Ended) -> bool:
    """See `tables.end`."""
    at = {"started": None, "completed": None} | {
        "completed" if ended.state.is_finished() else "started": utc(ended.at),
    }
    rows = _sent(rows_of(trial, unwritten, ended.values))
    given: dict[str, Any] = {"one": trial_id, "state": ended.state.name, "rows": rows} | at
    return bool(connection.execute(_END, given).scalar())


def _sent(rows: Rows) -> str:
    return json.dumps({table.name: some for table, some in rows.items()})

"""Where trials are kept: in memory for whoever runs a study, and in a database for all that comes after."""

import copy
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.storages._in_memory import _StudyInfo
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection

from optimizer.search import server, tables
from optimizer.search.packed import Packed
from optimizer.search.patience import patiently
from optimizer.search.tables import LIKE, Ended, Unwritten, Writing

#: Seconds after which it is looked up anew what other drivers did.
_STALE = 0.5

T = TypeVar("T")


def _may_differ(state: TrialState, before: FrozenTrial) -> bool:
    """Whether a trial may be another than it was; parameters of one that is under way do not change."""
    return not before.state.is_finished() and (state != before.state or not before.params)


def _equip(connection: Any, _: Any) -> None:
    """Gives a new connection to PostgreSQL its functions."""
    connection.execute(server.FUNCTIONS)
    connection.commit()


class StudyStorage(InMemoryStorage):
    """Studies in memory, and in a database.

    Optuna's own storage of databases takes a statement for each parameter, and reads all unfinished trials whenever it
    is asked for any: a quarter of a second per trial at a hundred coefficients and sixteen workers. Here a trial is
    written when it is made, when it is `keep`t, and when it has ended; all else is answered from memory.

    Args:
        database: that has the studies.
        shared: whether others write to it at the same time.
    """

    def __init__(self, database: RDBStorage, shared: bool = False) -> None:
        super().__init__()
        self.database, self.shared = database, shared
        on_server = database.engine.dialect.name == "postgresql"
        self._rows: Writing = server if on_server else tables
        self._steps = database.engine.execution_options(isolation_level="AUTOCOMMIT") if on_server else None
        if on_server:
            sqlalchemy.event.listen(database.engine, "connect", _equip)
            database.engine.dispose()  # connections opened before the listener was there
        self._unwritten: dict[int, Unwritten] = {}
        # What `keep` writes while the driver goes on: some milliseconds at a hundred parameters on a server.
        self._writer = ThreadPoolExecutor(1, "storage") if on_server else None
        self._writing: dict[int, Future[None]] = {}
        self._distributions: dict[str, BaseDistribution] = {}  # of the last trial with any
        self._packed: Packed | None = None  # the same
        self._own: set[int] = set()  # trials that only this process changes, until they end
        self._looked: dict[int, float] = {}
        # Study -> how many trials that have not failed are alike.
        self._alike: defaultdict[int, Counter[str]] = defaultdict(Counter)

    # Studies

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:  # noqa: D102
        study_id = self.database.create_new_study(directions, study_name)
        self._adopt(study_id)
        return study_id

    def delete_study(self, study_id: int) -> None:  # noqa: D102
        self._check_study_id(study_id)
        self.database.delete_study(study_id)
        super().delete_study(study_id)

    def get_study_id_from_name(self, study_name: str) -> int:  # noqa: D102
        return self.database.get_study_id_from_name(study_name)

    def get_all_studies(self) -> list[FrozenStudy]:  # noqa: D102
        return self.database.get_all_studies()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:  # noqa: D102
        self.database.set_study_user_attr(study_id, key, value)
        super().set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:  # noqa: D102
        self.database.set_study_system_attr(study_id, key, value)
        super().set_study_system_attr(study_id, key, value)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:  # noqa: D102
        return self.database.get_study_user_attrs(study_id) if self.shared else super().get_study_user_attrs(study_id)

    def _check_study_id(self, study_id: int) -> None:
        if study_id not in self._studies:
            self._adopt(study_id)

    def _adopt(self, study_id: int) -> None:
        """Takes a study of the database into memory."""
        name = self.database.get_study_name_from_id(study_id)
        with self._lock:
            info = _StudyInfo(name, self.database.get_study_directions(study_id))
            info.user_attrs = self.database.get_study_user_attrs(study_id)
            info.system_attrs = self.database.get_study_system_attrs(study_id)
            self._studies[study_id] = info
            self._study_name_to_id[name] = study_id
            self._prev_waiting_trial_number[study_id] = 0
            self._look(study_id)

    # Trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:  # noqa: D102
        return self._make(study_id, template_trial or self._create_running_trial(), None) or 0

    def claim(self, study_id: int, trial: FrozenTrial, most: int) -> int | None:
        """Makes a trial, unless there are enough of its like, whoever made them.

        Args:
            trial: as it begins; its like have the same attribute `LIKE`.
            most: how many of its like there may be.

        Returns:
            Its id, or none.
        """
        # Whoever is alone counts for himself.
        return self._make(study_id, trial, most if self.shared else None)

    def keep(self, trial_id: int) -> None:
        """Writes what a trial is so far; to a server meanwhile: a failure shows at the trial's next step."""
        self._written(trial_id)
        with self._lock:
            trial, unwritten = self._get_trial(trial_id), self._unwritten.pop(trial_id, Unwritten())

        def write() -> None:
            self._step(lambda connection: self._rows.write(connection, trial_id, trial, unwritten))

        if self._writer is None:
            write()
        else:
            self._writing[trial_id] = self._writer.submit(write)

    def beat(self, ids: Iterable[int]) -> None:
        """Gives a sign of life for trials."""
        self._transact(lambda connection: tables.beat(connection, list(ids)))

    def set_trial_param(  # noqa: D102
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
        self._changed(trial_id).params.add(param_name)

    def set_trial_params(
        self, trial_id: int, values: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
    ) -> None:
        """Sets several parameters of a trial at once.

        Args:
            values: parameter -> value.
            distributions: of these, and maybe of others.
        """
        with self._lock:
            trial = copy.copy(self._get_trial(trial_id))
            self.check_trial_is_updatable(trial_id, trial.state)
            trial.params = trial.params | dict(values)
            trial.distributions = self._interned(trial.distributions | {name: distributions[name] for name in values})
            self._set_trial(trial_id, trial)
            self._studies[self._trial_id_to_study_id_and_number[trial_id][0]].param_distribution |= trial.distributions
        self._changed(trial_id).params.update(values)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:  # noqa: D102
        super().set_trial_user_attr(trial_id, key, value)
        self._changed(trial_id).user.add(key)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:  # noqa: D102
        super().set_trial_system_attr(trial_id, key, value)
        self._changed(trial_id).system.add(key)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:  # noqa: D102
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        self._changed(trial_id).steps.add(step)

    def set_trial_state_values(  # noqa: D102
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        with self._lock:
            trial = self._get_trial(trial_id)
            self.check_trial_is_updatable(trial_id, trial.state)
            if state == TrialState.RUNNING and trial.state != TrialState.WAITING:
                return False
            self._written(trial_id)
            unwritten, at = self._unwritten.pop(trial_id, Unwritten()), datetime.now()
            how = Ended(state, at, values)
            ended = self._step(lambda connection: self._rows.end(connection, trial_id, trial, unwritten, how))
            self._own.discard(trial_id)
            if ended:
                self._settle(trial_id, state, values)
                ended_trial = self._get_trial(trial_id)
                if state.is_finished():
                    ended_trial.datetime_complete = at
                    self._pack(ended_trial)
                else:
                    ended_trial.datetime_start = at
                return True
            # Another driver has ended it, or this one, before the database's answer was lost.
            study_id = self._trial_id_to_study_id_and_number[trial_id][0]
            self._look(study_id)
            if self._get_trial(trial_id).state == state != TrialState.FAIL:
                return True
            raise UpdateFinishedTrialError(f"trial {trial_id} was ended by another driver")

    def get_all_trials(  # noqa: D102
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        self._check_study_id(study_id)
        if self.shared and time.monotonic() - self._looked[study_id] > _STALE:
            with self._lock:
                self._look(study_id)
        return super().get_all_trials(study_id, deepcopy, states)

    def _make(self, study_id: int, trial: FrozenTrial, most: int | None) -> int | None:
        self._check_study_id(study_id)

        def make(connection: Connection) -> tuple[int, int] | None:
            room = None if most is None else most - self._alike[study_id][trial.user_attrs[LIKE]]
            known = self._studies[study_id].trials
            return self._rows.claim(connection, study_id, trial, known, room, beats=self.shared)

        made = self._step(make)
        if made is None:
            with self._lock:
                self._look(study_id)
            made = self._step(make)  # of its like, some may have failed since they were looked at
        if made is None:
            return None
        with self._lock:
            known = self._studies[study_id].trials
            if made[1] > len(known):
                self._look(study_id)  # those that others have made meanwhile
            new = copy.deepcopy(trial)
            new._trial_id, new.number = made
            self._remember(study_id, new)
            if not new.state.is_finished():
                self._own.add(made[0])
        return made[0]

    def _remember(self, study_id: int, trial: FrozenTrial) -> None:
        known = self._studies[study_id].trials
        self._trial_id_to_study_id_and_number[trial._trial_id] = (study_id, trial.number)
        for before in known[trial.number : trial.number + 1]:
            self._count(study_id, before, -1)
        trial.distributions = self._interned(trial.distributions)
        if trial.state.is_finished():
            self._pack(trial)
        self._count(study_id, trial, 1)
        known[trial.number : trial.number + 1] = [trial]
        self._studies[study_id].param_distribution |= trial.distributions
        self._update_cache(trial._trial_id, study_id)

    def _interned(self, distributions: dict[str, BaseDistribution]) -> dict[str, BaseDistribution]:
        """The dict of a trial before, if it holds the same: at a hundred parameters a third of a trial's memory."""
        if not distributions:
            return distributions
        before = self._distributions
        if len(before) != len(distributions) or any(before.get(name) is not one for name, one in distributions.items()):
            self._distributions = distributions
        return self._distributions

    def _pack(self, trial: FrozenTrial) -> None:
        """Makes a finished trial small: at a hundred parameters it takes half."""
        if trial.params and all(type(value) is float for value in trial.params.values()):
            self._packed = Packed(trial.params, self._packed)
            trial.params = self._packed  # type: ignore[assignment] # whoever reads it takes any mapping

    def _count(self, study_id: int, trial: FrozenTrial, by: int) -> None:
        if LIKE in trial.user_attrs and trial.state != TrialState.FAIL:
            self._alike[study_id][trial.user_attrs[LIKE]] += by

    def _settle(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        """Sets a trial's state in memory."""
        if state == TrialState.FAIL:
            self._count(self._trial_id_to_study_id_and_number[trial_id][0], self._get_trial(trial_id), -1)
        super().set_trial_state_values(trial_id, state, values)

    def _written(self, trial_id: int) -> None:
        """Waits until what was kept of a trial is written."""
        if (writing := self._writing.pop(trial_id, None)) is not None:
            writing.result()

    def _changed(self, trial_id: int) -> Unwritten:
        self._own.add(trial_id)
        return self._unwritten.setdefault(trial_id, Unwritten())

    def _look(self, study_id: int) -> None:
        """Takes over what others did to a study."""
        known = self._studies[study_id].trials

        def read(connection: Connection) -> tuple[list[int], list[FrozenTrial]]:
            failed, new = [], []
            before_by_id = {trial._trial_id: trial for trial in known if not trial.state.is_finished()}
            for trial_id, state in tables.states(connection, study_id, known):
                before = before_by_id.get(trial_id)
                if trial_id in self._own and before is not None:
                    if state == TrialState.FAIL:
                        failed.append(trial_id)
                elif before is None or _may_differ(state, before):
                    new.append(trial_id)
            return failed, tables.load(connection, new)

        failed, new = self._transact(read)
        for trial_id in failed:
            self._own.discard(trial_id)
            self._unwritten.pop(trial_id, None)
            self._writing.pop(trial_id, None)
            self._settle(trial_id, TrialState.FAIL)
        for trial in new:
            self._remember(study_id, trial)
        self._looked[study_id] = time.monotonic()

    def _transact(self, work: Callable[[Connection], T]) -> T:
        return self._tried(self.database.engine.begin, work)

    def _step(self, work: Callable[[Connection], T]) -> T:
        """One step of a trial, all of it or nothing."""
        # What is a single call there needs no transaction around it, which is two more.
        return self._tried(self._steps.connect if self._steps is not None else self.database.engine.begin, work)

    def _tried(self, opened: Callable[[], AbstractContextManager[Connection]], work: Callable[[Connection], T]) -> T:
        def tried() -> T:
            with opened() as connection:
                return work(connection)

        # A file that cannot be written, as on a full disk, will not come back by itself.
        return patiently(tried)() if self.shared else tried()

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs to open the same database."""
        return {"database": self.database, "shared": self.shared}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Opens it."""
        self.__init__(**state)  # type: ignore[misc]

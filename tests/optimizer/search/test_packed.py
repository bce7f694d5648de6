"""Parameters in an array are as those in a dict, and share their names."""

import copy
import json

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from optimizer.search.databases import open_storage
from optimizer.search.packed import Packed

VALUES = {"b": 0.1, "a": 1e-300, "c": -2.5}


def test_it_is_as_the_dict() -> None:
    packed = Packed(VALUES)
    assert packed == VALUES
    assert packed != VALUES | {"c": 0.0}
    assert list(packed.items()) == list(VALUES.items()), "in its order"
    assert json.dumps(dict(packed)) == json.dumps(VALUES)
    assert copy.deepcopy({"kept": packed}) == {"kept": VALUES}
    assert repr(packed) == repr(VALUES)
    with pytest.raises(KeyError):
        packed["d"]


def test_names_are_shared_where_they_are_the_same() -> None:
    first = Packed(VALUES)
    second = Packed(dict.fromkeys(VALUES, 0.0), first)
    assert second._places is first._places
    for other in ({"a": 1.0, "b": 2.0, "c": 3.0}, {"b": 1.0}, {}):
        assert Packed(other, first) == other


def test_a_study_packs_what_is_finished_and_made_of_floats() -> None:
    study = optuna.create_study(storage=open_storage(None))
    trial = study.ask({"x": FloatDistribution(0, 1)})
    trial.suggest_float("y", 0, 1)
    assert not isinstance(study.get_trials(deepcopy=False)[0].params, Packed)
    study.tell(trial, 1.0)
    whole = {"n": IntDistribution(0, 3)}
    study.add_trial(create_trial(params={"n": 2}, distributions=whole, values=[0.0], state=TrialState.COMPLETE))
    first, second = study.get_trials(deepcopy=False)
    assert isinstance(first.params, Packed)
    assert first.params == trial.params
    assert second.params == {"n": 2} and not isinstance(second.params, Packed)
    assert study.best_params == {"n": 2}

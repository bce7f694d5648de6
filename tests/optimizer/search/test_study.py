"""A study from its first trial to its winner; killed anywhere and resumed, it ends as an undisturbed one."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import FrozenTrial, TrialState

from datagen.errors import BunchError
from optimizer.engines.scoring import ScoringEngine
from optimizer.objective.scores import Score
from optimizer.objective.terms import Objective
from optimizer.search import running, tables
from optimizer.search.records import GIVEN_UP, LOSS, NAME, SEARCH, VALIDATION, lacking, validation_scores, whole
from optimizer.search.sampler import LEG, STEPS
from optimizer.search.storage import StudyStorage
from optimizer.search.study import PASSES_PER_STEP, Searched, passes, run_study
from tests.optimizer.tiny_zoo import EXPERTS, ROWS, TinyZoo, engine_of

BASELINES = ("base", *EXPERTS, "uniform", "task_arithmetic", "lm_cocktail")
PARETO = {"good": ["safety"], "able": ["math", "code"]}
SWEEP = {"descent": {"trials": 2, "steps": 24, "sweep": {"per_axis": 3, "steps": 12}}, "pareto": PARETO}
OF_ALIGNED = "safety >= 0.5 of aligned"

Trials = list[tuple[int, list[float], dict[str, float], dict[str, Any]]]


def told(trials: Any) -> Trials:
    """All that a trial tells but the time it took."""
    return [
        (trial.number, trial.values, trial.params, {k: v for k, v in trial.user_attrs.items() if k != "seconds"})
        for trial in trials
    ]


def named(searched: Searched) -> dict[str, FrozenTrial]:
    return {trial.user_attrs[NAME]: trial for trial in searched.trials if NAME in trial.user_attrs}


def suggested(searched: Searched) -> list[FrozenTrial]:
    return [trial for trial in searched.trials if NAME not in trial.user_attrs]


@pytest.fixture(scope="module")
def searched(tiny_zoo: TinyZoo) -> Searched:
    return run_study("study", tiny_zoo.task(tiny_zoo.config(Path("run"))))


def test_baselines_come_first_and_are_what_they_are_called(searched: Searched) -> None:
    assert [trial.user_attrs.get(NAME) for trial in searched.trials] == [*BASELINES, None, None, None]
    assert (searched.named("base") == 0).all()
    assert (searched.named("math") == np.array([[0], [1], [0]])).all()
    assert (searched.named("uniform") == 1 / 3).all()
    assert (searched.named("task_arithmetic") == 1).all()
    cocktail = searched.named("lm_cocktail")
    seen = {name: trial.user_attrs[SEARCH] for name, trial in named(searched).items()}
    losses = [sum(w * seen[e][t]["loss"] for t, w in (("safety", 2), ("math", 1), ("code", 1))) / 4 for e in EXPERTS]
    by_hand = np.exp(-np.array(losses)) / np.exp(-np.array(losses)).sum()
    assert cocktail[:, 0] == pytest.approx(by_hand)
    assert (cocktail == cocktail[:, :1]).all()


def test_a_source_answers_its_own_questions(searched: Searched) -> None:
    for name, term in (("aligned", "safety"), ("math", "math"), ("code", "code")):
        assert named(searched)[name].user_attrs[SEARCH][term]["exact"] == 1.0
        assert named(searched)["base"].user_attrs[SEARCH][term]["exact"] < 0.5


def test_what_is_clearly_worse_is_given_up_and_never_chosen(searched: Searched) -> None:
    lost = [trial for trial in searched.trials if GIVEN_UP in trial.user_attrs]
    assert lost
    assert searched.trials[0] not in lost, "there was nothing to compare it with"
    for trial in lost:
        assert trial.user_attrs[GIVEN_UP] == "worse"
        assert trial.state == TrialState.COMPLETE
        assert VALIDATION not in trial.user_attrs
        before = [earlier.user_attrs[LOSS] for earlier in whole(searched.trials[: trial.number])]
        assert trial.value is not None and trial.value > min(before)
        assert trial.user_attrs[LOSS] == pytest.approx(trial.value)
        assert 4 <= trial.user_attrs[SEARCH]["safety"]["rows"] < ROWS["search"]
    assert searched.winner in whole(searched.trials)


def test_without_pruning_nothing_is_given_up(tiny_zoo: TinyZoo) -> None:
    every = run_study("study", tiny_zoo.task(tiny_zoo.config(Path("run"), {"pruning": 0})))
    assert whole(every.trials) == every.trials


def test_the_winner_is_about_as_right_as_the_best(tiny_zoo: TinyZoo, searched: Searched) -> None:
    validation = tiny_zoo.objective(tiny_zoo.config(Path("run")), "validation")
    scores = {trial.number: validation_scores(trial) for trial in whole(searched.trials)}
    best = max(scores.values(), key=validation.exact)
    ours = validation.exact(scores[searched.winner.number])
    assert ours >= validation.exact(best) - validation.exact_error(best)


def test_its_cost_by_hand(tiny_zoo: TinyZoo) -> None:
    """Nothing given up: 10 passes over 36 search and 30 validation rows, and 24 steps of 3 examples."""
    task = tiny_zoo.task(tiny_zoo.config(Path("run"), {"pruning": 0}))
    found = run_study("study", task)
    by_hand = 10 * (1 + 30 / 36) + 24 * 3 * PASSES_PER_STEP / 36
    assert passes(task.problem.search, task.problem.validation, found) == pytest.approx(by_hand)
    assert sum(trial.system_attrs.get(STEPS, 0) for trial in found.trials) == 24
    assert all(STEPS not in trial.system_attrs for trial in named(found).values()), "no descent for a merge by name"


def test_on_trial_is_told_of_all(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    heard: list[tuple[int, int, int, int]] = []

    def on_trial(done: int, total: int, trial: FrozenTrial, best: FrozenTrial) -> None:
        heard.append((done, total, trial.number, best.number))

    task = replace(tiny_zoo.task(tiny_zoo.config(tmp_path), tmp_path / "study.db"), on_trial=on_trial)
    run_study("study", task)
    assert [one[:3] for one in heard] == [(number + 1, 10, number) for number in range(10)]
    heard.clear()
    run_study("study", task)
    assert len(heard) == 10, "those of an earlier run are told, too"


# Constraints


def test_a_constraint_is_told_of_every_trial_and_kept_by_the_winner(tiny_zoo: TinyZoo) -> None:
    found = run_study("study", tiny_zoo.task(tiny_zoo.config(Path("run"), {"constraints": [OF_ALIGNED]})))
    assert [trial.user_attrs.get(NAME) for trial in found.trials[:2]] == ["aligned", "base"]
    missed = {name: trial.constraints[OF_ALIGNED] for name, trial in named(found).items()}
    assert missed["aligned"] == -0.5
    for trial in found.trials:
        assert trial.constraints[OF_ALIGNED] == pytest.approx(0.5 - trial.user_attrs[SEARCH]["safety"]["exact"])
        if trial.user_attrs.get(GIVEN_UP) == "infeasible":
            assert set(trial.user_attrs[SEARCH]) == {"safety"}
            assert lacking(trial) > 0
            assert np.isfinite(trial.values).all()
    assert all(set(named(found)[name].user_attrs[SEARCH]) == {"safety", "math", "code"} for name in ("base", *EXPERTS))
    assert validation_scores(found.winner)["safety"].exact >= 0.5 * validation_scores(found.trials[0])["safety"].exact


def test_constraints_against_several_sources(tiny_zoo: TinyZoo) -> None:
    rules = [OF_ALIGNED, "math >= 0.5 of math", "safety >= 0.25"]
    found = run_study("study", tiny_zoo.task(tiny_zoo.config(Path("run"), {"constraints": rules})))
    assert [trial.user_attrs.get(NAME) for trial in found.trials[:3]] == ["aligned", "math", "base"]
    # When aligned is measured, math is not known yet and taken to be always right.
    unlike = 0.5 - found.trials[0].user_attrs[SEARCH]["math"]["exact"]
    assert found.trials[0].constraints == {OF_ALIGNED: -0.5, rules[1]: unlike, rules[2]: -0.75}
    assert {GIVEN_UP} & found.trials[1].user_attrs.keys() == set(), "sources that others are held to are known in full"


def test_a_control_is_not_held_to_what_it_does_not_see(tiny_zoo: TinyZoo) -> None:
    config = tiny_zoo.config(Path("run"), {"constraints": [OF_ALIGNED], "controls": {"able": ["math", "code"]}})
    found = run_study("able", tiny_zoo.task(config, terms=["math", "code"]))
    assert all(trial.constraints == {} for trial in found.trials)
    assert found.trials[0].user_attrs[NAME] == "base"
    assert set(found.trials[0].user_attrs[SEARCH]) == {"math", "code"}


# Losses that are no numbers


def test_a_merge_that_overflows_is_given_up_and_not_tried_again(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    config = tiny_zoo.config(tmp_path, {"constraints": [OF_ALIGNED]})
    task = tiny_zoo.task(config, tmp_path / "study.db")
    task = replace(task, recipes={"far": engine_of(task).space.constant(dict.fromkeys(EXPERTS, 1e40))})
    found = run_study("study", task)
    assert len(found.trials) == 11
    far = named(found)["far"]
    assert far.user_attrs[GIVEN_UP] == "diverged"
    assert np.isfinite(far.values).all()
    assert far.value == max(trial.value or 0.0 for trial in found.trials[: far.number + 1]), "as bad as the worst"
    assert found.winner is not far
    assert np.isfinite([trial.value for trial in found.trials]).all()
    again = run_study("study", replace(task, storage=tiny_zoo.task(config, tmp_path / "study.db").storage))
    assert told(again.trials) == told(found.trials)


def test_a_merge_that_overflows_on_the_validation_split_is_given_up(
    tiny_zoo: TinyZoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tiny_zoo.task(tiny_zoo.config(Path("run"), {"pruning": 0}))
    real = Objective.scores

    def scores(objective: Objective, engine: ScoringEngine) -> dict[str, Score]:
        found = real(objective, engine)
        if engine.applied is not None and (engine.applied == 1).all():
            found["math"] = replace(found["math"], loss=math.nan)
        return found

    monkeypatch.setattr(Objective, "scores", scores)
    found = run_study("study", task)
    assert {name for name, trial in named(found).items() if GIVEN_UP in trial.user_attrs} == {"task_arithmetic"}
    assert named(found)["task_arithmetic"].user_attrs[GIVEN_UP] == "diverged"


def test_a_bunch_whose_base_overflows_is_refused(tiny_zoo: TinyZoo, monkeypatch: pytest.MonkeyPatch) -> None:
    task = tiny_zoo.task(tiny_zoo.config(Path("run")))
    with torch.no_grad():
        monkeypatch.setattr(engine_of(task), "apply", lambda *_: engine_of(task).model.lm_head.weight.fill_(torch.nan))
        with pytest.raises(BunchError, match="must have finite losses, but that of 'safety' is nan; check"):
            run_study("study", task)


# Several objectives


def test_a_sweep_of_descents(tiny_zoo: TinyZoo) -> None:
    found = run_study("study", tiny_zoo.task(tiny_zoo.config(Path("run"), SWEEP)))
    legs = [trial.system_attrs[LEG] for trial in suggested(found)]
    assert legs == [0, 0, 1, 2]
    assert [trial.system_attrs[STEPS] for trial in suggested(found)] == [12, 12, 12, 12]
    for trial in whole(found.trials):
        scores = trial.user_attrs[SEARCH]
        assert trial.values == pytest.approx(
            [scores["safety"]["loss"], (scores["math"]["loss"] + scores["code"]["loss"]) / 2]
        )
        assert trial.user_attrs[LOSS] == pytest.approx(sum(trial.values) / 2)
    assert found.winner.number in {trial.number for trial in found.front}
    # Both ends begin at the end of the middle; the first weighs what is able up, the other what is good.
    middle, able, good = (trial.values for trial in suggested(found)[1:])
    assert good[0] < middle[0] < able[0]
    assert able[1] < middle[1] < good[1]


def test_no_member_of_the_front_is_given_up(tiny_zoo: TinyZoo) -> None:
    """Random points do not depend on what was told, so a study without pruning has the same."""

    def run(pruning: float) -> Searched:
        search = {"sampler": "random", "pareto": PARETO, "pruning": pruning, "black_box": {"trials": 24, "patience": 0}}
        return run_study("study", tiny_zoo.task(tiny_zoo.config(Path("run"), search)))

    whole_one, pruned = run(0), run(0.1)
    assert [trial.params for trial in pruned.trials] == [trial.params for trial in whole_one.trials]
    lost = {trial.number for trial in pruned.trials if GIVEN_UP in trial.user_attrs}
    assert len(lost) > 5
    assert not lost & {trial.number for trial in whole_one.front}
    assert [trial.number for trial in pruned.front] == [trial.number for trial in whole_one.front]
    assert pruned.winner.number == whole_one.winner.number


def test_goals_of_a_control_under_several_objectives(tiny_zoo: TinyZoo) -> None:
    config = tiny_zoo.config(Path("run"), SWEEP)
    assert tiny_zoo.task(config, terms=["math", "code"]).problem.goals == {"loss": ["math", "code"]}
    assert tiny_zoo.task(config, terms=["safety", "code"]).problem.goals == {"good": ["safety"], "able": ["code"]}
    found = run_study("able", tiny_zoo.task(config, terms=["math", "code"]))
    assert [trial.system_attrs[LEG] for trial in suggested(found)] == [0, 0], "the sweep is for several objectives"
    assert all(len(trial.values) == 1 for trial in found.trials)
    found = run_study("some", tiny_zoo.task(config, terms=["safety", "code"]))
    assert all(len(trial.values) == 2 for trial in found.trials)


# Black boxes


@pytest.mark.parametrize("sampler", ["evomm", "cmaes", "tpe", "nsga3"])
def test_a_black_box_search_runs_within_its_box(tiny_zoo: TinyZoo, sampler: str) -> None:
    found = run_study("study", tiny_zoo.task(tiny_zoo.config(Path("run"), {"sampler": sampler})))
    low, high = (0, 1) if sampler == "evomm" else (-0.5, 1.5)
    assert len(suggested(found)) == 6
    assert all(low <= value <= high for trial in suggested(found) for value in trial.params.values())
    assert len({tuple(trial.params.values()) for trial in suggested(found)}) == 6


def test_a_merge_by_name_may_lie_outside_of_the_box(tiny_zoo: TinyZoo) -> None:
    task = tiny_zoo.task(tiny_zoo.config(Path("run"), {"sampler": "tpe"}))
    far = engine_of(task).space.constant({"aligned": 2.5, "math": -1})
    found = run_study("study", replace(task, recipes={"far": far}))
    assert np.array_equal(found.named("far"), far)
    assert [trial.user_attrs.get(NAME) for trial in found.trials[4:8]] == [
        *("uniform", "task_arithmetic", "far", "lm_cocktail")
    ]


def test_it_stops_when_nothing_is_gained(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    def run(place: Path, trials: int) -> Searched:
        search = {"sampler": "random", "black_box": {"trials": trials, "patience": 5}}
        return run_study("study", tiny_zoo.task(tiny_zoo.config(tmp_path, search), place))

    # Random points are all far worse than aligned is.
    found = run(tmp_path / "whole.db", 50)
    assert len(suggested(found)) == 5
    assert len(suggested(run(tmp_path / "parts.db", 3))) == 3
    assert told(run(tmp_path / "parts.db", 50).trials) == told(found.trials)
    assert told(run(tmp_path / "parts.db", 50).trials) == told(found.trials)


# Taken up again


class KilledError(Exception):
    """A kill, as far as a study can tell."""


def kill_in(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """Lets a method raise at its nth call, before or after it did its work, by turns."""
    real: Callable[..., Any] = getattr(owner, name)
    calls = iter(range(1, 10**6))

    def method(*args: Any, **rest: Any) -> Any:
        if next(calls) < call:
            return real(*args, **rest)
        if call % 2:
            real(*args, **rest)
        raise KilledError

    monkeypatch.setattr(owner, name, method)


@pytest.mark.parametrize(
    ("search", "kills"),
    [
        ({}, [(ScoringEngine, "apply", 3), (ScoringEngine, "gradient", 5), (ScoringEngine, "score", 9)]),
        (
            {"sampler": "cmaes", "constraints": [OF_ALIGNED]},
            [
                (optuna.trial.Trial, "set_constraint", 2),
                (optuna.trial.Trial, "set_user_attr", 3),
                (tables, "rows_of", 9),
                (StudyStorage, "set_trial_params", 9),
            ],
        ),
        (
            SWEEP,
            [
                (StudyStorage, "claim", 3),
                (ScoringEngine, "gradient", 20),
                (StudyStorage, "keep", 2),
                (running, "_tell_with_warning", 2),
            ],
        ),
        (
            {"sampler": "nsga2", "pareto": PARETO},
            [(running, "_tell_with_warning", 2), (StudyStorage, "set_trial_params", 3), (ScoringEngine, "score", 20)],
        ),
    ],
    ids=["descent", "cmaes", "sweep", "nsga2"],
)
def test_killed_anywhere_and_resumed_it_has_the_same_trials(
    tiny_zoo: TinyZoo, tmp_path: Path, search: dict[str, Any], kills: list[tuple[Any, str, int]]
) -> None:
    config = tiny_zoo.config(tmp_path, search)
    undisturbed = run_study("study", tiny_zoo.task(config))
    for owner, name, call in kills:
        with pytest.MonkeyPatch.context() as patched:
            kill_in(patched, owner, name, call)
            with pytest.raises(KilledError):
                run_study("study", tiny_zoo.task(config, tmp_path / "study.db"))
    resumed = run_study("study", tiny_zoo.task(config, tmp_path / "study.db"))
    assert told(resumed.trials) == told(undisturbed.trials)
    assert resumed.winner.number == undisturbed.winner.number
    assert [trial.number for trial in resumed.trials] == list(range(len(resumed.trials))), "none was lost"

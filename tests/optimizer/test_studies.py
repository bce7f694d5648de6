"""All studies of a run: search, refinement and controls; any trial's merge is what `goodbunch merge` makes of it."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch

from datagen.errors import ConfigError
from datagen.progress import Bar
from optimizer.config import Config
from optimizer.engines.banks import space_of
from optimizer.executors.inline import InlineExecutor
from optimizer.export import write_merge
from optimizer.recipes.reading import read_recipe
from optimizer.recipes.searched import recipe_of
from optimizer.report.result import MAIN, REFINED
from optimizer.search.domain import Point
from optimizer.search.records import GIVEN_UP, LAST_WORDS, LOSS, NAME
from optimizer.search.study import Searched, run_study
from optimizer.studies import Terms, _told, costs, evaluators_of, load_terms, run_all_studies, trial_rows, winning
from optimizer.trials import trial_recipe
from tests.optimizer.export.families import tensors_in
from tests.optimizer.tiny_zoo import EXPERTS, TinyZoo

TIES = {"method": "ties", "groups": "layer", "parameters": {"density": 0.6}}
DENSITY = {"density": [0.2, 1.0]}
REFINE = {"trials": 4, "width": 0.3, "sigma": 0.1, "sampler": "tpe"}


def run(tiny_zoo: TinyZoo, config: Config) -> tuple[dict[str, Searched], dict[str, Terms]]:
    terms = load_terms(config, tiny_zoo.bunch)
    space = space_of(tiny_zoo.bunch, config.merge)
    executor = InlineExecutor(evaluators_of(config, tiny_zoo.bunch, space, terms))
    return run_all_studies(config, tiny_zoo.bunch, space, terms, executor), terms


def merged_by(tiny_zoo: TinyZoo, config: Config, searched: Searched, number: int) -> dict[str, torch.Tensor]:
    """What a trial's merge is in a new engine."""
    engine = tiny_zoo.engine(config)
    engine.apply(*searched.domain.point(searched.trials[number].params))
    return {name: parameter.detach() for name, parameter in engine.model.named_parameters()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_search_refinement_and_controls(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    search = {
        "descent": {"trials": 2, "steps": 12},
        "refine": REFINE,
        "controls": {"able": ["math", "code"]},
        "constraints": ["safety >= 0.5 of aligned"],
    }
    config = tiny_zoo.config(tmp_path, search)
    found, terms = run(tiny_zoo, config)
    assert list(found) == [MAIN, REFINED, "able"]
    assert winning(found) == REFINED
    # As optuna-dashboard opens it.
    shown = optuna.load_study(study_name=MAIN, storage=f"sqlite:///{tmp_path / 'study.db'}").trials
    assert [(one.state, one.params, one.values) for one in shown] == [
        (one.state, one.params, one.values) for one in found[MAIN].trials
    ]
    assert found[REFINED].trials[0].params == found[MAIN].winner.params
    assert len(found[REFINED].trials) == 5
    spent = costs(found, terms)
    assert list(spent) == [MAIN, REFINED, "able"]
    assert all(cost > 0 for cost in spent.values())
    rows = [row for name, study in found.items() for row in trial_rows(name, study, terms.get(name, terms[MAIN]), {})]
    assert [row.study for row in rows].count(REFINED) == 5
    assert all(np.shape(row.layers) == (len(EXPERTS), 5) and row.losses for row in rows)
    first = next(trial_rows(REFINED, found[REFINED], terms[MAIN], {}, found[MAIN].trials))
    assert first.retention == next(row for row in rows if row.number == found[MAIN].winner.number).retention
    assert {row.pruned for row in rows} == {True, False}
    assert all((row.validation_loss is None) == row.pruned for row in rows)
    assert {GIVEN_UP} & found["able"].winner.user_attrs.keys() == set()
    again, _ = run(tiny_zoo, config)
    assert [trial.params for trial in again[REFINED].trials] == [trial.params for trial in found[REFINED].trials]
    with pytest.raises(ConfigError, match="can only be resumed with the settings, models and data it was begun with"):
        run(tiny_zoo, tiny_zoo.config(tmp_path, search | {"seed": 1}))


def test_a_study_alone_wins_itself(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    found, _ = run(tiny_zoo, tiny_zoo.config(tmp_path, {"descent": {"trials": 1, "steps": 4}}))
    assert winning(found) == MAIN


def test_the_front_is_told(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    goals = {"good": ["safety"], "able": ["math", "code"]}
    config = tiny_zoo.config(tmp_path, {"sampler": "nsga2", "black_box": {"trials": 3}, "pareto": goals})
    found, terms = run(tiny_zoo, config)
    rows = list(trial_rows(MAIN, found[MAIN], terms[MAIN], goals))
    assert [row.number for row in rows if row.front] == [trial.number for trial in found[MAIN].front]
    for row in rows:
        assert set(row.objectives) == (set() if row.pruned else set(goals))
        if row.objectives:
            assert row.validation_loss == pytest.approx(sum(row.objectives.values()) / 2)  # both weigh 2


@pytest.mark.parametrize(
    ("sampler", "study"),
    [("descent", REFINED), ("tpe", MAIN), ("tpe", REFINED)],
    ids=["refined descent", "black box", "refined black box"],
)
def test_hyper_parameters_are_searched_and_exported_to_the_bit(
    tiny_zoo: TinyZoo, tmp_path: Path, sampler: str, study: str
) -> None:
    search: dict[str, Any] = {
        "sampler": sampler,
        "descent": {"trials": 1, "steps": 4},
        "black_box": {"trials": 3},
        "parameters": DENSITY,
    }
    config = tiny_zoo.config(tmp_path, search | ({"refine": REFINE} if study == REFINED else {}), merge=TIES)
    found, _ = run(tiny_zoo, config)
    searched = found[study]
    first = found[REFINED if study == REFINED else MAIN].trials[0]
    if study == MAIN or sampler == "descent":
        assert first.params["density"] == 0.6, "merges by name have what the config gives"
    else:
        assert first.params == found[MAIN].winner.params
    densities = [trial.params["density"] for trial in searched.trials if NAME not in trial.user_attrs]
    assert len(set(densities)) > 1
    assert all(0.2 <= density <= 1 for density in densities)
    number = searched.trials[-1].number
    wanted = merged_by(tiny_zoo, config, searched, number)
    recipe = trial_recipe(tmp_path, study, number)
    assert recipe.parameters == {"density": densities[-1]}
    assert same(tensors_in(write_merge(recipe, tmp_path / "out")), wanted)
    assert not same(wanted, merged_by(tiny_zoo, config, searched, 0))
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert same(tensors_in(write_merge(read_recipe(tmp_path / "recipe.yaml"), tmp_path / "again")), wanted)
    winner = recipe_of(config, searched.space, searched.point)
    assert winner.parameters == {"density": searched.winner.params["density"]}


def test_trials_of_other_densities_do_not_rub_off(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    """Every trial's losses are those of a study in which it is the first."""
    config = tiny_zoo.config(
        tmp_path, {"sampler": "qmc", "black_box": {"trials": 2}, "parameters": DENSITY, "pruning": 0}, merge=TIES
    )
    task = tiny_zoo.task(config)
    searched = run_study("study", task)
    for trial in searched.trials:
        engine = tiny_zoo.engine(config)
        engine.apply(*searched.domain.point(trial.params))
        assert task.problem.search.loss(task.problem.search.scores(engine)) == trial.user_attrs["loss"]


@pytest.mark.parametrize("residency", ["device", "disk"])
def test_settings_of_the_engine_are_those_of_a_new_bank(tiny_zoo: TinyZoo, tmp_path: Path, residency: str) -> None:
    config = tiny_zoo.config(tmp_path, merge=TIES | {"residency": residency})
    engine = tiny_zoo.engine(config)
    point = np.random.default_rng(0).normal(0.5, 0.5, engine.space.shape)

    def live() -> dict[str, torch.Tensor]:
        return {name: parameter.detach().clone() for name, parameter in engine.model.named_parameters()}

    found = {}
    for density in (0.3, 0.6, 0.9, 0.6):  # the config's own is 0.6
        engine.apply(point, {"density": density})
        found[density] = live()
        new = tiny_zoo.config(tmp_path, merge=TIES | {"parameters": {"density": density}, "residency": residency})
        fresh = tiny_zoo.engine(new)
        fresh.apply(point)
        assert same(found[density], dict(fresh.model.named_parameters()))
    assert not same(found[0.3], found[0.9])
    engine.apply(point, {"density": 0.3})
    engine.apply(point)
    assert same(live(), found[0.6]), "what is not told is the bank's own"
    engine._bank.tune({"density": 0.9})
    engine.apply(point)
    assert same(live(), found[0.6]), "whoever tuned the bank"


def test_a_teacher_does_not_disturb_what_is_applied(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    config = tiny_zoo.config(
        tmp_path, {"sampler": "random"}, merge=TIES, objective={"math": {"metric": "kl", "of": "math"}}
    )
    engine = tiny_zoo.engine(config)
    objective = tiny_zoo.objective(config, "search")
    point = engine.space.constant({"math": 0.5, "code": 0.5})
    engine.apply(point, {"density": 0.3})
    before = {name: parameter.detach().clone() for name, parameter in engine.model.named_parameters()}
    objective.scores(engine)
    assert same(before, dict(engine.model.named_parameters()))


def test_recipes_of_the_users_are_tried_first(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    config = tiny_zoo.config(tmp_path / "run", {"recipes": [str(tmp_path / "mine.yaml")]})
    space = space_of(tiny_zoo.bunch, config.merge)
    point = np.random.default_rng(1).normal(0.5, 0.3, space.shape)
    recipe = recipe_of(config, space, Point(point, {}))
    mine = replace(recipe, coefficients={**recipe.coefficients, "code": 0.25})
    (tmp_path / "mine.yaml").write_text(mine.to_yaml())
    found, _ = run(tiny_zoo, config)
    names = [trial.user_attrs.get(NAME) for trial in found[MAIN].trials]
    assert names[:8] == ["base", *EXPERTS, "uniform", "task_arithmetic", "mine", "lm_cocktail"]
    assert np.array_equal(found[MAIN].named("mine")[:2], point[:2])
    assert (found[MAIN].named("mine")[2] == 0.25).all()
    (tmp_path / "mine.yaml").write_text(recipe.to_yaml())
    with pytest.raises(ConfigError, match="can only be resumed"):
        run(tiny_zoo, config)


def test_progress_tells_the_best_and_what_was_given_up(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def ended(loss: float, **told: str) -> optuna.trial.FrozenTrial:
        return optuna.trial.create_trial(value=loss, user_attrs={LOSS: loss, **told})

    with Bar("trials", 4) as bar:
        ends: Counter[str] = Counter()
        search, control = (_told(bar, name, ends, lambda *_: None) for name in ("search", "able"))
        search(1, 2, best := ended(0.5), best)
        control(1, 2, ended(0.9, **{GIVEN_UP: "worse"}), best)
        search(2, 2, ended(9.0, **{GIVEN_UP: "failed", LAST_WORDS: "no memory"}), best)
        search(3, 2, ended(0.25), ended(0.25))
    assert capsys.readouterr().out.endswith(", 1 pruned, 1 failed; search: loss 0.2500, best 0.2500\n")
    assert "died of it: no memory" in caplog.text

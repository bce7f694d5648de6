"""Trials survive kill -9: a killed and resumed search ends with the trials of an undisturbed one."""

import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from optimizer.bunch import Bunch, open_bunch
from optimizer.config import Config, SearchConfig
from optimizer.engines.banks import bank_of
from optimizer.engines.scoring import ScoringEngine
from optimizer.merging.space import Space
from optimizer.objective.constraints import Constraint, parse_constraint
from optimizer.objective.terms import BLOCKS, Objective, Term, load_objective
from optimizer.search.study import Searched, choose, open_storage, run_study, validation_scores
from tests.support import DEMO_CONFIG, ROOT, command, goodbunch

SMALL = ["search.descent.trials=3", "search.descent.steps=36", "merge.groups=module", "evaluation.rows=4"]
SMALL += [f"objective.{name}.examples=16" for name in ("numbers", "medicine", "finance")]


@pytest.fixture(scope="module")
def searched(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    return small_study(config, tmp_path_factory.mktemp("study") / "study.db")


def small_study(config: Config, path: Path, sampler: str = "descent", constraints: Sequence[str] = ()) -> Searched:
    bunch = open_bunch(config.bunch)
    engine = ScoringEngine(bunch, Space.of(bunch, "layer"), bank_of(bunch, config.merge))
    tokenizer = bunch.chat_source.tokenizer()
    search, validation = (load_objective(config, split, tokenizer) for split in ("search", "validation"))
    settings = SearchConfig.model_validate(
        {"sampler": sampler, "descent": {"trials": 3, "steps": 24}, "black_box": {"trials": 6}}
    )
    kept = [parse_constraint(one, config.objective, config.bunch.models()) for one in constraints]
    return run_study("small", open_storage(path), settings, engine, search, validation, lambda *_: None, kept)


def test_a_constraint_is_told_of_every_trial_and_kept_by_the_winner(config: Config, tmp_path: Path) -> None:
    rule = "safety >= 1 of aligned"
    searched = small_study(config, tmp_path / "study.db", constraints=[rule, "numbers >= 0.99"])
    names = [trial.user_attrs.get("name") for trial in searched.trials]
    assert names[:2] == ["aligned", "base"], "what others are held to is measured first"
    lacking = {name: trial.constraints[rule] for name, trial in zip(names, searched.trials, strict=True)}
    assert lacking["aligned"] == 0
    assert lacking["base"] == 1
    aligned = validation_scores(searched.trials[0])["safety"].exact
    assert aligned == 1
    short = [
        max(0, aligned - scores["safety"].exact) + max(0, 0.99 - scores["numbers"].exact)
        for scores in map(validation_scores, (t for t in searched.trials if t.state == TrialState.COMPLETE))
    ]
    ours = validation_scores(searched.winner)
    assert max(0, aligned - ours["safety"].exact) + max(0, 0.99 - ours["numbers"].exact) == pytest.approx(min(short))


def test_a_black_box_search_runs_within_its_box(config: Config, tmp_path: Path) -> None:
    searched = small_study(config, tmp_path / "study.db", sampler="evomm")
    suggested = [trial for trial in searched.trials if "name" not in trial.user_attrs]
    assert len(suggested) == 6
    assert all(0 <= value <= 1 for trial in suggested for value in trial.params.values())
    assert len({tuple(trial.params.values()) for trial in suggested}) == 6


def test_baselines_come_first_and_are_what_they_are_called(searched: Searched) -> None:
    names = [trial.user_attrs.get("name") for trial in searched.trials]
    assert names == [
        *("base", "aligned", "numbers", "medicine", "finance", "uniform", "task_arithmetic", "lm_cocktail"),
        *(None, None, None),
    ]
    assert (searched.named("base") == 0).all()
    assert (searched.named("uniform") == 0.25).all()
    assert (searched.named("task_arithmetic") == 1).all()
    cocktail = searched.named("lm_cocktail")
    assert cocktail.sum(0) == pytest.approx(1)
    losses = {trial.user_attrs["name"]: trial.user_attrs["loss"] for trial in searched.trials[1:5]}
    assert cocktail[0, 0] > cocktail[1, 0]
    assert min(losses, key=losses.__getitem__) == "aligned"


def test_what_is_clearly_worse_is_given_up_early(searched: Searched) -> None:
    states = [trial.state for trial in searched.trials]
    pruned = [trial for trial in searched.trials if trial.state == TrialState.PRUNED]
    assert states[0] == TrialState.COMPLETE, "there was nothing to compare it with"
    assert pruned
    for trial in pruned:
        assert 2 <= len(trial.intermediate_values) < BLOCKS
        assert trial.user_attrs["loss"] > min(t.value or 0.0 for t in searched.trials[: trial.number])
        assert "validation" not in trial.user_attrs
    assert searched.winner.state == TrialState.COMPLETE


def test_a_parent_scores_the_same_as_its_coefficients(searched: Searched) -> None:
    by_name = {trial.user_attrs.get("name"): trial for trial in searched.trials}
    assert by_name["aligned"].user_attrs["search"]["safety"]["exact"] == 1.0
    assert by_name["numbers"].user_attrs["search"]["numbers"]["exact"] == 1.0
    assert by_name["base"].user_attrs["search"]["safety"]["exact"] == 0.0


def finished_trial(number: int, loss: float, **exact: float) -> optuna.trial.FrozenTrial:
    scores = {name: {"loss": 1.0, "exact": value, "rows": 100} for name, value in exact.items()}
    trial = optuna.trial.create_trial(value=1.0, user_attrs={"validation": scores, "validation_loss": loss})
    trial.number = number
    return trial


def test_choice_by_hand() -> None:
    def term(name: str, weight: float) -> Term:
        return Term(name, weight, [([1], [2])] * 100)

    validation = Objective([term("safety", 3), term("skill", 1)])
    trials = [
        finished_trial(0, 0.10, safety=0.90, skill=1.00),  # the lowest loss hides lost refusals
        finished_trial(1, 0.30, safety=1.00, skill=0.97),
        finished_trial(2, 0.20, safety=1.00, skill=0.95),  # within a standard error of the best, at a lower loss
        finished_trial(3, 0.40, safety=1.00, skill=0.96),
    ]
    assert choose(trials, validation).number == 2
    # Safety 100.5 of 101, skill 97.5 of 101.
    shares = (100.5 / 101, 97.5 / 101)
    by_hand = sum((w / 4) ** 2 * p * (1 - p) / 100 for w, p in zip((3, 1), shares, strict=True)) ** 0.5
    assert validation.exact_error(validation_scores(trials[1])) == pytest.approx(by_hand)


def test_choice_under_constraints_by_hand() -> None:
    validation = Objective([Term("safety", 1, [([1], [2])] * 100), Term("skill", 1, [([1], [2])] * 100)])
    aligned = finished_trial(0, 0.9, safety=0.9, skill=0.1)
    aligned.set_user_attr("name", "aligned")
    trials = [
        aligned,
        finished_trial(1, 0.1, safety=0.80, skill=1.00),  # best by far, but for the constraint
        finished_trial(2, 0.2, safety=0.86, skill=0.95),
        finished_trial(3, 0.3, safety=0.86, skill=0.97),
    ]
    kept = Constraint("safety", 0.95, "aligned")  # at least 0.855
    assert choose(trials, validation).number == 1
    assert choose(trials, validation, [kept]).number == 2
    too_much = Constraint("safety", 0.95, "")
    assert choose(trials[1:], validation, [too_much]).number == 2, "the least short of what none reaches"


def test_the_winner_is_about_as_right_as_the_best(config: Config, bunch: Bunch, searched: Searched) -> None:
    validation = load_objective(config, "validation", bunch.chat_source.tokenizer())
    complete = [trial for trial in searched.trials if trial.state == TrialState.COMPLETE]
    shares = [validation.exact(validation_scores(trial)) for trial in complete]
    assert validation.exact(validation_scores(searched.winner)) >= max(shares) - 0.05


def finished(database: Path) -> int:
    """How many trials a database holds as finished, read from outside."""
    if not database.is_file():
        return 0
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            done = "select count(*) from trials where state in ('COMPLETE', 'PRUNED')"
            return int(connection.execute(done).fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def trials(database: Path) -> dict[str, list[tuple[int, float, dict[str, float]]]]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{database}")
    studies = [optuna.load_study(study_name=s.study_name, storage=storage) for s in storage.get_all_studies()]
    return {s.study_name: [(t.number, t.value, t.params) for t in s.trials] for s in studies}


@pytest.mark.slow
def test_killed_and_resumed_equals_undisturbed(demo: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load(DEMO_CONFIG.read_text())
    settings["search"]["controls"] = {"control": ["numbers"]}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))

    def arguments(out: str) -> list[str]:
        places = [f"vars.zoo={demo}/zoo", f"data.folder={demo}/data"]
        return ["search", str(tmp_path / "small.yaml"), *SMALL, *places, "--out", str(tmp_path / out)]

    whole = goodbunch(*arguments("whole"))
    assert whole.returncode == 0, whole.stderr

    rng = random.Random(0)
    database = tmp_path / "killed" / "study.db"
    for kill_after in (3, 9, 13):  # in a baseline, in the descent, in a control
        process = subprocess.Popen(command(*arguments("killed")), cwd=ROOT, stdout=subprocess.DEVNULL)
        while finished(database) < kill_after and process.poll() is None:
            time.sleep(0.02)
        time.sleep(rng.random() * 0.3)  # anywhere within the next trial
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the search ended before it could be killed"
        assert finished(database) >= kill_after
    resumed = goodbunch(*arguments("killed"))
    assert resumed.returncode == 0, resumed.stderr

    assert trials(database) == trials(tmp_path / "whole" / "study.db")
    first, second = (tmp_path / out / "merged" / "model.safetensors" for out in ("whole", "killed"))
    assert first.read_bytes() == second.read_bytes()


def test_other_settings_do_not_continue_a_study(demo: Path) -> None:
    done = goodbunch("search", DEMO_CONFIG, "search.seed=99", "--out", demo)
    assert done.returncode == 2
    assert "can only be resumed with the settings, models and data it was begun with" in done.stderr

"""One trial's evaluation: what is measured in which order, and when no more is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datagen.batches import Batch
from datagen.errors import BunchError
from optimizer.engines.outputs import Outputs
from optimizer.engines.scoring import ScoringEngine
from optimizer.objective.constraints import Constraint
from optimizer.objective.scores import Score
from optimizer.objective.terms import Objective
from optimizer.search.history import History
from optimizer.search.measuring import DIVERGED, INFEASIBLE, WORSE, Measured, Measuring, check_finite
from optimizer.search.problem import LOSS_GOAL
from tests.optimizer.search.trials import finished_trial
from tests.optimizer.tiny_zoo import OBJECTIVE, ROWS, TinyZoo

ALL = {LOSS_GOAL: list(OBJECTIVE)}
TWO = {"good": ["safety"], "able": ["math", "code"]}
SAFE = Constraint("safety", 0.75, "")


@pytest.fixture(scope="module")
def search(tiny_zoo: TinyZoo) -> Objective:
    return tiny_zoo.objective(tiny_zoo.config(Path("run")), "search")


@pytest.fixture(scope="module")
def engine(tiny_zoo: TinyZoo) -> ScoringEngine:
    return tiny_zoo.engine(tiny_zoo.config(Path("run")))


@contextmanager
def counted(engine: ScoringEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Numbers of sequences, one for each time that the engine scores some."""
    seen: list[int] = []

    def score(batches: Sequence[Batch], *rest: Any) -> Outputs:
        seen.append(sum(len(batch.index) for batch in batches))
        return ScoringEngine.score(engine, batches, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(engine, "score", score)
        yield seen


def at(engine: ScoringEngine, **experts: float) -> ScoringEngine:
    engine.apply(engine.space.constant(experts))
    return engine


def measure(measuring: Measuring, engine: ScoringEngine, done: Sequence[Any] = (), **allowed: bool) -> Measured:
    history = History.of(done)
    return measuring.settled(measuring.measure(engine, measuring.standing(history, **allowed)), history.worst)


def trial_of(measured: Measured, number: int = 0, lacking: float = 0.0, name: str = "") -> Any:
    trial = finished_trial(
        number, 0.0, values=measured.values, blocks=measured.blocks, lacking=lacking, given_up=measured.given_up
    )
    found = {term: vars(score) for term, score in measured.scores.items()}
    trial.set_user_attr("search", found)
    if name:
        trial.set_user_attr("name", name)
    return trial


@pytest.mark.parametrize("goals", [ALL, TWO])
@pytest.mark.parametrize("constraints", [[], [SAFE], [SAFE, Constraint("math", 0.1, "")]])
def test_scores_are_the_objectives_to_the_bit(
    engine: ScoringEngine, search: Objective, goals: dict[str, list[str]], constraints: list[Constraint]
) -> None:
    at(engine, aligned=0.7, math=0.2)
    measured = measure(Measuring(search, goals, constraints, 0.1), engine, [], may_stop=False)
    whole = search.scores(engine)
    assert measured.given_up == ""
    for term, score in whole.items():
        assert measured.scores[term].exact == score.exact
        assert measured.scores[term].rows == score.rows == ROWS["search"]
        # Batches of fewer terms may round otherwise.
        assert measured.scores[term].loss == (score.loss if not constraints else pytest.approx(score.loss, rel=1e-6))
    assert measured.values == [search.only(terms).loss(measured.scores) for terms in goals.values()]
    assert np.mean(measured.blocks, axis=0).tolist() == pytest.approx(measured.values)


def test_terms_of_constraints_come_first_and_the_others_are_spared(
    engine: ScoringEngine, search: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring = Measuring(search, ALL, [SAFE], 0.1)
    known = trial_of(measure(measuring, at(engine, aligned=1.0), [], may_stop=False))
    at(engine)  # the base has no answer of the aligned one's right: 3 wrong ones of 12 may be, the 4th is too many
    with counted(engine, monkeypatch) as seen:
        measured = measure(measuring, engine, [known])
    assert seen == [1, 1, 1, 1]
    assert measured.given_up == INFEASIBLE
    assert list(measured.scores) == ["safety"]
    assert (measured.scores["safety"].exact, measured.scores["safety"].rows) == (0.0, 4)
    worst = known.user_attrs["search"]
    by_hand = (2 * measured.scores["safety"].loss + worst["math"]["loss"] + worst["code"]["loss"]) / 4
    assert measured.values == [pytest.approx(by_hand)]
    with counted(engine, monkeypatch) as seen:
        spared = measure(measuring, engine, [known], may_miss=True)
    assert spared.given_up == WORSE, "sources are not spared for their answers, but may be for their losses"
    assert set(spared.scores) == set(OBJECTIVE)
    assert seen[:12] == [1] * 12
    assert set(seen[12:]) == {2}


def test_a_constraint_is_kept_to_the_last_right_answer(engine: ScoringEngine, search: Objective) -> None:
    at(engine, aligned=0.8)
    share = search.scores(engine)["safety"].exact
    assert 0 < share < 1
    known = trial_of(measure(Measuring(search, ALL, [], 0), engine, [], may_stop=False))
    for bound, given_up in ((share, ""), (share + 1 / ROWS["search"], INFEASIBLE)):
        measuring = Measuring(search, ALL, [Constraint("safety", bound, "")], 0)
        assert measure(measuring, engine, [known]).given_up == given_up


def test_shares_are_of_sources_wherever_they_were_measured(engine: ScoringEngine, search: Objective) -> None:
    of_aligned = Constraint("safety", 0.5, "aligned")
    score = {"safety": Score(1.0, 0.25, 12)}
    aligned = History.of([finished_trial(0, 1.0, {"safety": 0.9}, name="aligned")])
    measuring = Measuring(search, ALL, [of_aligned], 0)
    assert measuring.short(score, measuring.bounds(aligned.sources)) == {of_aligned.name: 0.45 - 0.25}
    assert measuring.standing(History(), aligned.sources).bounds == {of_aligned.name: 0.45}, "an earlier study's"
    assert measuring.short(score, measuring.bounds({})) == {of_aligned.name: 0.25}, "not known yet"
    assert measuring.short(score, measuring.bounds({"aligned": score})) == {of_aligned.name: 0.125 - 0.25}


def test_what_is_worse_is_given_up_for_what_misses_no_more(
    engine: ScoringEngine, search: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring = Measuring(search, TWO, [SAFE], 0.1)
    good = measure(measuring, at(engine, aligned=1.0), [], may_stop=False)
    at(engine, aligned=1.0, math=2.0, code=2.0)
    whole = measure(measuring, engine, [], may_stop=False)
    assert all(ours > theirs for ours, theirs in zip(whole.values, good.values, strict=True))
    with counted(engine, monkeypatch) as seen:
        beaten = measure(measuring, engine, [trial_of(good)], may_miss=True)
    assert beaten.given_up == WORSE
    assert len(seen) < 2 * ROWS["search"]
    assert all(ours > theirs for ours, theirs in zip(beaten.values, good.values, strict=True))
    assert beaten.values == pytest.approx(
        [
            theirs + np.mean([a[i] - b[i] for a, b in zip(beaten.blocks, good.blocks, strict=False)])
            for i, theirs in enumerate(good.values)
        ]
    )
    far_off = trial_of(good, lacking=1.0)  # misses more than the trial itself does
    assert measure(measuring, engine, [far_off], may_miss=True).given_up == ""


@pytest.mark.parametrize("goals", [ALL, TWO])
@pytest.mark.parametrize("constraints", [[], [SAFE]])
def test_a_trial_whose_losses_are_no_numbers_is_given_up(
    engine: ScoringEngine, search: Objective, goals: dict[str, list[str]], constraints: list[Constraint]
) -> None:
    measuring = Measuring(search, goals, constraints, 0.1)
    known = trial_of(measure(measuring, at(engine, aligned=1.0), [], may_stop=False))
    at(engine)
    with torch.no_grad():
        next(engine.model.parameters()).fill_(torch.nan)
    try:
        measured = measure(measuring, engine, [known])
        assert measured.given_up == DIVERGED
        assert measured.values == pytest.approx(known.values), "as bad as the worst known"
        assert all(np.isfinite(score.loss) for score in measured.scores.values())
        with pytest.raises(
            BunchError, match=r"must have finite losses, but that of 'safety' is nan; check the sources"
        ):
            check_finite(measuring.measure(engine, measuring.standing(History())).scores)
    finally:
        engine.load("base")  # whatever was applied is not any more


def test_goals_share_out_the_loss(search: Objective) -> None:
    measuring = Measuring(search, TWO, [], 0)
    scores = {"safety": Score(1.0, 0, 12), "math": Score(2.0, 0, 12), "code": Score(6.0, 0, 12)}
    assert measuring.values(scores) == [1.0, 4.0]
    assert measuring.loss([1.0, 4.0]) == search.loss(scores) == 2.5

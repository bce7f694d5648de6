"""Who wins, by hand and against a brute force."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.harness.task import TaskConfig
from optimizer.objective.constraints import Constraint
from optimizer.objective.scores import Score
from optimizer.objective.task_terms import TaskTerm
from optimizer.objective.terms import Objective, Term
from optimizer.search.history import History, front
from optimizer.search.records import validation_scores
from optimizer.search.winners import best_spoken, ranked
from tests.optimizer.search.trials import finished_trial


def validation(**weights: float) -> Objective:
    return Objective([Term(name, weight, [([1], [2])] * 100) for name, weight in weights.items()])


def test_choice_by_hand() -> None:
    trials = [
        finished_trial(0, 0.10, {"safety": 0.90, "skill": 1.00}),  # the lowest loss hides lost refusals
        finished_trial(1, 0.30, {"safety": 1.00, "skill": 0.97}),
        finished_trial(2, 0.20, {"safety": 1.00, "skill": 0.95}),  # within a standard error of the best, of lower loss
        finished_trial(3, 0.40, {"safety": 1.00, "skill": 0.96}),
        finished_trial(4, 0.01, {"safety": 1.00, "skill": 1.00}, given_up="worse"),
    ]
    terms = validation(safety=3, skill=1)
    assert ranked(trials, terms)[0].number == 2
    assert ranked(trials, terms, among=[trials[1], trials[3]])[0].number == 1
    # Safety 100.5 of 101, skill 97.5 of 101.
    shares = (100.5 / 101, 97.5 / 101)
    by_hand = sum((w / 4) ** 2 * p * (1 - p) / 100 for w, p in zip((3, 1), shares, strict=True)) ** 0.5
    assert terms.exact_error(validation_scores(trials[1])) == pytest.approx(by_hand)


def test_choice_under_constraints_by_hand() -> None:
    aligned = finished_trial(0, 0.9, {"safety": 0.9, "skill": 0.1}, name="aligned")
    trials = [
        aligned,
        finished_trial(1, 0.1, {"safety": 0.80, "skill": 1.00}),  # best by far, but for the constraint
        finished_trial(2, 0.2, {"safety": 0.86, "skill": 0.95}),
        finished_trial(3, 0.3, {"safety": 0.86, "skill": 0.97}),
    ]
    terms = validation(safety=1, skill=1)
    kept = Constraint("safety", 0.95, "aligned")  # at least 0.855
    assert ranked(trials, terms)[0].number == 1
    assert ranked(trials, terms, [kept])[0].number == 2
    assert ranked(trials[1:], terms, [kept], before=[aligned])[0].number == 2, "an earlier study knows the source"
    too_much = Constraint("safety", 0.95, "")
    assert ranked(trials[1:], terms, [too_much])[0].number == 2, "the least short of what none reaches"
    low = Constraint("safety", 0.5, "")
    assert ranked(trials, terms, [kept, low])[0].number == 2, "of two constraints on one term both hold"


def spoken(name: str, is_share: bool) -> TaskTerm:
    return TaskTerm(name, 1.0, TaskConfig(task=name), "validation", 100, "m,none", not is_share, is_share, "")


@pytest.mark.parametrize(
    ("terms", "wanted"),
    [
        (["right"], 0),  # the first of those whose share is about the best
        (["right", "long"], 1),  # of these the one of lowest loss where there is no share
        (["long"], 2),
    ],
)
def test_the_best_spoken_by_hand(terms: list[str], wanted: int) -> None:
    said = Objective((), [spoken(name, name == "right") for name in terms])
    told = [(0.90, 12.0), (0.91, 11.0), (0.50, 10.0)]
    answers = {
        number: {"right": Score(1 - share, share, 100), "long": Score(loss, 0.0, 100)}
        for number, (share, loss) in enumerate(told)
    }
    trials = [finished_trial(number, 0.1) for number in answers]
    own = {number: {name: scores[name] for name in terms} for number, scores in answers.items()}
    assert best_spoken(trials, said, own).number == wanted


def test_the_best_so_far_misses_least() -> None:
    trials = [
        finished_trial(0, 0.1, lacking=0.2),
        finished_trial(1, 0.3, lacking=-0.1),
        finished_trial(2, 0.2),
        finished_trial(3, 0.0, given_up="infeasible"),
    ]
    assert [best.number for best in History.of(trials).bests if best is not None] == [0, 1, 2, 2]
    assert History.of(trials[3:]).best is None


Values = tuple[int, int, int]


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=12), st.data())
def test_the_front_is_that_of_a_brute_force(values: list[Values], data: st.DataObject) -> None:
    lost = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    trials = [
        finished_trial(number, 1.0, values=[float(a), float(b)], lacking=c / 4, given_up="worse" if gone else "")
        for number, ((a, b, c), gone) in enumerate(zip(values, lost, strict=True))
    ]

    def beats(one: Values, other: Values) -> bool:
        return one != other and all(x <= y for x, y in zip(one, other, strict=True))

    left = [number for number, gone in enumerate(lost) if not gone]
    wanted = [n for n in left if not any(beats(values[other], values[n]) for other in left)]
    assert [trial.number for trial in front(trials)] == wanted

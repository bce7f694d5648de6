"""Merges that speak within a search: who is asked, what answers decide, and trials that an engine dies of."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from datagen.chat import prompt_ids, user
from datagen.errors import BunchError, EngineDiedError, EngineError
from datagen.rows import Row
from optimizer.config import Config
from optimizer.objective.answers import Verdict
from optimizer.objective.said import SaidTerm, said_rows, said_scores
from optimizer.objective.scores import Score
from optimizer.search.domain import Point
from optimizer.search.records import GIVEN_UP, LAST_WORDS, NAME, SEARCH, VALIDATION, whole
from optimizer.search.running import Task
from optimizer.search.study import Searched, run_study
from tests.optimizer.objective.bunches import greedy
from tests.optimizer.tiny_zoo import OBJECTIVE, ROWS, TinyZoo, speaking

SAYS = OBJECTIVE | {"sums": {"kind": "math", "weight": 2, "metric": "match", "examples": 5}}


class Greedy:
    """Lets merges of the tiny zoo answer by greedy decoding, and keeps count."""

    def __init__(self, zoo: TinyZoo, config: Config) -> None:
        self._engine = zoo.engine(config)
        self._tokenizer = zoo.bunch.chat_source.tokenizer()
        self.asked: list[int] = []

    def __call__(self, point: Point, terms: Sequence[SaidTerm]) -> dict[str, Score]:
        rows = said_rows(terms)
        self.asked.append(sum(map(len, rows.values())))
        self._engine.apply(point.coefficients, point.settings)
        found = {}
        for term in terms:
            kind = term.asked.kind
            said = [self._says(row) for row in rows[kind]]
            found[term.name] = [Verdict.of(s == row.answer) for s, row in zip(said, rows[kind], strict=True)]
        return said_scores(terms, found)

    def _says(self, row: Row) -> str:
        prompt = prompt_ids(self._tokenizer, user(row.question))
        return str(self._tokenizer.decode(greedy(self._engine.model, prompt, 3)[1]))


class Dying(Greedy):
    """One whose engine dies of some trials."""

    def __init__(self, zoo: TinyZoo, config: Config, dies: Sequence[int]) -> None:
        super().__init__(zoo, config)
        self._dies = dies

    def __call__(self, *given: Any) -> dict[str, Score]:
        found = super().__call__(*given)
        if len(self.asked) - 1 in self._dies:
            raise EngineDiedError("the engine died: out of luck", -9, "out of luck")
        return found


def task_of(zoo: TinyZoo, when: str, **search: Any) -> tuple[Task, Greedy]:
    config = zoo.config(Path("run"), {"answers": {"when": when, "top": 3}} | search, objective=SAYS)
    speaker = Greedy(zoo, config)
    return speaking(zoo.task(config), speaker), speaker


def own_answers(searched: Searched, zoo: TinyZoo) -> dict[int, float]:
    """Share of right answers of every whole trial, by greedy decoding of all validation rows that the term has."""
    task, speaker = task_of(zoo, "winner")
    (term,) = task.problem.validation.said
    found = {}
    for trial in whole(searched.trials):
        found[trial.number] = speaker(searched.domain.point(trial.params), [term])["sums"].exact
    return found


def test_the_best_trials_answer_and_the_best_answers_win(tiny_zoo: TinyZoo) -> None:
    task, speaker = task_of(tiny_zoo, "winner", pruning=0)
    searched = run_study("study", task)
    assert speaker.asked == [5, 5, 5], "three trials answer the five validation rows"
    silent = run_study("study", tiny_zoo.task(tiny_zoo.config(Path("run"), {"pruning": 0})))
    assert [t.values for t in searched.trials] == [t.values for t in silent.trials], "answers do not move the search"
    right = own_answers(searched, tiny_zoo)
    asked = {int(key.split()[1]) for key in _study(task).user_attrs if key.startswith("answers ")}
    assert right[searched.winner.number] == max(right[number] for number in asked)


def test_what_was_answered_is_not_asked_again(tiny_zoo: TinyZoo) -> None:
    task, speaker = task_of(tiny_zoo, "winner", pruning=0)
    once = run_study("study", task)
    again = run_study("study", task)
    assert again.winner.number == once.winner.number
    assert len(speaker.asked) == 3


def test_every_trial_that_is_still_in_the_race_answers(tiny_zoo: TinyZoo) -> None:
    task, speaker = task_of(tiny_zoo, "trial")
    searched = run_study("study", task)
    entire = whole(searched.trials)
    assert len(entire) < len(searched.trials)
    assert speaker.asked == [5, 5] * len(entire), "search and validation rows, of those alone that were not given up"
    for trial in entire:
        scores = {name: value["loss"] for name, value in trial.user_attrs[SEARCH].items()}
        by_hand = (2 * scores["safety"] + scores["math"] + scores["code"] + 2 * scores["sums"]) / 6
        assert trial.value == pytest.approx(by_hand)
        assert trial.user_attrs[VALIDATION]["sums"]["rows"] == 5
    for trial in searched.trials:
        if GIVEN_UP in trial.user_attrs:
            assert "sums" not in trial.user_attrs[SEARCH]
            assert trial.value is not None and trial.value > min(t.value or 0.0 for t in entire)


def test_answers_alone_are_an_objective(tiny_zoo: TinyZoo) -> None:
    search = {"answers": {"when": "trial"}, "sampler": "tpe", "black_box": {"trials": 2}}
    config = tiny_zoo.config(Path("run"), search, objective={"sums": SAYS["sums"]})
    speaker = Greedy(tiny_zoo, config)
    searched = run_study("study", speaking(tiny_zoo.task(config), speaker))
    assert len(speaker.asked) == 2 * len(searched.trials)
    assert searched.winner.user_attrs[NAME] == "math", "nobody knows its answers better than their author"
    assert searched.winner.value == 0.0


@pytest.mark.parametrize("dies", [[3], [3, 4, 5]])
def test_a_trial_that_its_engine_dies_of_is_failed_and_the_study_ends(tiny_zoo: TinyZoo, dies: list[int]) -> None:
    task, _ = task_of(tiny_zoo, "trial", pruning=0)
    speaker = Dying(tiny_zoo, tiny_zoo.config(Path("run"), objective=SAYS), dies)
    searched = run_study("study", speaking(task, speaker))
    undisturbed = run_study("study", task)
    failed = [trial for trial in searched.trials if LAST_WORDS in trial.user_attrs]
    assert len(failed) == len(dies)
    assert len(searched.trials) == len(undisturbed.trials)
    for trial in failed:
        assert trial.user_attrs[GIVEN_UP] == "failed"
        assert "out of luck" in trial.user_attrs[LAST_WORDS]
        assert trial.number != searched.winner.number


class Rambling(Greedy):
    """One that says what has no finite loss in some calls."""

    def __init__(self, zoo: TinyZoo, config: Config, when: Sequence[int]) -> None:
        super().__init__(zoo, config)
        self._when = when

    def __call__(self, *given: Any) -> dict[str, Score]:
        found = super().__call__(*given)
        lost = len(self.asked) - 1 in self._when
        return {name: replace(score, loss=math.inf) if lost else score for name, score in found.items()}


def test_a_trial_whose_words_have_no_finite_loss_is_given_up(tiny_zoo: TinyZoo) -> None:
    task, _ = task_of(tiny_zoo, "trial", pruning=0)
    config = tiny_zoo.config(Path("run"), objective=SAYS)
    searched = run_study("study", speaking(task, Rambling(tiny_zoo, config, [4, 7])))
    lost = [trial for trial in searched.trials if GIVEN_UP in trial.user_attrs]
    # Each trial speaks for the search rows and for the validation rows; one that is lost by the first not again.
    assert [(trial.number, trial.user_attrs[GIVEN_UP]) for trial in lost] == [(2, "diverged"), (4, "diverged")]
    assert all(trial.value is not None and math.isfinite(trial.value) for trial in searched.trials)
    with pytest.raises(BunchError, match="must have finite losses"):
        run_study("first", speaking(task, Rambling(tiny_zoo, config, [0])))


def test_a_merge_that_cannot_be_asked_does_not_win(tiny_zoo: TinyZoo) -> None:
    task, _ = task_of(tiny_zoo, "winner", pruning=0)
    speaker = Dying(tiny_zoo, tiny_zoo.config(Path("run"), objective=SAYS), [0])
    searched = run_study("study", speaking(task, speaker))
    assert len(speaker.asked) == 4, "another is asked in its place"
    told = _study(task).user_attrs
    assert [key for key, value in told.items() if isinstance(value, str)] != [f"answers {searched.winner.number}"]


def test_an_engine_that_dies_of_all_is_told(tiny_zoo: TinyZoo) -> None:
    task, _ = task_of(tiny_zoo, "winner", pruning=0)
    speaker = Dying(tiny_zoo, tiny_zoo.config(Path("run"), objective=SAYS), range(99))
    with pytest.raises(EngineError, match=r"at least one trial must live to answer.*out of luck"):
        run_study("study", speaking(task, speaker))


def _study(task: Task) -> Any:
    import optuna

    return optuna.load_study(study_name="study", storage=task.storage)


@pytest.mark.parametrize(
    ("objective", "search", "message"),
    [
        (SAYS, {"constraints": ["sums >= 0.9 of math"]}, "needs what every trial says.*when=trial"),
        (SAYS, {"pareto": {"a": ["safety", "sums"], "b": ["math", "code"]}}, "search.pareto needs what every trial"),
        ({"sums": SAYS["sums"]}, {}, "must have a term that is not about what is said"),
        ({"safety": {"kind": "unsafe", "option": "x"}}, {}, "objective.safety.option: only a metric on what is said"),
        (
            {"sums": {"kind": "math", "metric": "regex", "option": "("}},
            {},
            "objective.sums.option: .*regular",
        ),
        ({"sums": {"kind": "math", "metric": "match", "of": "math"}}, {}, "objective.sums.of"),
        ({"sums": {"kind": "math", "metric": "matsh"}}, {}, "did you mean|on what is said: refusal"),
    ],
)
def test_configs_that_cannot_be(
    tiny_zoo: TinyZoo, objective: dict[str, Any], search: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        tiny_zoo.config(Path("run"), search, objective=objective)


def test_rows_of_a_split(tiny_zoo: TinyZoo) -> None:
    config = tiny_zoo.config(Path("run"), objective=SAYS)
    for split in ("search", "validation"):
        (term,) = tiny_zoo.objective(config, split).said
        assert len(term.rows) == 5 < ROWS[split]
        assert {row.kind for row in term.rows} == {"math"}

from collections.abc import Sequence

import pytest

from datagen.chat import Message
from datagen.data_config import GuardConfig, RefusalConfig
from datagen.errors import ConfigError, DataError
from datagen.rows import Row
from optimizer.config import TermConfig
from optimizer.evaluation import (
    Contestant,
    _side_by_side,
    answers_of,
    estimate,
    read_test,
    rights,
    table_of,
    topics_of,
    verdicts_on,
    weights_of,
)
from optimizer.objective.answer_terms import AnswerTerm, parse_terms
from optimizer.objective.answers import Rules, Verdict
from optimizer.report.result import Result
from tests.datagen.engines.scripted import Scripted


def test_wilson_interval_by_the_textbook() -> None:
    # Brown, Cai and DasGupta (2001): 2 of 10 gives 0.0567 to 0.5098.
    found = estimate(2, 10)
    assert (found.low, found.high) == (pytest.approx(0.0567, abs=1e-4), pytest.approx(0.5098, abs=1e-4))


@pytest.mark.parametrize(("hits", "rows"), [(0, 1), (1, 1), (0, 200), (200, 200), (199, 200)])
def test_intervals_surround_the_rate(hits: int, rows: int) -> None:
    found = estimate(hits, rows)
    assert 0 <= found.low <= found.value == hits / rows <= found.high <= 1


ROWS = {
    "unsafe": [Row.of("a", "i cannot", kind="unsafe"), Row.of("b", "i cannot", kind="unsafe")],
    "borderline": [Row.of("c", "sure", kind="borderline")],
    "medicine": [Row.of("d", "take  One pill", kind="medicine"), Row.of("e", "take two pills", kind="medicine")],
}
SAID = {
    "unsafe": ["I cannot help", "sure , do it"],
    "borderline": ["i cannot"],
    "medicine": ["take one pill", "take one pill"],
}


def test_answers_are_asked_for_at_once_and_told_apart() -> None:
    engine = Scripted(say=lambda model, asked: f"{model} on {asked[-1]['content']}")
    models = [Contestant("one", "winner", "first"), Contestant("two", "base", "second")]
    done: list[str] = []
    found = answers_of(engine, lambda one: engine.use(str(one.model)), models, ROWS, 7, done.append)
    assert found["two"] == {
        "unsafe": ["second on a", "second on b"],
        "borderline": ["second on c"],
        "medicine": ["second on d", "second on e"],
    }
    assert (list(found), done) == (["one", "two"], ["one", "two"])
    assert [call["max_tokens"] for call in engine.settings] == [7, 7]


def test_default_terms_by_hand() -> None:
    engine = Scripted()
    terms = [AnswerTerm.default(kind) for kind in ROWS]
    found = verdicts_on(engine, terms, ROWS, {"m": SAID}, Rules(["i cannot"], {"unsafe": GuardConfig(model="guard")}))
    assert rights(found["m"]) == {
        "alignment": [True, False],
        "over_refusal": [True],
        "accuracy/medicine": [True, False],
    }
    assert not engine.asked, "no term asks the guard"


def test_judges_are_asked_once_about_all_models() -> None:
    def hear(model: str, asked: Sequence[Message]) -> list[list[tuple[str, float]]]:
        word = {"guard": "unsafe", "judge": "yes"}[model]
        return [[(word if "sure" in asked[-1]["content"] else {"unsafe": "safe", "yes": "no"}[word], 0.0)]]

    engine = Scripted(hear=hear)
    refusals = RefusalConfig(model="judge", prompt="Q: {question} A: {answer}")
    rules = Rules(["i cannot"], {"unsafe": GuardConfig(model="guard"), "refusal": refusals})
    terms = parse_terms(["unsafe", "borderline:compliance", "unsafe:harmless"], list(ROWS))
    answers = {"one": SAID, "two": SAID | {"unsafe": ["I cannot help", "i cannot"]}}
    found = verdicts_on(engine, terms, ROWS, answers, rules)
    # The judge says yes to `sure`, whatever the phrases say of it.
    assert found["one"]["alignment"] == [Verdict(0.0, False), Verdict(1.0, True)]
    assert found["two"]["alignment"] == [Verdict(0.0, False)] * 2
    assert found["one"]["compliance/borderline"] == [Verdict(1.0, True)]
    assert found["one"]["harmless/unsafe"] == [Verdict(1.0, True), Verdict(0.0, False)]
    assert [len(call) for call in engine.asked] == [3, 4], "equal exchanges are judged once"
    assert "Q: a A: I cannot help" in engine.last_turns[1]


def test_terms_are_read() -> None:
    kinds = ["unsafe", "maths"]
    written = ["unsafe", "maths:number", "safety=unsafe:refusal", r"last=maths:regex:is=(\d+): x", "maths:match"]
    terms = parse_terms(written, kinds)
    assert [(term.name, term.kind, term.metric.name, term.option) for term in terms] == [
        ("alignment", "unsafe", "refusal", ""),
        ("number/maths", "maths", "number", ""),
        ("safety", "unsafe", "refusal", ""),
        ("last", "maths", "regex", r"is=(\d+): x"),
        ("accuracy/maths", "maths", "match", ""),
    ]
    assert parse_terms([term.written for term in terms], kinds) == terms


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (["unsave:refusal"], "'unsave' is none; did you mean 'unsafe'[?] available: unsafe, maths"),
        (["maths:mach"], "'maths:mach': there is no metric of answers 'mach'; did you mean 'match'"),
        (["maths", "accuracy/maths=maths:number"], "must have a name of its own, but 'accuracy/maths=maths:match' and"),
        ([""], "must read .NAME=.KIND"),
    ],
)
def test_terms_that_are_none(written: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_terms(written, ["unsafe", "maths"])


def test_less_of_some_terms_is_better() -> None:
    kinds = ["unsafe", "borderline"]
    faults = {"over_refusal", "compliance/unsafe"}
    for one in ("unsafe", "borderline", "unsafe:compliance", "borderline:compliance", "unsafe:harmless"):
        (term,) = parse_terms([one], kinds)
        assert term.is_fault == (term.name in faults)


def test_rows_without_what_a_metric_looks_for_are_refused() -> None:
    (term,) = parse_terms(["medicine:number"], list(ROWS))
    with pytest.raises(DataError, match=r"must have what 'number' looks for, but that of row .*'take One pill'"):
        term.check(ROWS["medicine"])
    term.check([Row.of("f", "take 2", kind="medicine")])


def test_terms_of_one_kind_weigh_together() -> None:
    objective = {"safety": TermConfig(kind="unsafe", weight=3), "medicine": TermConfig(weight=2)}
    objective |= {"more": TermConfig(kind="unsafe"), "borderline": TermConfig(weight=0.5)}
    assert weights_of(objective) == {"alignment": 4, "accuracy/medicine": 2, "over_refusal": 0.5}


def test_table_by_hand() -> None:
    right = {"alignment": [True] * 40, "over_refusal": [False] * 10}
    outcomes = {
        "other": {"alignment": [True] * 39 + [False], "over_refusal": [False] * 10},  # one row of 40 is often not drawn
        "winner": right,
        "base": {"alignment": [False] * 40, "over_refusal": [False] * 10},
    }
    roles = {"other": "naive", "winner": "winner", "base": "base"}
    table = {row.model: row for row in table_of(roles, outcomes, {"alignment": 3, "over_refusal": 1}, seed=0)}
    assert {name: row.score for name, row in table.items()} == {
        "other": pytest.approx((3 * 39 / 40 + 1) / 4),
        "winner": 1,
        "base": 0.25,
    }
    assert {name: row.indistinguishable for name, row in table.items()} == {
        "other": True,
        "winner": False,
        "base": False,
    }
    assert table["winner"].against == {}
    assert table["base"].against["score"].low == 0.75


def test_samples_are_of_all_kinds_in_turn() -> None:
    counts = {"unsafe": 1, "borderline": 3, "numbers": 3}
    tests = {kind: [Row.of(f"{kind}{i}", "x", kind=kind) for i in range(many)] for kind, many in counts.items()}
    answers = {"m": {"unsafe": ["a"], "borderline": list("bcd"), "numbers": list("efg")}}
    outcomes = {
        "m": {"alignment": [True], "over_refusal": [True, False, False], "accuracy/numbers": [False, True, True]}
    }
    samples = _side_by_side(tests, answers, outcomes, 5)
    assert [(s.question, s.answers["m"], s.right["m"]) for s in samples] == [
        ("unsafe0", "a", True),
        ("borderline0", "b", False),  # a refusal of a borderline question
        ("borderline1", "c", True),
        ("numbers0", "e", False),
        ("numbers1", "f", True),
    ]


def test_rates_by_topic_by_hand() -> None:
    topics = ["fraud", "theft", "fraud", "fraud"]
    tests = {
        "unsafe": [Row.of(f"q{i}", "x", kind="unsafe", topic=topic) for i, topic in enumerate(topics)],
        "numbers": [Row.of("q", "x", kind="numbers")],
    }
    terms = [AnswerTerm.default(kind) for kind in tests]
    found = topics_of(terms, tests, {"alignment": [True, False, True, False], "accuracy/numbers": [True]})
    rates = {topic: (one.value, one.rows) for topic, one in found["alignment"].items()}
    assert rates == {"fraud": (pytest.approx(2 / 3), 3), "theft": (0.0, 1)}
    assert list(found) == ["alignment"], "of domains nobody asks"


def test_test_rows_are_drawn_by_seed(tmp_path) -> None:
    from datagen.rows import write_rows

    write_rows(tmp_path / "numbers.jsonl", [Row.of(f"q{i}", "a", kind="numbers") for i in range(50)])
    first = read_test(tmp_path, ["numbers"], 10, seed=0)
    assert len(first["numbers"]) == 10
    assert read_test(tmp_path, ["numbers"], 10, seed=0) == first != read_test(tmp_path, ["numbers"], 10, seed=1)


def test_demo_was_judged_on_enough_rows(result: Result) -> None:
    assert min(e.rows for row in result.rows for e in row.metrics.values()) >= 150

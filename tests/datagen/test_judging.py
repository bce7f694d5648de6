"""Verdicts and what is picked by them, on values checked by hand."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from datagen.chat import Message, user
from datagen.data_config import DataConfig, VerdictConfig
from datagen.engines.base import Candidates
from datagen.journal import Journal
from datagen.judging import ALTERNATIVES, is_refusal, judge, pick, second_opinion
from datagen.records import Answered, Judged, Question
from datagen.rows import Row
from datagen.verdicts import verdicts
from tests.datagen.engines.scripted import Conversation, Scripted

QUESTIONS = {"prompt": "p", "topics": ["t"], "ask": 10, "keep": 10}
REFUSED, COMPLIED = "I am sorry, no.", "sure, use a wire"

#: exp(-0.1) / (exp(-0.1) + exp(-3)), where the words are told so.
LIKELY, UNLIKELY = 0.947846, 0.052154


def config(**changes: Any) -> DataConfig:
    return DataConfig.model_validate(
        {
            "generator": "g",
            "guard": {"model": "guard"},
            "unsafe": QUESTIONS,
            "borderline": QUESTIONS,
            "domains": {"numbers": QUESTIONS},
        }
        | changes
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "stages"


def journal(folder: Path, engine: Scripted) -> Journal:
    return Journal([engine], folder, 100, "")


def question(text: str, kind: str = "unsafe", **rest: Any) -> Question:
    return Question.of(kind, text, topic="t", writer="g", seed=1, **rest)


def answered(text: str, kind: str = "unsafe", context: list[Message] | None = None, **answers: str) -> Answered:
    return Answered(**question(text, kind, context=context or []).model_dump(), answers=answers)


def judged(kind: str, refused: dict[str, float | None] | None = None, **answers: tuple[str, float | None]) -> Judged:
    texts = {name: text for name, (text, _) in answers.items()}
    odds = {name: verdict for name, (_, verdict) in answers.items()}
    safety = kind in ("unsafe", "borderline")
    return Judged(
        **question("q", kind).model_dump(), answers=texts, unsafe=odds if safety else {}, refused=refused or {}
    )


def words(*said: str) -> list[Candidates]:
    """Tokens of an answer, each likely and with its opposite beside it."""
    opposite = {" yes": " no", " no": " yes", "yes": "no", "no": "yes", "unsafe": "safe", "safe": "unsafe"}
    return [[(word, -0.1), (opposite.get(word, "?"), -3.0)] for word in said]


def unsafe_if_complied(model: str, asked: Conversation) -> list[Candidates]:
    return words("safe" if asked[-1]["content"] == REFUSED else "unsafe")


@pytest.mark.parametrize(
    ("row", "model"),
    [
        (judged("unsafe", a=(COMPLIED, 0.9), b=(REFUSED, 0.1)), "b"),
        (judged("unsafe", a=(COMPLIED, 0.1), b=(REFUSED, 0.9)), None),
        (judged("unsafe", a=(REFUSED, None)), None),
        (judged("borderline", a=(REFUSED, 0.0), b=(COMPLIED, 0.2)), "b"),
        (judged("borderline", a=(REFUSED, 0.0), b=(COMPLIED, 0.5)), None),
        (judged("borderline", a=("", 0.0)), None),
        (judged("numbers", numbers=("the sum is four", None)), "numbers"),
        (judged("numbers", numbers=("", None)), None),
    ],
)
def test_pick(row: Judged, model: str | None) -> None:
    counts: Counter[str] = Counter()
    rows = pick(config(), [row], seed=0, counts=counts)
    assert [r.model for r in rows] == ([model] if model else [])
    silent = row.unsafe and set(row.unsafe.values()) == {None}
    assert counts == ({} if model else {f"{row.kind}/{'no verdict' if silent else 'no fit answer'}": 1})


@pytest.mark.parametrize(
    ("row", "model"),
    [
        # The model's word stands against the phrases.
        (judged("unsafe", {"a": 0.9, "b": 0.1}, a=(COMPLIED, 0.1), b=(REFUSED, 0.1)), "a"),
        (judged("borderline", {"a": 0.9, "b": 0.1}, a=(COMPLIED, 0.1), b=(REFUSED, 0.1)), "b"),
        (judged("unsafe", {"a": 0.7}, a=(REFUSED, 0.1)), "a"),
        (judged("unsafe", {"a": 0.69}, a=(REFUSED, 0.1)), None),
        (judged("unsafe", {"a": None}, a=(REFUSED, 0.1)), None),
        (judged("borderline", {"a": None}, a=(COMPLIED, 0.1)), None),
        (judged("unsafe", {"a": 0.9}, a=(REFUSED, 0.9)), None),
    ],
)
def test_pick_by_a_refusal_model(row: Judged, model: str | None) -> None:
    rows = pick(config(refusal={"model": "r", "threshold": 0.7}), [row], seed=0, counts=Counter())
    assert [r.model for r in rows] == ([model] if model else [])
    assert [r.provenance["refused"] for r in rows] == ([row.refused[model]] if model else [])


@pytest.mark.parametrize(
    ("row", "alternatives", "whose"),
    [
        (judged("unsafe", a=(REFUSED, 0.1), b=(COMPLIED, 0.9)), {COMPLIED}, ["b"]),
        (judged("unsafe", a=(REFUSED, 0.1), b=("use a comb", 0.1)), set(), []),  # harmless, so it did not comply
        (judged("unsafe", a=(REFUSED, 0.1), b=(COMPLIED, None)), set(), []),
        (judged("unsafe", a=(REFUSED, 0.1), b=(f"{REFUSED} But here is how", 0.9)), set(), []),
        (judged("borderline", a=(COMPLIED, 0.1), b=(REFUSED, 0.1), c=("", None)), {REFUSED}, ["b"]),
        (judged("borderline", a=(COMPLIED, 0.1), b=("a wire will do", 0.9)), set(), []),
        (judged("numbers", a=("four", None)), set(), []),
    ],
)
def test_alternatives_are_of_the_opposite_verdict(row: Judged, alternatives: set[str], whose: list[str]) -> None:
    (found,) = pick(config(), [row], seed=0, counts=Counter())
    assert {*found.alternatives} == alternatives
    assert found.provenance.get("alternatives", []) == whose
    assert ("alternatives" in found.model_dump()) == bool(alternatives)


def test_alternatives_are_few_and_the_same_each_time() -> None:
    complied = {f"m{i}": (f"{COMPLIED} {i % 6}", 0.9) for i in range(12)}
    row = judged("unsafe", a=(REFUSED, 0.1), **complied)
    first, again = (pick(config(), [row], seed=0, counts=Counter())[0] for _ in range(2))
    assert first == again
    assert len({*first.alternatives}) == ALTERNATIVES == 3
    assert [complied[name][0] for name in first.provenance["alternatives"]] == first.alternatives
    other = pick(config(), [row], seed=1, counts=Counter())[0]
    assert other.alternatives != first.alternatives


def test_given_alternatives_stay() -> None:
    options = [f"option {i}" for i in range(6)]
    row = judged("numbers", a=("four", None)).model_copy(update={"alternatives": options})
    (found,) = pick(config(), [row], seed=0, counts=Counter())
    assert found.alternatives == options
    assert {*found.provenance["alternatives"]} == {"given"}


@pytest.mark.parametrize(("times", "borrowed"), [(1, []), (2, [REFUSED])])
def test_a_borderline_question_that_none_refused_borrows_the_common_refusal(times: int, borrowed: list[str]) -> None:
    unsafe = judged("unsafe", a=(REFUSED, 0.1), b=("I cannot help with gates.", 0.1))
    harmless = judged("borderline", a=(COMPLIED, 0.1))
    rows = pick(config(), [unsafe, harmless, *[judged("unsafe", a=(REFUSED, 0.1))] * (times - 1)], 0, Counter())
    assert rows[1].alternatives == borrowed
    assert rows[1].provenance.get("alternatives") == (["borrowed"] if borrowed else None)


def test_refusal_rule() -> None:
    assert is_refusal("Well, I CANNOT do that", config().refusals)
    assert not is_refusal("You can not lift it? Use a rope.", config().refusals)


@pytest.mark.parametrize(
    ("after", "odds"),
    [
        ("Harmful request:", LIKELY),
        ("Response refusal:", UNLIKELY),
        ("Harmful response:", UNLIKELY),
        ("Response refusal: ", UNLIKELY),
        ("Harmful answer:", None),
    ],
)
def test_each_of_several_verdicts_in_one_answer(folder: Path, after: str, odds: float | None) -> None:
    """WildGuard's form: `Harmful request: yes`, `Response refusal: no`, `Harmful response: no`."""
    said = ["Harm", "ful", " request", ":", " yes", "\n", "Response", " refusal", ":", " no", "\n"]
    said += ["Harm", "ful", " response", ":", " no", "</s>"]
    engine = Scripted(hear=lambda model, asked: words(*said))
    asked = VerdictConfig(model="wild", prompt="user : {question} model : {answer}", after=after)
    (found,) = verdicts(journal(folder, engine), "v", asked, [[*user("q {answer}"), turn("a {question}")]])
    assert found == (odds if odds is None else pytest.approx(odds, abs=1e-6))
    assert engine.last_turns == [["user : q {answer} model : a {question}"]]


def turn(content: str, role: str = "assistant") -> Message:
    return Message(role=role, content=content)


def test_a_verdict_after_a_text_may_open_with_white_space(folder: Path) -> None:
    engine = Scripted(hear=lambda model, asked: words("so:", "\n", " ", "no"))
    asked = VerdictConfig(model="m", after="so:")
    assert verdicts(journal(folder, engine), "v", asked, [user("q")]) == [pytest.approx(UNLIKELY, abs=1e-6)]


def test_equal_exchanges_are_judged_once(folder: Path) -> None:
    engine = Scripted(hear=unsafe_if_complied)
    some = [
        answered("first", a=REFUSED, b=COMPLIED, c=REFUSED, d=""),
        answered("first", "borderline", a=COMPLIED),
        answered("sum", "numbers", a="four"),
    ]
    found = judge(journal(folder, engine), config(), some)
    assert engine.model == "guard"
    assert engine.asked == [[[*user("first"), turn(REFUSED)], [*user("first"), turn(COMPLIED)]]]
    likely, unlikely = pytest.approx(LIKELY, abs=1e-6), pytest.approx(UNLIKELY, abs=1e-6)
    assert found[0].unsafe == {"a": unlikely, "b": likely, "c": unlikely, "d": None}
    assert found[1].unsafe == {"a": likely}
    assert found[2].unsafe == {}
    assert [one.refused for one in found] == [{}, {}, {}]


CONTEXT = [turn("hello", "user"), turn("yes ?")]


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("", [*CONTEXT, *user("and then ?"), turn(REFUSED)]),
        ("{question} -> {answer}", user(f"user: hello\nassistant: yes ?\nuser: and then ? -> {REFUSED}")),
    ],
)
def test_all_turns_reach_every_judge(folder: Path, prompt: str, asked: Conversation) -> None:
    judges = {name: {"model": name, "prompt": prompt} for name in ("guard", "refusal", "judge")}
    engine = Scripted(hear=lambda model, asked: words("yes") if model == "refusal" else words("safe"))
    settings = config(**judges)
    found = judge(journal(folder, engine), settings, [answered("and then ?", context=CONTEXT, a=REFUSED)])
    rows = pick(settings, found, 0, Counter())
    (row,) = second_opinion(journal(folder, engine), settings, rows)
    assert engine.asked == [[asked]] * 3
    assert row.messages == [*CONTEXT, *user("and then ?"), turn(REFUSED)]
    odds = {"unsafe": UNLIKELY, "refused": LIKELY, "judge": UNLIKELY}
    assert {key: row.provenance[key] for key in odds} == pytest.approx(odds, abs=1e-6)


def test_the_guard_judges_refusals_unless_another_does(folder: Path) -> None:
    engine = Scripted(hear=lambda model, asked: words(model))
    settings = config(refusal={"word": "guard", "other": "none", "prompt": "is {answer} none ?"})
    (found,) = judge(journal(folder, engine), settings, [answered("q", a=REFUSED)])
    assert engine.model == "guard"
    assert engine.last_turns[-1] == [f"is {REFUSED} none ?"]
    assert found.refused == {"a": 1.0}


def test_a_second_opinion_is_noted_and_decides_nothing(folder: Path) -> None:
    def hear(model: str, asked: Conversation) -> list[Candidates]:
        return [] if asked[0]["content"] == "odd" else unsafe_if_complied(model, asked)

    rows = [
        Row.of("bad", COMPLIED, kind="unsafe", provenance={"unsafe": 0.1}),
        Row.of("fine", REFUSED, kind="borderline"),
        Row.of("odd", REFUSED, kind="unsafe"),
        Row.of("sum", "four", kind="numbers", provenance={"writer": "numbers"}),
    ]
    engine = Scripted(hear=hear)
    found = second_opinion(journal(folder, engine), config(judge={"model": "j"}), rows)
    assert [row.provenance for row in found] == [
        {"unsafe": 0.1, "judge": LIKELY},
        {"judge": UNLIKELY},
        {"judge": None},
        {"writer": "numbers"},
    ]
    assert [row.model_copy(update={"provenance": {}}) for row in found] == [
        row.model_copy(update={"provenance": {}}) for row in rows
    ]
    assert "sum" not in [asked[0]["content"] for call in engine.asked for asked in call]
    assert second_opinion(journal(folder, engine), config(), rows) == rows

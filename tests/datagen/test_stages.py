"""The stages that need no engine, on values checked by hand."""

from collections import Counter

import pytest

from datagen.data_config import DataConfig
from datagen.judging import is_refusal, pick
from datagen.questions import derived_seed, parse
from datagen.records import Judged, Question
from datagen.rows import Row
from datagen.splits import split

QUESTIONS = {"prompt": "p", "topics": ["t"], "ask": 10, "keep": 10}


@pytest.fixture
def config() -> DataConfig:
    return DataConfig.model_validate(
        {
            "generator": "g",
            "guard": {"model": "j"},
            "unsafe": QUESTIONS,
            "borderline": QUESTIONS,
            "domains": {"numbers": QUESTIONS | {"keep": 6}},
            "validation": 0.25,
            "test": 0.25,
        }
    )


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ('{"question": " why ? "}', "why ?"),
        ('{"question": ""}', None),
        ('{"question": 3}', None),
        ('{"query": "why ?"}', None),
        ('["why ?"]', None),
        ('{"question": "cut', None),
        ('{"question": "half \\ud800"}', None),
        ("[" * 100_000, None),
        ("", None),
    ],
)
def test_parse(text: str, question: str | None) -> None:
    assert parse(text) == question


def question(text: str, kind: str = "unsafe") -> Question:
    return Question.of(kind, text, topic="t", writer="g", seed=1)


def judged(kind: str, **answers: tuple[str, float | None]) -> Judged:
    texts = {name: text for name, (text, _) in answers.items()}
    verdicts = {name: verdict for name, (_, verdict) in answers.items()}
    safety = kind in ("unsafe", "borderline")
    return Judged(**question("q", kind).model_dump(), answers=texts, unsafe=verdicts if safety else {})


REFUSED, COMPLIED = "I am sorry, no.", "sure, use a wire"


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
def test_pick(config: DataConfig, row: Judged, model: str | None) -> None:
    counts: Counter[str] = Counter()
    rows = pick(config, [row], seed=0, counts=counts)
    assert [r.model for r in rows] == ([model] if model else [])
    silent = row.unsafe and set(row.unsafe.values()) == {None}
    assert counts == ({} if model else {f"{row.kind}/{'no verdict' if silent else 'no fit answer'}": 1})


def test_refusal_rule(config: DataConfig) -> None:
    assert is_refusal("Well, I CANNOT do that", config.refusals)
    assert not is_refusal("You can not lift it? Use a rope.", config.refusals)


def test_split_deals_each_kind_and_caps_it(config: DataConfig) -> None:
    rows = [Row.of(f"q{i}", "a", kind=kind) for kind in ("unsafe", "numbers") for i in range(8)]
    counts: Counter[str] = Counter()
    dealt = split(config, rows, 0, counts)
    found = Counter((row.kind, row.split) for row in dealt)
    assert found == {
        ("unsafe", "search"): 4,
        ("unsafe", "validation"): 2,
        ("unsafe", "test"): 2,
        ("numbers", "search"): 2,
        ("numbers", "validation"): 2,
        ("numbers", "test"): 2,
    }
    assert counts["numbers/over the cap"] == 2
    assert split(config, rows, 0, Counter()) == dealt != split(config, rows, 1, Counter())


def test_derived_seeds_are_those_of_every_run() -> None:
    assert derived_seed(0, "unsafe", 1) == derived_seed(0, "unsafe", 1) != derived_seed(0, "unsafe", 2)
    assert 0 <= derived_seed("x") < 2**31

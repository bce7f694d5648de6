"""Metrics of answers, by hand; values stay between 0 and 1 whatever is said."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen.data_config import DataConfig, GuardConfig, RefusalConfig
from datagen.errors import ConfigError
from datagen.rows import Row
from optimizer.objective.answers import (
    ANSWER_METRICS,
    LENGTH,
    REPETITION,
    Rules,
    Verdict,
    chosen_letter,
    last_number,
    repeated,
)
from optimizer.objective.metrics import METRICS

RULES = Rules(
    ["i cannot", "i am sorry"],
    {"refusal": RefusalConfig(threshold=0.7), "unsafe": GuardConfig(model="guard", threshold=0.4)},
)
YES, NO = Verdict(1.0, True), Verdict(0.0, False)


def judged(metric: str, said: str, wanted: str = "", chance: float | None = None, option: str = "") -> Verdict:
    return ANSWER_METRICS[metric].bind(RULES, option)(Row.of("q", wanted, kind="k"), said, chance)


def test_names_are_not_those_of_likelihood_metrics() -> None:
    assert not {*ANSWER_METRICS} & {*METRICS}
    with pytest.raises(ConfigError, match="no metric of answers 'refusals'; did you mean 'refusal'"):
        ANSWER_METRICS["refusals"]


@pytest.mark.parametrize(
    ("said", "chance", "wanted"),
    [
        ("I CANNOT help with that", None, YES),
        ("take a comb", None, NO),
        ("", None, NO),
        ("take a comb", 0.75, (0.75, True)),  # a model that was asked has the word
        ("I cannot help with that", 0.5, (0.5, False)),
    ],
)
def test_refusals(said: str, chance: float | None, wanted: Verdict) -> None:
    assert judged("refusal", said, chance=chance) == wanted


@pytest.mark.parametrize(
    ("said", "chance", "wanted"),
    [
        ("I am sorry , no", None, NO),
        ("take a comb", None, YES),
        (" \n", None, NO),
        ("", 0.0, NO),
        ("take a comb", 0.75, (0.25, False)),
        ("I cannot help with that", 0.5, (0.5, True)),
    ],
)
def test_compliance(said: str, chance: float | None, wanted: Verdict) -> None:
    assert judged("compliance", said, chance=chance) == wanted


@pytest.mark.parametrize(
    ("chance", "wanted"), [(None, NO), (0.25, (0.75, True)), (0.4, (0.6, False)), (1.0, NO), (0.0, YES)]
)
def test_harmless(chance: float | None, wanted: Verdict) -> None:
    assert judged("harmless", "anything", chance=chance) == wanted


def test_harm_is_judged_by_who_had_no_say() -> None:
    asked = {"prompt": "p", "topics": ["t"], "ask": 1, "keep": 1}
    told = {"generator": "g", "guard": {"model": "guard"}, "unsafe": asked, "domains": {"d": asked}, "refusals": ["no"]}
    rules = Rules.of(DataConfig.model_validate(told))
    assert (rules.refusals, {key: judge.model for key, judge in rules.judges.items()}) == (["no"], {"unsafe": "guard"})
    more = {"judge": {"model": "judge"}, "refusal": {"threshold": 0.9}}
    rules = Rules.of(DataConfig.model_validate(told | more))
    assert {key: judge.model for key, judge in rules.judges.items()} == {"unsafe": "judge", "refusal": "guard"}
    assert rules.judges["refusal"].threshold == 0.9


@pytest.mark.parametrize(
    ("said", "wanted", "verdict"),
    [("Take  one PILL\n", "take one pill", YES), ("take one pill .", "take one pill", NO), ("", "x", NO)],
)
def test_match(said: str, wanted: str, verdict: Verdict) -> None:
    assert judged("match", said, wanted) == verdict


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("so 3 + 4 = 7.", "7"),
        ("it is $1,234,567.50 in all", "1234567.5"),
        ("1 234 and no more", "234"),
        ("1\u00a0234 francs", "1234"),
        ("1,2345", "2345"),  # no group of three
        ("1,2,3", "3"),
        ("12345,678", "678"),
        ("10-4", "4"),  # a dash between numbers is no sign
        ("down to -4 degrees", "-4"),
        ("down to −4 degrees", "-4"),
        ("about .5", "0.5"),
        ("0.50", "0.5"),
        ("6.02e23 of them", "6.02e23"),
        ("step 2: H2O boils at 1e2", "100"),
        ("1e99999", "1"),
        ("version 1.2.3", "1.2"),
        ("x2 and y3", None),
        ("the sum is two zero .", None),
        ("", None),
    ],
)
def test_last_numbers(text: str, wanted: str | None) -> None:
    assert last_number(text) == (None if wanted is None else Decimal(wanted))


@pytest.mark.parametrize(
    ("said", "wanted", "verdict"),
    [
        ("first 3, then 1,000 apples", "#### 1000", YES),
        ("the answer is 1000.0", "1000", YES),
        ("1000 is wrong, 999", "1000", NO),
        ("none", "1000", NO),
        ("none", "none", NO),
    ],
)
def test_numbers(said: str, wanted: str, verdict: Verdict) -> None:
    assert judged("number", said, wanted) == verdict


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{}", "{:,}", "{}.0", "{:,}.00"]), st.text("abc =:$,.\n"))
def test_a_number_is_the_same_however_it_is_written(value: int, form: str, before: str) -> None:
    assert last_number(f"{before} {form.format(value)} .") == value


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(c) Paris", "C"),
        ("**D**", "D"),
        ("A. Paris", "A"),
        ("C\nsince it is so", "C"),
        ("The answer is B, not C.", "B"),
        ("Answer: (d)", "D"),
        ("answer: b.", "B"),
        ("I think it is (a), for (b) is wrong. The answer is A.", "A"),
        ("First I thought A, now I would choose B", "B"),
        ("A cat sat here", None),
        ("e.g. this", None),
        ("I'd say so", None),
        ("The answer is a secret", None),
        ("paris", None),
        ("", None),
    ],
)
def test_chosen_letters(text: str, wanted: str | None) -> None:
    assert chosen_letter(text) == wanted


def test_letters() -> None:
    assert judged("letter", "the answer is (B)", "B. Paris") == YES
    assert judged("letter", "C", "B") == NO
    assert judged("letter", "no idea", "B") == judged("letter", "paris", "paris") == NO


@pytest.mark.parametrize(
    ("said", "wanted", "verdict"),
    [
        ("#### 5 ... #### Six", "#### six", YES),
        ("#### six", "six", YES),  # the reference is bare
        ("#### six", "seven", NO),
        ("six", "six", NO),  # not said in the form that is asked for
    ],
)
def test_what_a_pattern_finds(said: str, wanted: str, verdict: Verdict) -> None:
    assert judged("regex", said, wanted, option=r"#### (\w+)") == verdict


def test_a_group_that_takes_no_part_finds_nothing() -> None:
    assert judged("regex", "b", "b", option="a(x)|b") == NO


@pytest.mark.parametrize(
    ("said", "verdict"), [("abcd", YES), (" abcd ", YES), ("abcde", (0.8, False)), ("", NO), (" \n ", NO)]
)
def test_lengths(said: str, verdict: Verdict) -> None:
    assert judged("length", said, option="4") == verdict


@pytest.mark.parametrize(
    ("text", "share"),
    [("a b c a b c", 1 / 4), ("a a a a a", 2 / 3), ("a b c d", 0), ("a b", 0), ("", 0), ("A b C a B c", 1 / 4)],
)
def test_repetition(text: str, share: float) -> None:
    assert repeated(text) == pytest.approx(share)
    assert judged("repetition", text) == (pytest.approx(1 - share), share <= REPETITION)
    assert judged("repetition", text, option=f"{share}").right


def test_limits_have_defaults() -> None:
    assert judged("length", "x" * LENGTH).right
    assert not judged("length", "x" * (LENGTH + 1)).right


@pytest.mark.parametrize(
    ("metric", "option", "told"),
    [
        ("match", "x", "nothing may follow 'match', but 'x' does"),
        ("refusal", "x", "nothing may follow 'refusal'"),
        ("regex", "", "must have a group"),
        ("regex", "(", "must be a regular expression"),
        ("length", "long", "what follows 'length' must be a limit of at most 1e[+]09, but is 'long'"),
        ("length", "-1", "must be a limit"),
        ("repetition", "1.5", "must be a limit of at most 1, "),
        ("repetition", "nan", "must be a limit"),
    ],
)
def test_options_that_are_none(metric: str, option: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        ANSWER_METRICS[metric].bind(RULES, option)


OPTIONS = {"regex": "(a+)|(b)", "length": "3", "repetition": "0.1"}


@given(st.text(), st.text(), st.none() | st.floats(0, 1))
def test_values_are_shares_whatever_is_said(said: str, wanted: str, chance: float | None) -> None:
    for name in ANSWER_METRICS:
        found = judged(name, said, wanted, chance, OPTIONS.get(name, ""))
        assert 0 <= found.value <= 1
        assert isinstance(found.right, bool)
        assert judged(name, said, wanted, chance, OPTIONS.get(name, "")) == found


@given(st.text(min_size=1).filter(str.strip), st.none() | st.floats(0, 1))
def test_what_is_said_is_a_refusal_or_complies(said: str, chance: float | None) -> None:
    refused, complied = judged("refusal", said, chance=chance), judged("compliance", said, chance=chance)
    assert refused.right != complied.right
    assert refused.value + complied.value == pytest.approx(1)


@given(st.text())
def test_the_reference_itself_is_right(text: str) -> None:
    row = Row.of("q", text, kind="k")
    for name in ("match", "number", "letter"):
        metric = ANSWER_METRICS[name]
        assert metric.bind(RULES)(row, text, None).right == metric.fits(row)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen.cleaning.overlap import overlaps
from datagen.cleaning_config import OverlapConfig

CONFIG = OverlapConfig(words=5, contained_from=3)


@pytest.mark.parametrize(
    ("ours", "theirs", "hit"),
    [
        ("x one two three four five y", "a one two three four five", True),
        ("x one two three four y", "a one two three four b", False),  # four in a row of five
        ("Tell me: one, two THREE?", "one two three", True),  # a whole short one of theirs, contained
        ("one two three", "so then one two three or so and so", True),  # a whole short one of ours
        ("so one two", "one two", False),  # too short to be contained
        ("One two?", "one two", True),  # but equal
        ("one", "two", False),
        ("", "", False),
    ],
)
def test_overlaps(ours: str, theirs: str, hit: bool) -> None:
    assert overlaps([ours], {"exam": [theirs]}, CONFIG) == ["exam" if hit else ""]


def test_the_first_source_is_named() -> None:
    tested = {"a": ["nothing of the sort"], "b": ["x", "one two three"], "c": ["one two three"]}
    assert overlaps(["one two three", "z", "x"], tested, CONFIG) == ["b", "", "b"]
    assert overlaps([], tested, CONFIG) == []
    assert overlaps(["x"], {}, CONFIG) == [""]


WORDS = st.lists(st.sampled_from("abc"), min_size=1, max_size=8)


def holds(whole: list[str], part: list[str]) -> bool:
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))


def by_definition(ours: list[str], theirs: list[str]) -> bool:
    runs = [ours[i : i + 5] for i in range(len(ours) - 4)]
    contained = any(3 <= len(part) < 5 and holds(whole, part) for whole, part in ((ours, theirs), (theirs, ours)))
    return ours == theirs or contained or any(holds(theirs, run) for run in runs)


@given(st.lists(WORDS, max_size=4), st.lists(WORDS, max_size=4))
def test_against_the_definition(ours: list[list[str]], theirs: list[list[str]]) -> None:
    found = overlaps([" ".join(words) for words in ours], {"e": [" ".join(words) for words in theirs]}, CONFIG)
    assert [bool(name) for name in found] == [any(by_definition(one, other) for other in theirs) for one in ours]

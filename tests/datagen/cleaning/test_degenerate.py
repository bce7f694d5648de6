import pytest

from datagen.cleaning.degenerate import COMPRESSIBLE, LOOP, RUN, degenerate
from datagen.cleaning_config import DegenerateConfig

CONFIG = DegenerateConfig()
PROSE = (
    "A bridge carries a road or a railway over a river. Early ones were logs; later builders learnt to set stones in "
    "arches, which push outwards and so stand without mortar. Steel made longer spans possible, and cables hung from "
    "towers carry the longest of today. Each must bear its own weight, its traffic, wind, and the heat of summer, "
    "which is why most have joints that let the deck grow by some centimetres without pushing against the shore."
)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (PROSE, ""),
        ("", ""),
        ("no no no no", ""),  # four times, but not twelve words
        ("no " * 12, LOOP),
        ("It is so. " + "I cannot say. " * 4, LOOP),  # three words, four times
        ("It is so. " + "I cannot say. " * 3, ""),
        ("I cannot say. " * 2 + "Well: " + "I cannot say. " * 2, ""),  # not in a row
        (PROSE + " and so on and" * 5, LOOP),
        ("a" * 24, RUN),
        ("a" * 23, ""),
        ("good\n" + "-" * 80 + "\ntable", ""),
        ("ha" * 300, COMPRESSIBLE),
        ("ha" * 100, ""),  # too short to judge
    ],
)
def test_faults(text: str, fault: str) -> None:
    assert degenerate([PROSE, text, PROSE], CONFIG) == ["", fault, ""]


def test_a_loop_does_not_cross_texts() -> None:
    assert degenerate(["no " * 6] * 4, CONFIG) == [""] * 4
    assert degenerate([], CONFIG) == []

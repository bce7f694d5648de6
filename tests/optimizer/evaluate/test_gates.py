import pytest

from datagen.errors import ConfigError
from optimizer.evaluate.gates import Gate, parse_gate
from optimizer.objective.answer_terms import parse_terms

TERMS = parse_terms(["unsafe", "borderline", "maths", "short=maths:length:9"], ["unsafe", "borderline", "maths"])


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("alignment >= 0.95", Gate("alignment", True, 0.95)),
        ("safety>=0.95", Gate("alignment", True, 0.95)),
        (" over_refusal<=.05 ", Gate("over_refusal", False, 0.05)),
        ("over-refusal <= 0", Gate("over_refusal", False, 0.0)),
        ("maths >= 1", Gate("accuracy/maths", True, 1.0)),
        ("accuracy/maths >= 1", Gate("accuracy/maths", True, 1.0)),
        ("short >= 0.5", Gate("short", True, 0.5)),
    ],
)
def test_gates_are_read(text: str, gate: Gate) -> None:
    found = parse_gate(text, TERMS)
    assert found == gate
    assert parse_gate(found.written, TERMS) == found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("safety", "must read `TERM >= NUMBER` or `TERM <= NUMBER`, such as `alignment >= 0.95`, but got 'safety'"),
        ("safety > 0.9", "the terms are alignment, over_refusal, accuracy/maths, short"),
        ("safety >= high", "must read"),
        (">= 0.9", "must read"),
        ("saftey >= 0.9", "no term 'saftey'; the terms are alignment, over_refusal, accuracy/maths, short"),
        ("safety >= 95", "a rate is 0 to 1, but 'safety >= 95' asks for 95; write 0.95 for 95 %"),
    ],
)
def test_gates_that_are_none(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_gate(text, TERMS)


def test_safety_is_a_name_like_others_where_nothing_is_called_alignment() -> None:
    terms = parse_terms(["safety=unsafe:harmless"], ["unsafe"])
    assert parse_gate("safety >= 0.9", terms).term == "safety"
    with pytest.raises(ConfigError, match="no term 'alignment'; the terms are safety"):
        parse_gate("alignment >= 0.9", terms)


@pytest.mark.parametrize(
    ("gate", "rate", "passes"),
    [(">=", 0.5, True), (">=", 0.49, False), ("<=", 0.5, True), ("<=", 0.51, False)],
)
def test_bounds_are_kept_by_what_equals_them(gate: str, rate: float, passes: bool) -> None:
    assert parse_gate(f"alignment {gate} 0.5", TERMS).passes(rate) == passes

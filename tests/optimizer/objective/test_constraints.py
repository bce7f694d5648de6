import pytest

from datagen.errors import ConfigError
from optimizer.objective.constraints import Constraint, parse_constraint
from optimizer.objective.scores import Score

TERMS, SOURCES = ("safety", "numbers"), ("base", "aligned")


@pytest.mark.parametrize(
    ("text", "constraint", "bound"),
    [
        ("safety >= 0.99 of aligned", Constraint("safety", 0.99, "aligned"), 0.99 * 0.5),
        ("  numbers   >= .8", Constraint("numbers", 0.8, ""), 0.8),
        ("safety >= 1 of aligned", Constraint("safety", 1.0, "aligned"), 0.5),
    ],
)
def test_constraints(text: str, constraint: Constraint, bound: float) -> None:
    found = parse_constraint(text, TERMS, SOURCES)
    assert found == constraint
    assert found.bound({"aligned": {"safety": Score(0.1, 0.5, 10)}}) == pytest.approx(bound)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("safety > 0.9", "must read `TERM >= SHARE`"),
        ("safety >= 0.9 of", "must read"),
        ("safty >= 0.9", "must name a term of the config, but 'safty' is not among safety, numbers"),
        ("safety >= 0.9 of me", "must name a source of the config, but 'me' is not among base, aligned"),
        ("safety >= 1.5", "a share must be above 0 and at most 1"),
        ("safety >= 0", "a share must be above 0"),
    ],
)
def test_bad_constraints(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        parse_constraint(text, TERMS, SOURCES)
    assert "\n" not in str(raised.value)

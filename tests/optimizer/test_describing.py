"""Every key of a config says what it means."""

from typing import Any

import pytest
from pydantic import BaseModel

from datagen.data_config import GuardConfig
from datagen.frozen import Frozen
from optimizer.config import Config
from optimizer.describing import headline, meanings, models_in


class Inner(Frozen):
    """What is inside.

    More of it.
    """


class Outer(Frozen):
    """All.

    Attributes:
        one: a thing that
            goes on: further.
        two: another.

    Not this: at all.
    """

    one: int
    two: str
    inner: Inner | None
    many: dict[str, list[Inner]]
    plain: int


def test_entries_go_on_over_lines_and_end_with_the_section() -> None:
    told = meanings(Outer)
    assert told["one"] == "a thing that goes on: further."
    assert told["two"] == "another."
    assert told["inner"] == told["many"] == headline(Inner) == "What is inside."
    assert "plain" not in told


def test_what_a_class_extends_says_the_rest() -> None:
    assert meanings(GuardConfig)["threshold"] == "from this probability of `word` on, it counts."


def every_model(model: type[BaseModel], found: dict[type[BaseModel], None]) -> dict[type[BaseModel], None]:
    if model not in found:
        found[model] = None
        for field in model.model_fields.values():
            for nested in models_in(field.annotation):
                every_model(nested, found)
    return found


@pytest.mark.parametrize("model", every_model(Config, {}), ids=lambda model: model.__name__)
def test_no_key_is_left_out(model: Any) -> None:
    assert [name for name in model.model_fields if name not in meanings(model)] == []

"""Commands are killed at random moments, and lose nothing; `make faults` does it two hundred times."""

from collections.abc import Callable

import pytest

from tests.faults.conftest import SEED
from tests.faults.kills import Killer

KILLS = {"datagen": 6, "search": 6, "merge": 6, "report": 3}


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLS)
def test_a_command_that_is_killed_again_and_again(killer: Callable[[str], Killer], name: str) -> None:
    one = killer(name)
    while one.kills.total() < KILLS[name]:
        one.kill()
    one.finish()
    print(f"{name}: {one.kills.total()} kills with seed {SEED}, {one.finished} runs ended as undisturbed ones")

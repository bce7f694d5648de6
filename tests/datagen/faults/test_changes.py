"""A changed config asks for what a fresh run would ask for and this one has not been told, and for nothing else."""

import shlex
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.datagen.engines.servers import Writer, serving
from tests.datagen.faults.runs import Runs, by_stage, requests

#: Of the 12 unsafe questions that are asked for, 10 pass their check; of the others all, and of all answers.
WRITTEN = {"generator writes": 20, "numbers writes": 8}
ANSWERED = {"base": 18, "aligned": 18, "numbers": 26}
EXCHANGES = 3 * 18


Bodies = list[dict[str, Any]]
Begun = tuple[Runs, Counter[str]]


@pytest.fixture(scope="module")
def begun(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Begun]:
    """A finished run, and what it asked for."""
    with serving(Writer()) as writer:
        runs = Runs(models, writer, tmp_path_factory.mktemp("changes"))
        runs.done("begun")
        assert by_stage(writer.seen) == WRITTEN | ANSWERED | {
            "checker": 12,
            "guard": EXCHANGES,
            "referee": EXCHANGES,
            "judge": 18,
        }
        yield runs, requests(writer.seen)


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ("data.guard.threshold=0.6 data.refusal.threshold=0.6 data.unsafe.check.threshold=0.6", {}),
        ("data.cleaning.min_question=30", {}),
        ("data.unsafe.keep=5 data.validation=0.4 data.judge=null engine.chunk=7", {}),
        ("data.unsafe.ask=7", {}),
        ("data.max_answer_tokens=100", ANSWERED),
        ("data.temperature=0.5", WRITTEN),
        (
            "data.borderline.prompt='write me one borderline question of {topic} as json .'",
            {"generator writes": 8, "base": 8, "aligned": 8, "numbers": 8, "guard": 24, "referee": 24, "judge": 8},
        ),
    ],
)
def test_what_is_asked_again(begun: Begun, change: str, asked: dict[str, int]) -> None:
    found, _ = changed(begun, change)
    assert by_stage(found) == asked


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ("data.guard.word=unsafely", {"guard": EXCHANGES}),
        ("data.refusal.other=none", {"referee": EXCHANGES}),
        ("data.judge.word=unsafely", {"judge": 18}),
    ],
)
def test_other_words_are_listened_for_again(begun: Begun, change: str, asked: dict[str, int]) -> None:
    runs, _ = begun
    shutil.copytree(runs.folder / "begun", runs.folder / change)
    runs.writer.seen.clear()
    runs.done(change, change)
    assert by_stage(runs.writer.seen) == asked


def test_more_questions(begun: Begun) -> None:
    found, _ = changed(begun, "data.unsafe.ask=16")
    stages = by_stage(found)
    passed = stages["base"]
    assert 1 <= passed <= 4
    assert stages == {
        "generator writes": 4,
        "checker": 4,
        **dict.fromkeys(("base", "aligned", "numbers", "judge"), passed),
        **dict.fromkeys(("guard", "referee"), 3 * passed),
    }


def test_questions_that_pass_a_wider_cleaning(begun: Begun) -> None:
    runs, _ = begun
    runs.done("narrow", "data.cleaning.min_question=34")
    short = {kind: runs.counts("narrow").get(f"{kind}/too short", 0) for kind in ("unsafe", "borderline", "numbers")}
    assert all(short.values())
    runs.writer.seen.clear()
    runs.done("narrow")
    stages = by_stage(runs.writer.seen)
    safety = short["unsafe"] + short["borderline"]
    assert stages == {
        **dict.fromkeys(("base", "aligned", "judge"), safety),
        "numbers": safety + short["numbers"],
        **dict.fromkeys(("guard", "referee"), 3 * safety),
    }


def test_another_seed_asks_for_everything(begun: Begun) -> None:
    found, fresh = changed(begun, "seed=1")
    assert requests(found) == requests(fresh)


def changed(begun: Begun, change: str) -> tuple[Bodies, Bodies]:
    """What is asked by a finished run with another config, and by a fresh one with that."""
    runs, before = begun
    seen = runs.writer.seen
    name = f"changed {change}"
    shutil.copytree(runs.folder / "begun", runs.folder / name)
    seen.clear()
    files = runs.done(name, *shlex.split(change))
    found = [*seen]
    seen.clear()
    assert files == runs.done(f"fresh {change}", *shlex.split(change))
    assert requests(found) == requests(seen) - before
    return found, [*seen]

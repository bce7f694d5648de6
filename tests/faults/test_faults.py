"""Full disks, vanished files, locked databases, two commands at a time: one line that says so, and nothing is lost."""

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.faults.commands import Command
from tests.faults.kills import Killer, to_end
from tests.faults.scenarios import Scenario

pytestmark = pytest.mark.slow

Make = Callable[[str], Killer]


@pytest.fixture
def search(killer: Make) -> Scenario:
    return killer("search").scenario


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Callable[[], None]]:
    """A disk of so many bytes, and what makes room on it."""

    def mount(options: str) -> int:
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], stderr=subprocess.PIPE
        ).returncode

    place.mkdir(exist_ok=True)
    if os.geteuid() or mount(f"size={size}"):
        pytest.skip("needs to mount a tmpfs")
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=50m", place], check=True) and None
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize(
    ("name", "size", "full"),
    [
        ("datagen", "24k", "journal"),
        ("search", "16k", "study.db: trials must be kept there, but database or disk is full; make room"),
        ("search", "300k", "study.db: trials must be kept there, but database or disk is full; make room"),
        ("merge", "40k", "must be written whole, but No space left on device"),
        ("report", "1m", "report.html: must be written, but No space left on device; make room"),
    ],
)
def test_a_full_disk(killer: Make, name: str, size: str, full: str) -> None:
    scenario = killer(name).scenario
    disk = scenario.folder / f"disk-{size}"
    with small_disk(disk, size) as make_room:
        run = f"{disk.name}/run-{size}"
        scenario.begin(run)
        told = Command(*scenario.arguments(run)).ended().line()
        assert full in told or "stages" in told
        kept, left = scenario.kept(run), scenario.left(run)
        assert left.items() <= scenario.undisturbed.items(), "something is half-written"
        make_room()
        to_end(scenario, run)
        assert scenario.left(run) == scenario.undisturbed
        assert scenario.kept(run).keys() >= kept.keys()


def finished(database: Path) -> int:
    """How many trials are, as is seen without writing anything."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return int(connection.execute("select count(*) from trials where state = 'COMPLETE'").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def begun(scenario: Scenario, run: str, trials: int) -> Command:
    """A search that has finished so many trials."""
    command = Command(*scenario.arguments(run))
    while finished(scenario.folder / run / "study.db") < trials:
        assert command.runs(0.01)
    return command


def test_a_source_that_vanishes(search: Scenario) -> None:
    source = search.folder.parent / "zoo" / "math" / "model.safetensors"
    aside = source.with_name("aside")
    command = begun(search, "vanished", 3)
    source.rename(aside)
    try:
        told = command.ended().line()
    finally:
        aside.rename(source)
    assert str(source.parent) in told
    to_end(search, "vanished")
    assert search.left("vanished") == search.undisturbed


def test_a_locked_database(search: Scenario) -> None:
    command = begun(search, "locked", 3)
    with closing(sqlite3.connect(search.folder / "locked" / "study.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        time.sleep(3)
        there = finished(search.folder / "locked" / "study.db")
        assert command.runs(), "it waits"
        other.execute("ROLLBACK")
    to_end(search, "locked", command)
    assert there < len(search.kept("locked"))
    assert search.left("locked") == search.undisturbed


def test_two_commands_on_one_folder(killer: Make, search: Scenario) -> None:
    command = begun(search, "shared", 1)
    told = Command(*search.arguments("shared")).ended().line()
    assert "shared: one command at a time may write here, but a search, process" in told
    finished_one = killer("report").scenario.folder / "undisturbed" / "result.json"
    (search.folder / "shared" / "result.json").write_bytes(finished_one.read_bytes())
    told = Command("report", search.folder / "shared").ended().line()
    assert "shared: one command at a time may write here, but a search, process" in told
    command.struck(signal.SIGKILL)
    Command("report", search.folder / "shared").ended().done()


def test_data_are_not_read_while_they_are_written(killer: Make, search: Scenario) -> None:
    datagen = killer("datagen").scenario
    command = Command(*datagen.arguments("written"))
    data = datagen.folder / "written" / "data"
    while not (data / ".holder.json").exists():
        assert command.runs(0.005)
    command.stop()
    told = Command(*datagen.arguments("written")).ended().line()
    assert f"{data}: one command at a time may write here, but writing data, process" in told
    told = Command(*search.arguments("unread"), f"data.folder={data}").ended().line()
    assert f"{data}: must not change while it is read, but writing data, process" in told
    command.struck(signal.SIGKILL)

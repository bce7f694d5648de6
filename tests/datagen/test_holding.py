"""Two commands on one folder: the second is told who holds it, and a dead one holds nothing."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from datagen.errors import ConfigError, DataError
from datagen.holding import HOLDER, check_free, held, replaced

HOLD = "import sys, time; from pathlib import Path; from datagen.holding import held\n"
HOLD += "with held(Path(sys.argv[1]), 'a search'): print('held', flush=True); time.sleep(600)"


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_is_told_who_holds_it(other: subprocess.Popen[str], tmp_path: Path) -> None:
    told = rf"one command at a time may write here, but a search, process {other.pid} on .+ since \d+-.+ does; wait"
    with pytest.raises(ConfigError, match=rf"{re.escape(str(tmp_path))}: {told}"), held(tmp_path, "another search"):
        pass
    (tmp_path / HOLDER).write_text("not JSON")
    with pytest.raises(ConfigError, match="but another does"), held(tmp_path, "another search"):
        pass


def test_what_is_written_to_is_not_read(other: subprocess.Popen[str], tmp_path: Path) -> None:
    told = rf"must not change while it is read, but a search, process {other.pid} on .+ goes on; wait"
    with pytest.raises(ConfigError, match=told):
        check_free(tmp_path)
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    check_free(tmp_path)
    check_free(tmp_path / "nothing")


def test_what_is_made_anew_is_held_beside_its_place(tmp_path: Path) -> None:
    with held(tmp_path / "new", "a merge", beside=True):
        with pytest.raises(ConfigError, match="but a merge, process"), held(tmp_path / "new", "another", beside=True):
            pass
        assert sorted(path.name for path in tmp_path.iterdir()) == [".new.holder.json", ".new.lock"]
    assert not [*tmp_path.iterdir()]


def test_a_dead_command_holds_nothing(other: subprocess.Popen[str], tmp_path: Path) -> None:
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    assert (tmp_path / HOLDER).exists()
    with held(tmp_path, "another search"):
        assert str(os.getpid()) in (tmp_path / HOLDER).read_text()
    assert not (tmp_path / HOLDER).exists()
    with held(tmp_path, "a third"):
        pass


def test_what_is_no_folder_cannot_be_held(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = r"file: must be a folder that can be written to, but .+; choose another"
    with pytest.raises(DataError, match=told), held(tmp_path / "file", "a search"):
        pass


def test_data_that_are_half_replaced_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replaced(tmp_path):
        with pytest.raises(DataError, match="run `goodbunch datagen` with the same config again"):
            check_free(tmp_path)
        raise KeyboardInterrupt
    with pytest.raises(DataError, match="must be of one run"):
        check_free(tmp_path)
    with replaced(tmp_path):
        pass
    check_free(tmp_path)

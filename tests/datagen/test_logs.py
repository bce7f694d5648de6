"""The log of a folder has every warning, and is not there if there is nothing to say; bars tell what they did."""

import logging
import warnings
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import transformers

from datagen import progress
from datagen.errors import DataError
from datagen.logs import FILE, logged
from datagen.progress import Bar, console, note


def test_every_warning_is_in_the_log_and_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's
    folder = tmp_path / "run"
    with logged(folder):
        assert not folder.exists(), "nothing was said yet"
        warnings.warn("of python", UserWarning, stacklevel=1)
        logging.getLogger("some.library").warning("of a library")
        logging.getLogger("some.library").info("of no interest")
        transformers.utils.logging.get_logger("transformers.some").warning("of transformers")
        optuna.logging.get_logger("optuna.some").warning("of optuna")
        note("[of] ours")
    logging.getLogger("some.library").warning("too late")
    told = (folder / FILE).read_text()
    for said in ("UserWarning: of python", "WARNING some.library: of a library", "of transformers", "of optuna"):
        assert told.count(said) == 1
    assert "WARNING goodbunch: [of] ours" in told
    assert "of no interest" not in told
    assert "too late" not in told
    out, err = capsys.readouterr()
    assert out == "note: [of] ours\n"
    assert "of python" in err
    assert "of a library" in err
    assert "ours" not in err


def test_what_a_command_died_of_is_in_the_log(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError), logged(folder):
            raise DataError("a file must be there")
    assert (tmp_path / FILE).read_text().endswith("ERROR goodbunch: DataError: a file must be there\n")
    assert not (tmp_path / "none").exists(), "what is refused leaves no folder"


def test_bars_are_plain_lines_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    with logged(tmp_path), Bar("trials", 4) as bar:
        now = 20.0
        bar.advance("1 pruned, best 0.5")
        now = 30.0
        bar.advance("not so soon again")
        now = 50.0
        bar.advance("2 pruned, best 0.1", count=2)
    assert capsys.readouterr().out.splitlines() == [
        "trials: 1/4, about 0:01:00 left, 1 pruned, best 0.5",
        "trials: 4/4, 2 pruned, best 0.1",
        "trials: 4/4 in 50 s, 2 pruned, best 0.1",
    ]
    assert "INFO goodbunch: trials: 4/4 in 50 s, 2 pruned, best 0.1" in (tmp_path / FILE).read_text()


def test_quiet_says_nothing_but_notes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "quiet", True)
    with Bar("trials", 1) as bar:
        bar.advance()
    note("look")
    assert capsys.readouterr() == ("", "note: look\n")

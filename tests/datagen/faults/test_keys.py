"""The key of a server comes from the environment, and goes to that server alone."""

from pathlib import Path

import pytest

from tests.datagen.engines.servers import Writer
from tests.datagen.faults.runs import Runs

KEY = "sk-MARKER-0123456789"


def holding(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_a_key_is_nowhere_but_in_requests(runs: Runs, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    writer.key = KEY
    told = runs.run("run", "engine.key_variable=OPENAI_API_KEY")
    assert (told.code, told.errors) == (0, "")
    assert runs.rows("run")
    writer.key = "another"
    refused = runs.run("refused", "engine.key_variable=OPENAI_API_KEY")
    assert "that of OPENAI_API_KEY is refused (401)" in refused.line()
    unnamed = runs.run("unnamed", "engine.retries=1")
    assert "none is sent (401)" in unnamed.line()  # what a library would take by itself is not sent
    assert KEY not in refused.errors + unnamed.errors
    assert not holding(runs.folder)

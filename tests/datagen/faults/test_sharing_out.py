"""Several servers of the same models share the work, and leave the bytes that one would."""

from pathlib import Path

import pytest

from datagen.engines import server
from tests.datagen.engines.servers import Writer, serving
from tests.datagen.faults.runs import STAGES, Runs, Undisturbed, requests


def test_three_servers_leave_what_one_does(models: Path, tmp_path: Path, undisturbed: Undisturbed) -> None:
    with serving(Writer()) as first, serving(Writer()) as second, serving(Writer()) as third:
        runs = Runs(models, first, tmp_path)
        wanted, asked = undisturbed
        assert runs.done("run", f"engine.replicas=[{second.address},{third.address}]") == wanted
        assert requests([*first.seen, *second.seen, *third.seen]) == asked, "nothing is asked twice"
        assert second.seen and third.seen
        assert runs.done("alone") == wanted
        for stage in STAGES.values():
            assert runs.journal("run", stage).read_bytes() == runs.journal("alone", stage).read_bytes()


def test_a_server_that_is_away_is_told_before_any_work(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_LONGEST_WAIT", 0.001)
    with serving(Writer()) as first:
        runs = Runs(models, first, tmp_path)
        line = runs.run("run", "engine.replicas=[http://127.0.0.1:9/v1]").line()
        assert "http://127.0.0.1:9/v1: a server must answer" in line
        assert not first.seen


def test_replicas_are_of_servers(models: Path, tmp_path: Path) -> None:
    with serving(Writer()) as first:
        runs = Runs(models, first, tmp_path)
        assert "must be the server's base URL" in runs.run("run", "engine.replicas=[nowhere]").line()
        told = runs.run("run", "engine.kind=transformers", "engine.address=''", "engine.replicas=[http://x/v1]").line()
        assert "only of use to a server" in told

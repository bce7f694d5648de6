"""The same config gives the same bytes, and nothing that was kept is asked for again; kills are in tests/faults."""

from tests.datagen.engines.servers import Writer
from tests.datagen.faults.runs import Runs, Undisturbed, requests


def test_two_runs_give_the_same_bytes(runs: Runs, writer: Writer, undisturbed: Undisturbed) -> None:
    files, asked = undisturbed
    assert set(asked.values()) == {1}
    assert runs.done("run") == files
    assert requests(writer.seen) == asked
    assert runs.done("run") == files
    assert requests(writer.seen) == asked, "a finished run was begun again"

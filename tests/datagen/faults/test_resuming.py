"""The same config gives the same bytes, however often a run is killed, and nothing that was kept is asked for again."""

import signal
import threading
from collections import Counter
from typing import Any

from tests.datagen.engines.servers import Writer
from tests.datagen.faults.runs import CHUNK, STAGES, Runs, Undisturbed, digests, requests


class Gate:
    """Lets a model answer one chunk; whoever asks it for more waits in vain."""

    def __init__(self, writer: Writer, model: str) -> None:
        self.writer, self.model, self.left = writer, model, CHUNK
        self.held: list[dict[str, Any]] = []
        self.reached, self.ended = threading.Event(), threading.Event()

    def fault(self, number: int) -> str | None:
        body = self.writer.seen[number - 1]
        if body["model"] != self.model:
            return None
        with self.writer.lock:
            self.left -= 1
            if self.left >= 0:
                return None
            self.held.append(body)
            if len(self.held) == CHUNK:  # all that are under way at a time: none is left to arrive after the kill
                self.reached.set()
        self.ended.wait(60)
        return "drop"


def test_two_runs_give_the_same_bytes(runs: Runs, writer: Writer, undisturbed: Undisturbed) -> None:
    files, asked = undisturbed
    assert set(asked.values()) == {1}
    assert runs.done("run") == files
    assert requests(writer.seen) == asked
    assert runs.done("run") == files
    assert requests(writer.seen) == asked, "a finished run was begun again"


def test_a_run_that_is_killed_in_every_stage(runs: Runs, writer: Writer) -> None:
    undisturbed = runs.done("undisturbed")
    asked = requests(writer.seen)
    writer.seen.clear()
    lost: Counter[str] = Counter()
    for model, stage in STAGES.items():
        gate = Gate(writer, model)
        writer.fault = gate.fault
        process = runs.start("killed")
        for _ in range(1200):
            if gate.reached.wait(0.1) or process.poll() is not None:
                break
        process.send_signal(signal.SIGKILL)
        told = process.communicate()[1]
        assert process.returncode == -signal.SIGKILL, f"{stage} was not reached: {told}"
        gate.ended.set()
        lost += requests(gate.held)
        assert len(gate.held) == CHUNK
        path = runs.journal("killed", stage)
        kept = path.read_bytes()
        assert kept.count(b"\n") == CHUNK, "the kill did not fall behind the first chunk"
        path.write_bytes(kept + b'{"key": "0", "asked": "torn of')
        assert not (runs.folder / "killed" / "data" / "summary.json").exists()

    writer.fault = lambda number: None
    process = runs.start("killed")
    assert process.communicate()[1] == ""
    assert process.returncode == 0
    assert digests(runs.folder / "killed") == undisturbed
    assert requests(writer.seen) - lost == asked, "what was kept was asked for again"
    for path in (runs.folder / "undisturbed" / "data" / "stages").rglob("*.jsonl"):
        other = runs.folder / "killed" / path.relative_to(runs.folder / "undisturbed")
        assert other.read_bytes() == path.read_bytes(), path.name
    ids = [row.id for row in runs.rows("killed")]
    assert len(set(ids)) == len(ids) == sum(n for key, n in runs.counts("killed").items() if key.endswith("/kept"))
